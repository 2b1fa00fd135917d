"""What was read of runs' metrics, kept in memory, so that a new row costs a new row.

Bounded, and never needed: what was thrown away is read again from the files. A request reads for
READ_SECONDS at most; of a file that takes longer the next request reads on.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from experiments.models import Job
from sync import storage
from sync.curves.events import Events
from sync.curves.sources import Source
from sync.curves.table import Table
from sync.curves.trainer import TrainerState
from sync.models import SyncFile
from sync.storage import Place

READ_SECONDS = 2.0
#: Of all that is kept, what was not looked at for longest goes first.
KEPT_BYTES = 192 * 1024 * 1024
#: Once the sources of a run take more than this, those that come after are not read. With one
#: more table it still fits into what is kept.
RUN_BYTES = 64 * 1024 * 1024
IDLE_SECONDS = 600
#: So much before the place to which an event file was read tells whether it is still that file.
MARK_BYTES = 64 * 1024


@dataclass
class Progress:
    """How far one file was read."""

    reader: Any
    stamp: object  # another one: another file
    upto: int = 0  # may lie beyond the end, after a record that is passed over
    seen: int = 0  # so much was there
    mark: bytes = b""  # the last of it


class _AnotherFile(Exception):
    """A file that was read is gone, or is another one by now."""


class Kept:
    """What was read of one source. Used under its lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.used_at = time.monotonic()
        self._begin()

    def _begin(self) -> None:
        #: Readers that name it have the first rows of this very table.
        self.id = secrets.token_hex(6)
        self.table = Table()
        self._files: dict[str, Progress] = {}

    @property
    def nbytes(self) -> int:
        return self.table.nbytes

    def read(self, job: Job, source: Source, deadline: float) -> bool:
        """Take in what came to the source's files. Return whether there is more to read."""
        try:
            return self._read_all(job, source, deadline)
        except _AnotherFile:
            self._begin()
            return self._read_all(job, source, deadline)

    def _read_all(self, job: Job, source: Source, deadline: float) -> bool:
        """One by one: of event files a folder may hold more than a process may have open."""
        if not self._files.keys() <= {row.name for row in source.files}:
            raise _AnotherFile
        behind = [self._read(job, source, row, deadline) for row in source.files]
        return any(behind)

    def _read(self, job: Job, source: Source, row: SyncFile, deadline: float) -> bool:
        progress = self._files.get(row.name)
        with _opened(job, row) as file:
            if progress and (file is None or not _is_same(progress, source, row, file)):
                raise _AnotherFile
            if file is None:
                return False
            if progress is None:
                progress = Progress(source.reader(self.table), _stamp(source, row))
                self._files[row.name] = progress
            size = storage.readable_size(row.name, row.size, file)
            is_behind = self._go_on(progress, file, size, deadline)
            progress.seen = min(progress.upto, size)
            if source.reader is Events:
                progress.mark = _mark(file, progress.seen)
        return is_behind

    def _go_on(self, progress: Progress, file: BinaryIO, size: int, deadline: float) -> bool:
        while progress.upto < size and not self.table.is_refused:
            if time.monotonic() > deadline:
                return True
            file.seek(progress.upto)
            length = min(progress.reader.BLOCK_BYTES, size - progress.upto)
            used = progress.reader.take(file.read(length))
            if not used:
                return False  # the rest is half a line
            progress.upto += used
        return False


class Shelf:
    """What is kept of all runs that were looked at lately."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, str], Kept] = OrderedDict()

    def of(self, job: Job, source: Source) -> Kept:
        key = (job.pk, source.name)
        with self._lock:
            kept = self._kept.setdefault(key, Kept())
            kept.used_at = time.monotonic()
            self._kept.move_to_end(key)
            return kept

    def tidy(self) -> None:
        """Let go of what was not looked at for long, and of the oldest while it is too much."""
        with self._lock:
            total = sum(kept.nbytes for kept in self._kept.values())
            for key, kept in list(self._kept.items()):
                idle = time.monotonic() - kept.used_at > IDLE_SECONDS
                if idle or total > KEPT_BYTES:
                    total -= kept.nbytes
                    del self._kept[key]

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()


shelf = Shelf()


def _is_same(progress: Progress, source: Source, row: SyncFile, file: BinaryIO) -> bool:
    if progress.stamp != _stamp(source, row):
        return False
    if storage.readable_size(row.name, row.size, file) < progress.seen:
        return False
    return source.reader is not Events or progress.mark == _mark(file, progress.seen)


def _stamp(source: Source, row: SyncFile) -> object:
    """What tells one version of a file from another. An event file is known by its bytes."""
    if source.reader is Events:
        return None
    if source.reader is TrainerState:
        return row.version, row.size, row.sha256, row.synced_at
    return row.version


def _mark(file: BinaryIO, upto: int) -> bytes:
    start = max(0, upto - MARK_BYTES)
    file.seek(start)
    return file.read(upto - start)


@contextmanager
def _opened(job: Job, row: SyncFile) -> Iterator[BinaryIO | None]:
    """None: it is not on the disk any more."""
    try:
        file = storage.open_file(Place.of(job, row.name))
    except FileNotFoundError:
        yield None
        return
    with file:
        yield file
