"""One metric of many runs, to be laid over one another.

{"runs": [{"job": 7, "uid": "20261130_1f2e", "run": "run_003",
           "x": [1, 2, …], "y": [0.9, null, …]}],
 "axis": "step",          what x is: step, epoch, time, or empty for the row
 "more": false,           whether there is more to be read at once
 "files": [91, …]}        what live messages call the runs' files
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.models import Job
from sync.curves import shown
from sync.curves.kept import shelf
from sync.curves.shown import Read
from sync.curves.sources import MAX_SOURCES, sources_of
from sync.models import SyncFile

#: Of all curves together, and of each at least.
ALL_POINTS = 16_000
LEAST_POINTS = 120
MOST_POINTS = 800
READ_SECONDS = 2.0
#: The kind of axis that is taken where every run has it, the first of these.
_KINDS = ("step", "epoch")


def curves_of(jobs: Sequence[Job], metric: str) -> dict[str, Any]:
    """The curves of one metric; of runs that do not have it, nothing.

    Args:
        jobs: with their projects.
    """
    rows: dict[int, list[SyncFile]] = defaultdict(list)
    for row in SyncFile.objects.results().filter(job__in=jobs):
        rows[row.job_id].append(row)
    limit = max(LEAST_POINTS, min(MOST_POINTS, ALL_POINTS // max(1, len(jobs))))
    until = time.monotonic() + READ_SECONDS
    found, more = [], False
    for job in jobs:
        if time.monotonic() >= until:
            more = True
            break
        read, is_cut = shown.read(job, sources_of(job, rows[job.pk])[:MAX_SOURCES])
        more |= is_cut
        found += [(job, one) for one in read if metric in one.labels.values()][:1]
    kind = _common_kind([one for _job, one in found])
    shelf.tidy()
    return {
        "runs": [_curve(job, one, metric, kind, limit) for job, one in found],
        "axis": kind,
        "more": more,
        "files": sorted(row.pk for some in rows.values() for row in some),
    }


def _common_kind(found: Sequence[Read]) -> str:
    having = [{shown.axis_kind(name) for name in one.table.columns} for one in found]
    return next((kind for kind in _KINDS if having and all(kind in one for one in having)), "")


def _curve(job: Job, one: Read, metric: str, kind: str, limit: int) -> dict[str, Any]:
    name = next(name for name, label in one.labels.items() if label == metric)
    with one.kept.lock:
        at, values = shown.thinned(one, name, limit)
        places = shown.axis_at(one, kind, at) if kind else at.astype(float) + 1
    order = np.argsort(places, kind="stable")
    return {
        "job": job.pk,
        "uid": job.uid,
        "run": job.run_name,
        "x": [None if x != x else x for x in places[order].tolist()],
        "y": [None if y != y else y for y in values[order].tolist()],
    }
