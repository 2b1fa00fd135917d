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
from django.utils.translation import gettext_lazy

from agent.wire import WhyLeftOut
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
    key: int  # what live messages call it

    @property
    def base(self) -> str:
        """Its name without its folders."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class LeftOut:
    """What stays on the GPU server, and why."""

    name: str
    size: int
    words: str


@dataclass(frozen=True)
class Files:
    files: list[File]
    left_out: list[LeftOut]
    badge: Badge | None  # of the whole run; None: there is nothing to be behind with
    table: int | None  # the key of its metrics CSV

    @property
    def behind(self) -> list[File]:
        return [file for file in self.files if file.badge.state != "synced"]


def files_of(job: Job, now: datetime) -> Files:
    found = status.of(job, now)
    shown = [
        File(
            name=one.row.name,
            size=one.row.size,
            synced_at=one.row.synced_at,
            badge=_badge(one.state, one.behind_bytes),
            key=one.row.pk,
        )
        for one in sorted(found.files, key=lambda one: one.row.name)
    ]
    whole = None if found.state is None else _badge(found.state, found.behind_bytes)
    table = next(
        (one.row.pk for one in found.files if one.row.name == f"{job.run_name}.csv"), None
    )
    left_out = [
        LeftOut(one["name"], one["size_bytes"], str(_WHY_LEFT_OUT[WhyLeftOut(one["reason"])]))
        for one in found.left_out
    ]
    return Files(shown, left_out, whole, table)


_WHY_LEFT_OUT = {
    WhyLeftOut.NOT_WISHED: gettext_lazy("kept on the GPU server, as “sync: checkpoints” says"),
    WhyLeftOut.TOO_LARGE: gettext_lazy("kept on the GPU server: larger than “sync: max_file”"),
    WhyLeftOut.NAME: gettext_lazy(
        "not sent: no file of a run may be called so, or another one is"
    ),
    WhyLeftOut.LINK: gettext_lazy("not sent: it is a link out of its folder"),
    WhyLeftOut.TOO_MANY: gettext_lazy(
        "this folder holds more files than are looked at: name fewer in “outputs”"
    ),
    WhyLeftOut.UNMASKED: gettext_lazy(
        "not sent: a secret in it cannot be masked, since the file belongs to another Unix user"
    ),
    WhyLeftOut.TORN: gettext_lazy(
        "not sent: it was cut off while it was written; the version before it, if one had "
        "arrived, is kept"
    ),
    WhyLeftOut.CLOSED: gettext_lazy(
        "not sent yet: the agent may not look into this folder; what is in it waits there"
    ),
    WhyLeftOut.SHARED: gettext_lazy(
        "another run worked in this folder at the same time: its outputs may be here too"
    ),
    WhyLeftOut.OTHER: gettext_lazy("not sent, for a reason that only a newer server can tell"),
}


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
    row: SyncFile | None = None  # None: there is none yet

    @property
    def key(self) -> int | None:
        """What live messages call it."""
        return self.row.pk if self.row else None


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
        size = storage.readable_size(row.name, row.size, file)
        yield Part(file, size, f"{row.attempt}.{row.generation}", row)
