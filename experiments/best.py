"""The best that a project's runs have reached in its main metric, and when they were queued."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, F, FloatField, Func, Max, Min, QuerySet
from django.db.models.functions import Coalesce, TruncDate
from django.utils.timezone import get_default_timezone

from experiments.models import Goal, Job, Project
from labsite.clock import lab_date

#: So many days of a project's activity are shown.
DAYS = 30


class Extreme(Func):
    """`summary[*folder][goal][metric]`, whose last two names stand in the project's row.

    A metric's name has no quotes (experiments.models.project.check_metric), so that it is a part
    of SQLite's path and nothing more.
    """

    output_field = FloatField()

    def __init__(self, *folder: str) -> None:
        super().__init__(F("summary"), F("project__main_metric_goal"), F("project__main_metric"))
        self._folder = folder

    def as_sqlite(self, compiler: Any, connection: Any, **more: Any) -> Any:
        (summary, _), (goal, _), (metric, _) = map(compiler.compile, self.source_expressions)
        beginning = ".".join(["$", *self._folder, ""])
        return (
            f"""json_extract({summary}, '{beginning}' || {goal} || '."' || {metric} || '"')""",
            [],
        )

    def as_postgresql(self, compiler: Any, connection: Any, **more: Any) -> Any:
        (summary, _), (goal, _), (metric, _) = map(compiler.compile, self.source_expressions)
        path = ", ".join([*(f"'{name}'" for name in self._folder), goal, metric])
        return f"({summary} #>> ARRAY[{path}])::float8", []


def best_of(projects: QuerySet[Project]) -> dict[int, float]:
    """Of each that names a main metric and has a value of it: the best, by its key. One query."""
    value = Coalesce(Extreme(), Extreme("others"))
    rows = (
        Job.objects.present()
        .filter(project__in=projects)
        .exclude(project__main_metric="")
        .order_by()
        .values("project", "project__main_metric_goal")
        .annotate(highest=Max(value), lowest=Min(value))
    )
    found = {
        row["project"]: row[
            "highest" if row["project__main_metric_goal"] == Goal.MAX else "lowest"
        ]
        for row in rows
    }
    return {key: value for key, value in found.items() if value is not None}


def activity_of(projects: QuerySet[Project], now: datetime) -> dict[int, list[int]]:
    """By a project's key: how many runs were queued on each of the lab's last days. One query.

    Projects without any are left out.
    """
    today = lab_date(now)
    rows = (
        Job.objects.filter(project__in=projects, submitted_at__gte=now - timedelta(days=DAYS))
        .order_by()
        .annotate(day=TruncDate("submitted_at", tzinfo=get_default_timezone()))
        .values("project", "day")
        .annotate(count=Count("pk"))
    )
    return _by_day(rows.values_list("project", "day", "count"), today)


def _by_day(rows: Iterable[tuple[int, Any, int]], today: Any) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for project, day, count in rows:
        days_ago = (today - day).days
        if 0 <= days_ago < DAYS:
            found.setdefault(project, [0] * DAYS)[DAYS - 1 - days_ago] = count
    return found
