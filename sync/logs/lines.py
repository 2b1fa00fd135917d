"""How many lines a log has before each place of it, so that 2 GB need not be counted to show one.

For every BLOCK_BYTES of the file the newlines up to its end are counted once and written down, in
`logs/.lines/{key of the SyncFile}`: 64 KiB for 2 GB. Derived: it may be deleted at any time, and
one that is of another version of the file, or not whole, is as good as none.
"""

import os
import secrets
import struct
import time
import zlib
from array import array
from bisect import bisect_left
from contextlib import suppress
from typing import BinaryIO

from sync import storage
from sync.models import SyncFile
from sync.storage import Place

BLOCK_BYTES = 256 * 1024
#: Read at once while counting.
_BLOCKS_AT_ONCE = 16
FOLDER = ".lines"
#: Of smaller files nothing is written down.
WORTH_BYTES = 4 * BLOCK_BYTES
_HEAD = struct.Struct("<8sqqQI")  # magic, attempt, generation, blocks, crc32 of the counts
_MAGIC = b"lablines"


class Lines:
    """Where the lines of one version of one log begin."""

    def __init__(self, version: tuple[int, int], counts: "array[int] | None" = None) -> None:
        self._version = version
        #: Of newlines in the first 1, 2, 3, … blocks.
        self._counts = counts if counts is not None else array("Q")
        self._written = len(self._counts)

    @property
    def counted_bytes(self) -> int:
        return len(self._counts) * BLOCK_BYTES

    def count(self, file: BinaryIO, size: int, deadline: float) -> bool:
        """Count on, for as long as there is time. Return whether all whole blocks are counted.

        Args:
            deadline: as time.monotonic() has it.
        """
        whole = size // BLOCK_BYTES
        while len(self._counts) < whole:
            if time.monotonic() >= deadline:
                return False
            file.seek(self.counted_bytes)
            blocks = min(_BLOCKS_AT_ONCE, whole - len(self._counts))
            if not self._take(file.read(blocks * BLOCK_BYTES)):
                break  # the file has become shorter
        return True

    def _take(self, data: bytes) -> bool:
        """Whether a whole block was among them."""
        total = self._counts[-1] if self._counts else 0
        for start in range(0, len(data) - BLOCK_BYTES + 1, BLOCK_BYTES):
            total += data.count(b"\n", start, start + BLOCK_BYTES)
            self._counts.append(total)
        return len(data) >= BLOCK_BYTES

    def number_at(self, file: BinaryIO, offset: int) -> int | None:
        """The number, from 1, of the line that byte `offset` is in; None: not counted so far."""
        block = offset // BLOCK_BYTES
        if block > len(self._counts):
            return None
        file.seek(block * BLOCK_BYTES)
        before = self._counts[block - 1] if block else 0
        return before + 1 + file.read(offset - block * BLOCK_BYTES).count(b"\n")

    def offset_of(self, file: BinaryIO, number: int, size: int) -> int | None:
        """Where line `number` begins; of a number beyond the last, where the last line begins.
        None: not counted so far."""
        wanted = number - 1  # so many newlines lie before it
        if wanted <= 0:
            return 0
        block = bisect_left(self._counts, wanted)
        start = block * BLOCK_BYTES
        if block == len(self._counts) and size - start >= BLOCK_BYTES:
            return None
        file.seek(start)
        data = file.read(min(BLOCK_BYTES, size - start))
        found = _after_newlines(data, wanted - (self._counts[block - 1] if block else 0))
        if found is None or start + found >= size:
            return _last_line(file, size)
        return start + found

    def keep(self, key: int) -> None:
        """Write down what was counted; a disk that will not have it costs counting anew."""
        if len(self._counts) == self._written or self.counted_bytes < WORTH_BYTES:
            return
        data = self._counts.tobytes()
        head = _HEAD.pack(_MAGIC, *self._version, len(self._counts), zlib.crc32(data))
        with suppress(OSError):
            _write(_place(key), head + data)
            self._written = len(self._counts)


def _after_newlines(data: bytes, count: int) -> int | None:
    """Behind so many newlines of `data`; None where there are fewer."""
    at = 0
    for _ in range(count):
        at = data.find(b"\n", at) + 1
        if not at:
            return None
    return at


def _last_line(file: BinaryIO, size: int) -> int:
    """Where the last line begins, or a piece of it if it is very long."""
    start = max(0, size - BLOCK_BYTES)
    file.seek(start)
    return start + file.read(size - start).rfind(b"\n", 0, size - start - 1) + 1


def lines_of(row: SyncFile) -> Lines:
    """What is written down of this version of it; nothing at first."""
    place = _place(row.pk)
    data = storage.read(place, 0, storage.size_of(place))
    if len(data) < _HEAD.size:
        return Lines(row.version)
    magic, attempt, generation, blocks, check = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    is_whole = magic == _MAGIC and len(body) == 8 * blocks and zlib.crc32(body) == check
    if not is_whole or (attempt, generation) != row.version:
        return Lines(row.version)
    counts = array("Q", body)
    del counts[row.size // BLOCK_BYTES :]  # the log became shorter: what was beyond is nothing
    return Lines(row.version, counts)


def tidy() -> None:
    """Let go of what belongs to no file any more."""
    with suppress(FileNotFoundError), storage.folder_of(_place(0)) as at:
        there = {int(name) for name in os.listdir(at) if name.isdigit()}
        known = SyncFile.objects.present().filter(pk__in=there).values_list("pk", flat=True)
        for key in there - set(known):
            with suppress(FileNotFoundError):
                os.unlink(str(key), dir_fd=at)


def _place(key: int) -> Place:
    return Place((FOLDER,), str(key))


def _write(place: Place, data: bytes) -> None:
    with storage.folder_of(place, make=True) as at:
        name = f".{place.name}.{secrets.token_hex(6)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o640, dir_fd=at), "wb") as file:
            file.write(data)
        os.rename(name, place.name, src_dir_fd=at, dst_dir_fd=at)
