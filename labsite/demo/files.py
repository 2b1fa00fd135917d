"""The demo's files on the disk: curves and logs of what runs and of what ended last."""

import hashlib
import random
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from experiments.models import Attempt, Job
from experiments.states import JobState
from labsite.demo import curves
from labsite.demo.plan import Run
from sync.models import SyncFile
from sync.storage import Place

AT_ONCE = 500


def write(
    runs: Sequence[Run], jobs: Sequence[Job], count: int, now: datetime, dice: random.Random
) -> int:
    """Files of what runs, and of the newest `count` that ended. Returns of how many runs."""
    begun = [pair for pair in zip(runs, jobs, strict=True) if pair[0].tries]
    live = [pair for pair in begun if pair[1].state == JobState.RUNNING]
    ended = [pair for pair in begun if pair[1].state != JobState.RUNNING]
    ended.sort(key=lambda pair: pair[0].ends or 0.0)
    chosen = live + ended[-count:] if count else live
    rows, told = [], []
    for run, job in chosen:
        files = _of(run, job, now, dice)
        rows += files
        if job.state == JobState.RUNNING:
            told.append((job.pk, {row.name: _advertised(row) for row in files}))
    SyncFile.objects.bulk_create(rows, AT_ONCE)
    Job.objects.bulk_update([job for _, job in chosen], ["summary"], AT_ONCE)
    for pk, files in told:
        open_ = Attempt.objects.open().filter(job_id=pk)
        open_.update(files_advertised=files, files_advertised_at=now)
    return len(chosen)


def _of(run: Run, job: Job, now: datetime, dice: random.Random) -> list[SyncFile]:
    epochs = max(2, round(run.epochs * run.progress))
    columns = curves.table(run, epochs, np.random.default_rng(dice.getrandbits(32)))
    table, printed = curves.csv(columns), curves.log(run, columns)
    job.summary = curves.summary(columns, len(table))
    return [_store(job, run, "csv", table, now), _store(job, run, "log", printed, now)]


def _store(job: Job, run: Run, suffix: str, data: bytes, now: datetime) -> SyncFile:
    name = f"{job.run_name}.{suffix}"
    path = Place.of(job, name).path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    ended = job.finished_at is not None
    return SyncFile(
        job=job, name=name, attempt=len(run.tries), generation=1, size=len(data),
        sha256=hashlib.sha256(data).hexdigest() if ended else "", complete=ended,
        synced_at=job.finished_at or now - timedelta(seconds=1),
    )  # fmt: skip


def _advertised(row: SyncFile) -> dict[str, int]:
    return {"generation": 1, "size_bytes": row.size, "acked_bytes": row.size}
