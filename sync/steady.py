"""Deltas that simply go on where their file ends, many at once (protocol §6.1, rule 1).

Nearly all that agents send is of this kind. go_on() does for many of them what append() does for
one, in the same order and under the same locks: write, fsync, the row, and only then the answer.
But the files are synced side by side, and one commit holds all their rows.

Whatever is not as plain as that it leaves as it was, for append() to do or to refuse: the first
chunk of a file, an overlap, a gap, another version, a confirmation, a full disk, a stranger. So
it refuses nothing itself, and no refusal has two wordings.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from devices.auth import RecentDeviceAuthentication
from experiments.models import Project
from labsite import wake
from labsite.errors import Refused
from sync import append, intake, resume, room, storage, summary
from sync.append import Delta, Stored
from sync.intake import Sent, Taken
from sync.models import SyncFile
from sync.ownership import Target, check_still
from sync.serializers import read_headers

logger = logging.getLogger(__name__)

#: map(), or one that does it side by side.
Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Asked:
    """A request as it came: whose token, which file, its headers by their names, its body."""

    token_sha256: str
    uid: str
    name: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(eq=False)
class _Step:
    """A delta that goes on where its file ends, to which nobody else writes meanwhile."""

    target: Target
    row: SyncFile
    delta: Delta
    is_written: bool = False
    is_moved: bool = False
    summary: dict[str, Any] | None = None  # of the metrics, with it; None: they are elsewhere

    @property
    def end(self) -> int:
        """Where its file ends with it."""
        return int(self.delta.offset or 0) + len(self.delta.data)


def go_on(asked: Sequence[Asked], each: Each = map) -> list[Taken | None]:
    """Add each chunk to its file, once; None in the place of one that is left as it was.

    Args:
        each: by which the files are written; a file is in it once at most.

    Raises:
        DatabaseError: nothing was acknowledged; what lies beyond the rows will be cut off.
    """
    with ExitStack() as locks:
        found = [_step(one, locks) for one in asked]
        steps = [step for step in found if step]
        list(each(_write, steps))
        _move([step for step in steps if step.is_written])
    return [_taken(step) if step and step.is_moved else None for step in found]


# --- whether it is of the plain kind -------------------------------------------------------------


def _step(asked: Asked, locks: ExitStack) -> _Step | None:
    """What is to be done, with its file's lock held by `locks`; None: to be left to append()."""
    try:
        sent = _sent(asked)
        if sent is None:
            return None
        target, delta = sent.target, intake.delta_of(sent, asked.body)
        if not _says_all(delta) or intake.feeds_other_curves(target):
            return None
        room.admit(target, len(delta.data))
        locks.enter_context(storage.locked(target.place, seconds=0))
        check_still(target)
        row = append.current(target)
        return _Step(target, row, delta) if row and _goes_on(target, row, delta) else None
    except Refused:
        return None


def _sent(asked: Asked) -> Sent | None:
    device = RecentDeviceAuthentication.holder(asked.token_sha256)
    if device is None:
        return None
    return Sent(device, asked.uid, asked.name, read_headers(asked.headers))


def _says_all(delta: Delta) -> bool:
    """Which bytes, of which version, and where; and wishes nothing besides."""
    says = delta.data and delta.offset and delta.generation is not None
    return bool(says) and not delta.key and not delta.file_sha256


def _goes_on(target: Target, row: SyncFile, delta: Delta) -> bool:
    version = (target.number, delta.generation)
    if row.version != version or row.size != delta.offset:
        return False
    return storage.size_of(target.place) >= row.size


# --- doing it ------------------------------------------------------------------------------------


def _write(step: _Step) -> None:
    """In a thread of its own, perhaps: the bytes, on the disk. Raises nothing, since no lock may
    be given up while others are still at it."""
    try:
        storage.write_at(step.target.place, step.row.size, step.delta.data)
        step.is_written = True
    except Refused:
        pass
    except Exception:
        logger.exception("%s could not be written", step.target.place.path)


def _move(steps: list[_Step]) -> None:
    """Bring the rows to what is on the disk, in one transaction: files, projects, jobs, each in
    the order of their keys, so that of two who do so none holds what the other waits for."""
    steps = sorted(steps, key=lambda step: step.row.pk)
    _sum_up(steps)
    more_bytes: Counter[Project] = Counter()
    with transaction.atomic():
        for step in steps:
            more = append.move(step.row, size=step.end, **append.said(step.delta))
            step.is_moved = more is not None
            more_bytes[step.target.job.project] += more or 0
        for project in sorted(more_bytes, key=lambda project: project.pk):
            project.note_used(more_bytes[project])
        for step in sorted(steps, key=lambda step: step.target.job.pk):
            if step.is_moved and step.summary not in (None, step.target.job.summary):
                step.target.job.note_summary(step.summary)


def _sum_up(steps: list[_Step]) -> None:
    """Take what the metrics have gained into the summary of their run."""
    for step in steps:
        job = step.target.job
        if intake.is_metrics(step.target):
            job.refresh_from_db(fields=["summary"])
            step.summary = summary.taken_in(job, step.row, step.end)


def _taken(step: _Step) -> Taken:
    """What is told of it, now that it is committed and its file is free."""
    wake.publish("file", step.row.pk, step.row.size)
    if step.summary is not None and resume.is_to_name(step.target.job, step.target.name):
        resume.note_files(step.target.job)
    length = len(step.delta.data)
    return Taken(intake.DELTA, Stored(step.row, length, step.row.size, duplicate=False), length)
