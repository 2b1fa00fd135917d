"""What tables of runs show and sort by: each config key and each metric of a run as a row.

Derived from `Job.keys` and `Job.summary`, and written with them, in one transaction. A database
finds and sorts ten thousand runs by a number that has an index; not by one within JSON, which each
of them would have to be read and parsed for.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from experiments.metrics import values_of
from experiments.models.project import Project

MAX_NAME_CHARACTERS = 255
#: Of a value; a table's cell shows no more, and a query compares no more.
MAX_TEXT_CHARACTERS = 200
MAX_KEYS = 1000


class Kind(models.TextChoices):
    KEY = "key", _("config key")
    METRIC = "metric", _("metric")


@dataclass(frozen=True)
class Value:
    """Of a config key its text, and its number where it is one; of a metric three numbers."""

    number: float | None = None  # of a metric: the last
    low: float | None = None
    high: float | None = None
    text: str = ""


class ColumnQuerySet(models.QuerySet):
    def visible_to(self, user: Any) -> "ColumnQuerySet":
        return self.filter(project__in=Project.objects.visible_to(user))


class Column(models.Model):
    """A config key or a metric that some run of the project has."""

    project = models.ForeignKey(
        Project, models.CASCADE, related_name="columns", db_index=False, editable=False
    )
    kind = models.CharField(max_length=6, choices=Kind, editable=False)
    name = models.CharField(max_length=MAX_NAME_CHARACTERS, editable=False)
    #: Of a key: the first value that a run had, and whether another one had another.
    first = models.CharField(max_length=MAX_TEXT_CHARACTERS, blank=True, editable=False)
    varies = models.BooleanField(default=False, editable=False)

    objects = ColumnQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["project", "kind", "name"], name="column_name"),
            models.CheckConstraint(condition=models.Q(kind__in=Kind.values), name="column_kind"),
        ]

    def __str__(self) -> str:
        return self.name


#: Of each job, by its key, what is to be written.
Values = Mapping[int, Mapping[str, Value]]


class CellManager(models.Manager):
    def note_keys(self, job: Any) -> None:
        """Write the keys of a job's config, once, with the job."""
        self._note(job.project_id, Kind.KEY, {job.pk: values_of_keys(job.keys)})

    def note_keys_anew(self, job: Any) -> None:
        """The same of one whose config is another by now: what it names no more goes."""
        self.filter(job=job, column__kind=Kind.KEY).delete()
        self.note_keys(job)

    def note_all(self, jobs: Iterable[Any]) -> None:
        """Write the keys and the metrics of jobs that were made together, in few statements."""
        by_project: dict[int, list[Any]] = defaultdict(list)
        for job in jobs:
            by_project[job.project_id].append(job)
        for project, some in by_project.items():
            self._note(project, Kind.KEY, {job.pk: values_of_keys(job.keys) for job in some})
            self._note(
                project, Kind.METRIC, {job.pk: _stored(values_of(job.summary)) for job in some}
            )

    def note_metrics(self, job: Any, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Write what has changed of a job's metrics.

        Args:
            before, now: of each metric its last, lowest and highest value.
        """
        changed = {name: values for name, values in now.items() if before.get(name) != values}
        self._note(job.project_id, Kind.METRIC, {job.pk: _stored(changed)})
        gone = {stored_name(name) for name in before.keys() - now.keys()}
        if gone:
            self.filter(job=job, column__kind=Kind.METRIC, column__name__in=gone).delete()

    def _note(self, project: int, kind: Kind, values: Values) -> None:
        firsts: dict[str, Value] = {}
        for some in values.values():
            firsts = {**some, **firsts}
        if not firsts:
            return
        ids = self._columns(project, kind, firsts)
        self._write(ids, values)
        if kind == Kind.KEY:
            self._note_varying(ids, values)

    def _columns(self, project: int, kind: Kind, values: Mapping[str, Value]) -> dict[str, int]:
        """The column of each name, made where there is none. Sorted, as two that make the same
        columns in another order would wait for each other."""
        known = self._known(project, kind, values)
        missing = [
            Column(project_id=project, kind=kind, name=name, first=values[name].text)
            for name in sorted(values.keys() - known.keys())
        ]
        if not missing:
            return known
        Column.objects.bulk_create(missing, ignore_conflicts=True)
        return self._known(project, kind, values)

    @staticmethod
    def _known(project: int, kind: Kind, names: Iterable[str]) -> dict[str, int]:
        columns = Column.objects.filter(project=project, kind=kind, name__in=list(names))
        return dict(columns.values_list("name", "pk"))

    @staticmethod
    def _note_varying(ids: Mapping[str, int], values: Values) -> None:
        texts: dict[str, set[str]] = defaultdict(set)
        for some in values.values():
            for name, value in some.items():
                texts[name].add(value.text)
        differing = [
            column.pk
            for column in Column.objects.filter(pk__in=ids.values(), varies=False)
            if texts[column.name] != {column.first}
        ]
        if differing:
            Column.objects.filter(pk__in=differing).update(varies=True)

    def _write(self, ids: Mapping[str, int], values: Values) -> None:
        cells = [
            Cell(
                job_id=job, column_id=ids[name], number=value.number, low=value.low,
                high=value.high, text=value.text,
                folded=value.text.casefold()[:MAX_TEXT_CHARACTERS],
            )
            for job, some in values.items()
            for name, value in some.items()
        ]  # fmt: skip
        self.bulk_create(
            cells,
            update_conflicts=True,
            unique_fields=["job", "column"],
            update_fields=["number", "low", "high", "text", "folded"],
        )


class Cell(models.Model):
    """The value of a run in a column."""

    job = models.ForeignKey(
        "experiments.Job", models.CASCADE, related_name="cells", db_index=False, editable=False
    )
    column = models.ForeignKey(
        Column, models.CASCADE, related_name="cells", db_index=False, editable=False
    )
    number = models.FloatField(null=True, editable=False)  # finite; of a metric: the last
    low = models.FloatField(null=True, editable=False)
    high = models.FloatField(null=True, editable=False)
    text = models.CharField(max_length=MAX_TEXT_CHARACTERS, blank=True, editable=False)
    folded = models.CharField(max_length=MAX_TEXT_CHARACTERS, blank=True, editable=False)

    objects = CellManager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["job", "column"], name="cell_of_job")]
        # No number is in it: those of a run that goes on change each second, all at once, and
        # each would be a page of its own to write.
        indexes = [models.Index(fields=["column", "job"], name="cell_column")]

    def __str__(self) -> str:
        return self.text or str(self.number)


def _stored(metrics: Mapping[str, tuple[float | None, ...]]) -> dict[str, Value]:
    return {stored_name(name): Value(*values) for name, values in metrics.items()}


def stored_name(name: str) -> str:
    return clean(name)[:MAX_NAME_CHARACTERS]


def clean(text: str) -> str:
    """In a form that every database holds: PostgreSQL knows no NUL, and UTF-8 no half a pair."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def values_of_keys(keys: Mapping[str, Any]) -> dict[str, Value]:
    """A config's keys, those of mappings with dots between; of two of one name the first."""
    found: dict[str, Value] = {}
    for path, value in _leaves("", keys):
        if len(found) >= MAX_KEYS:
            break
        found.setdefault(stored_name(path), value_of(value))
    return found


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), inner)
    elif path:
        yield path, value


def value_of(value: Any) -> Value:
    """Any value of a config; a text that is a number (1e-4 is none to YAML) counts as one."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = clean(text)[:MAX_TEXT_CHARACTERS]
    return Value(number=None if isinstance(value, bool) else number_of(text), text=text)


def number_of(text: str) -> float | None:
    """The finite number that the text is; None: it is none. `1_000` and `٣` are none."""
    if not text.isascii() or "_" in text:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
