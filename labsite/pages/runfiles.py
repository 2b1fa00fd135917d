"""A run's files as the server has them: how far they are, and what can be read of them.

Only what was acknowledged is shown: a file's first `size` bytes, in its newest version.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from typing import BinaryIO

from django.utils.translation import gettext as _

from experiments.models import Job
from labsite.pages.states import Badge
from labsite.templatetags.lab import size as size_words
from sync import status, storage
from sync.models import SyncFile
from sync.status import SyncState
from sync.storage import Place


@dataclass(frozen=True)
class File:
    name: str
    size: int
    synced_at: datetime
    badge: Badge


@dataclass(frozen=True)
class Files:
    files: list[File]
    badge: Badge | None  # of the whole run; None: there is nothing to be behind with
    table: int | None  # the key of its metrics CSV


def files_of(job: Job, now: datetime) -> Files:
    found = status.of(job, now)
    shown = [
        File(
            name=one.row.name,
            size=one.row.size,
            synced_at=one.row.synced_at,
            badge=_badge(one.state, one.behind_bytes),
        )
        for one in sorted(found.files, key=lambda one: one.row.name)
    ]
    whole = None if found.state is None else _badge(found.state, found.behind_bytes)
    table = next(
        (one.row.pk for one in found.files if one.row.name == f"{job.run_name}.csv"), None
    )
    return Files(shown, whole, table)


def _badge(state: SyncState, behind_bytes: int) -> Badge:
    if state == SyncState.SYNCED:
        return Badge("synced", "s-succeeded", str(SyncState.SYNCED.label))
    colour = "syncing" if state == SyncState.SYNCING else "behind"
    if behind_bytes:
        return Badge(
            colour, "s-sync", _("behind by %(size)s") % {"size": size_words(behind_bytes)}
        )
    return Badge(colour, "s-sync", str(state.label))


@dataclass(frozen=True)
class Part:
    """One file open for reading."""

    file: BinaryIO
    size: int
    version: str  # another one: what was read before is of another file
    key: int | None = None  # what live messages call it; None: there is none yet


@contextmanager
def opened(job: Job, suffix: str) -> Iterator[Part]:
    """`run_007.{suffix}` of the run; an empty one where there is none."""
    row = SyncFile.objects.results().filter(job=job, name=f"{job.run_name}.{suffix}").first()
    if row is None:
        yield Part(BytesIO(), 0, "")
        return
    try:
        file = storage.open_file(Place.of(job, row.name))
    except FileNotFoundError:
        yield Part(BytesIO(), 0, "")
        return
    with file:
        yield Part(file, row.size, f"{row.attempt}.{row.generation}", row.pk)
