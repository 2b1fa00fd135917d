"""Many files as one zip archive that is made while it is sent.

Stored and not compressed: checkpoints and images hardly shrink, and a disk is faster than deflate.
Memory holds one block and the archive's list of names. Sizes and checksums follow each file, since
they are known only then; a file that is gone by its turn is left out.
"""

import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sync import storage
from sync.storage import Place

BLOCK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Entry:
    name: str  # in the archive
    place: Place
    size: int  # so much of it was acknowledged
    changed_at: float  # seconds since 1970


class Archive:
    """The bytes of an archive, block by block, for a response that asks no database any more."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[bytes]:
        sink = _Sink()
        with zipfile.ZipFile(sink, "w") as archive:
            for entry in self._entries:
                yield from _add(archive, sink, entry)
        yield sink.take()


class _Sink:
    """What zipfile writes to: it takes what was written since, and cannot be gone back in."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> bytes:
        taken = b"".join(self._written)
        self._written.clear()
        return taken


def _add(archive: zipfile.ZipFile, sink: _Sink, entry: Entry) -> Iterator[bytes]:
    info = zipfile.ZipInfo(entry.name, _date(entry.changed_at))
    info.external_attr = 0o644 << 16
    try:
        file = storage.open_file(entry.place)
    except FileNotFoundError:
        return
    with file, archive.open(info, "w", force_zip64=True) as member:
        left = storage.readable_size(entry.place.name, entry.size, file)
        while left and (block := file.read(min(BLOCK_BYTES, left))):
            left -= len(block)
            member.write(block)
            yield sink.take()


def _date(seconds: float) -> tuple[int, int, int, int, int, int]:
    """As zip has it: not before 1980, and not after 2107."""
    date = time.localtime(seconds)[:6]
    return date if 1980 <= date[0] <= 2107 else (1980, 1, 1, 0, 0, 0)
