"""Runs beside each other: their curves in one chart for each metric, the config keys in which they
differ, and the last and best values."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from experiments.metrics import better, values_of
from experiments.models import Job, Project
from experiments.models.cell import values_of_keys
from labsite.clock import database_now
from labsite.pages import codebeside, ranin
from labsite.pages.access import asked
from labsite.pages.queue import Line, lines
from sync.curves import shown

MOST_RUNS = 300
#: So many runs' curves are read for one answer, and so many points of all of them together drawn.
AT_ONCE = 12
ALL_POINTS = 30_000
MOST_METRICS_AT_ONCE = 24
#: Metrics that are charted at first, and rows of each table.
CHARTED = 4
MOST_ROWS = 400
COLOURS = 8
PARTS = {"runs": "parts/compared.html", "tables": "parts/compared_tables.html"}


@dataclass(frozen=True)
class Compared:
    line: Line
    colour: int  # 1 to 8, and then from the first again
    without: str  # the address without this run

    @property
    def job(self) -> Job:
        return self.line.job


@dataclass(frozen=True)
class KeyRow:
    name: str
    values: list[str]  # of each run; empty: it has none
    differs: bool


@dataclass(frozen=True)
class MetricRow:
    name: str
    side: str  # "best", "last"
    label: str
    cells: list[tuple[float | None, bool]]  # of each run its value, and whether it is the best


@login_required
@require_safe
def compare(request: HttpRequest) -> HttpResponse:
    """`runs` are identifiers with commas between; one that is not there is named."""
    uids = _uids(request)
    found = _jobs(request, uids)
    compared = _compared(request, uids, found)
    jobs = [found[one.job.uid] for one in compared]
    keys = _key_rows(jobs)
    ran_in = ranin.compared(jobs) if request.GET.get("part") != "runs" else []
    metrics = [values_of(job.summary) for job in jobs]
    projects = {job.project for job in jobs}
    better_of, names = _better_of(projects), _main_first(_names(metrics), projects)
    context = {
        "compared": compared,
        "missing": [uid for uid in uids if uid not in found],
        "left_out": max(0, len(_asked_uids(request)) - MOST_RUNS),
        "keys": [row for row in keys if row.differs or "all" in request.GET][:MOST_ROWS],
        "same": sum(not row.differs for row in keys),
        "all_keys": "all" in request.GET,
        "ran_in": ran_in,
        "code": codebeside.differing(jobs) if request.GET.get("part") != "runs" else [],
        "metrics": _metric_rows(names, metrics, better_of)[:MOST_ROWS],
        "names": names,
        "charted": _charted(request, names, better_of),
        "uids": ",".join(one.job.uid for one in compared),
        "at_once": AT_ONCE,
        "several": len({job.project_id for job in jobs}) > 1,
    }
    return render(request, PARTS.get(request.GET.get("part", ""), "pages/compare.html"), context)


@login_required
@require_safe
def curves(request: HttpRequest) -> JsonResponse:
    """Of some runs (AT_ONCE at most) the curves of some metrics.

    {"runs": [{"uid": "…", "live": true, "more": false,
               "curves": {"val_loss": {"at": […], "values": […], "axes": {"step": […]}}}}]}
    """
    uids = _uids(request)[:AT_ONCE]
    names = request.GET.getlist("metric")[:MOST_METRICS_AT_ONCE]
    of_all = int(total) if (total := asked(request, "of")).isdecimal() and len(total) < 5 else 1
    limit = max(60, min(1000, ALL_POINTS // max(1, of_all, len(uids))))
    found = _jobs(request, uids)
    answers = []
    for uid in (uid for uid in uids if uid in found):
        job = found[uid]
        drawn, more = shown.of_metrics(job, names, limit)
        answers.append({"uid": uid, "live": not job.has_ended, "more": more, "curves": drawn})
    return JsonResponse({"runs": answers}, headers={"Cache-Control": "no-store"})


def _asked_uids(request: HttpRequest) -> list[str]:
    words = asked(request, "runs").replace(" ", ",").split(",")
    return list(dict.fromkeys(word[:32] for word in words if word))


def _uids(request: HttpRequest) -> list[str]:
    return _asked_uids(request)[:MOST_RUNS]


def _jobs(request: HttpRequest, uids: Sequence[str]) -> dict[str, Job]:
    """Those that are there and that the reader may see."""
    visible = Job.objects.visible_to(request.user).present().filter(uid__in=uids)
    return {
        job.uid: job
        for job in visible.select_related("project", "user", "snapshot").defer("config")
    }


def _compared(request: HttpRequest, uids: list[str], found: dict[str, Job]) -> list[Compared]:
    jobs = Job.objects.filter(pk__in=[job.pk for job in found.values()])
    jobs = jobs.select_related("project", "user").defer("config", "keys", "summary")
    by_uid = {line.job.uid: line for line in lines(jobs, request.user, database_now(), MOST_RUNS)}
    there = [uid for uid in uids if uid in by_uid]
    return [
        Compared(by_uid[uid], at % COLOURS + 1, ",".join(one for one in there if one != uid))
        for at, uid in enumerate(there)
    ]


def _key_rows(jobs: Sequence[Job]) -> list[KeyRow]:
    """Each config key, in the order in which the configs have them."""
    values = [values_of_keys(job.keys) for job in jobs]
    rows = []
    for name in dict.fromkeys(name for keys in values for name in keys):
        texts = [keys[name].text if name in keys else "" for keys in values]
        numbers = {keys[name].number if name in keys else "" for keys in values}
        differs = len(set(texts)) > 1 and (len(numbers) > 1 or None in numbers)
        rows.append(KeyRow(name, texts, differs))
    return rows


def _names(metrics: Sequence[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for values in metrics for name in values)
    return [name for name in names if not shown.axis_kind(name)]


def _main_first(names: list[str], projects: Iterable[Project]) -> list[str]:
    """The main metrics of the projects before the others."""
    mains = {project.main_metric for project in projects}
    return sorted(names, key=lambda name: name not in mains)


def _better_of(projects: Iterable[Project]) -> Callable[[str], str]:
    """Which way of a metric is better: as the projects have it where they agree."""

    def better_of(name: str) -> str:
        sides = {project.better(name) for project in projects}
        return sides.pop() if len(sides) == 1 else better(name)

    return better_of


def _metric_rows(
    names: Sequence[str], metrics: Sequence[dict[str, Any]], better_of: Callable[[str], str]
) -> list[MetricRow]:
    rows = []
    for name in names:
        side = better_of(name)
        lasts = [values[name][0] if name in values else None for values in metrics]
        if side:
            place = ("last", "min", "max").index(side)
            bests = [values[name][place] if name in values else None for values in metrics]
            rows.append(MetricRow(name, "best", _("best"), _marked(bests, side)))
        rows.append(MetricRow(name, "last", _("last"), _marked(lasts, side)))
    return rows


def _marked(values: list[float | None], side: str) -> list[tuple[float | None, bool]]:
    """The best are marked where there is something to choose from."""
    there = [value for value in values if value is not None]
    if not side or len(set(there)) < 2:
        return [(value, False) for value in values]
    best = max(there) if side == "max" else min(there)
    return [(value, value == best) for value in values]


def _charted(
    request: HttpRequest, names: Sequence[str], better_of: Callable[[str], str]
) -> list[str]:
    chosen = [name for name in request.GET.getlist("metric") if name in names]
    judged = sorted(names, key=lambda name: not better_of(name))
    return chosen or judged[:CHARTED]
