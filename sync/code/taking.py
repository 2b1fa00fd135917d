"""Taking in snapshots: first their manifest, then the files that the server has not been sent.

Which files are missing is a matter of who asks: those that this person has not sent. So a manifest
that names another's file by its SHA-256 neither tells whether the server has it nor gets at it.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

from django.utils.translation import gettext as _

from agent.code import manifest
from agent.code.manifest import Damaged
from experiments.models import Blob, Snapshot
from labsite.errors import TooLarge
from sync import room
from sync.code import blobs, relief
from sync.errors import ChecksumDiffers, DiskFull

#: Of the files of one request, unpacked.
MAX_FRAMES_BYTES = manifest.MAX_BYTES + manifest.MAX_BATCH_FILES * manifest.HEAD.size


@dataclass(frozen=True)
class Taken:
    """`snapshot` is None while files are missing."""

    sha256: str
    missing: list[str]
    snapshot: Snapshot | None


@contextmanager
def _told_to_people() -> Iterator[None]:
    """Agents, to whom the rest of sync speaks, keep what a full disk does not take."""
    try:
        yield
    except DiskFull as full:
        words = _(
            "The server's disk has no room for the code, so none of it was kept: a manager has to"
            " make room."
        )
        raise DiskFull(words, **full.facts) from full


@_told_to_people()
def take_manifest(document: bytes, *, by: Any, now: datetime) -> Taken:
    """Make the snapshot, if all that it holds was sent.

    Raises:
        Malformed: it is no manifest.
        LostRace: a file of it was just let go of: ask again.
        DiskFull, QuotaFull: there is no room.
    """
    read = manifest.load(document)
    sha256 = manifest.sha256_of(document)
    missing = Blob.objects.lacking(read.sizes, by)
    if missing:
        return Taken(sha256, missing, None)
    room.make_sure_of(len(document))
    if not Snapshot.objects.filter(sha256=sha256, holders=by).exists():
        counted = Blob.objects.idle_bytes_among(read.sizes)  # while it came in
        relief.make_room(read.size_bytes - counted, by=by, now=now)
    with blobs.writing(), blobs.Incoming() as incoming:
        incoming.take(sha256, [document])
        incoming.put()
        made = Snapshot.objects.keep(read, sha256, by=by, now=now)
    return Taken(sha256, [], made)


@_told_to_people()
def take_files(body: BinaryIO, length: int, *, packed: bool, by: Any, now: datetime) -> int:
    """Keep the files of one request; all of them, or none. Return how many there were.

    Args:
        length: of the body, in bytes; `packed`: as gzip.

    Raises:
        TooLarge: more than a request may hold.
        ChecksumDiffers: it was cut short, or is not what it says: send it again.
        DiskFull, QuotaFull: there is no room.
    """
    room.make_sure_of(length)
    relief.make_room(length, by=by, now=now)
    sizes: dict[str, int] = {}
    source = Unpacked(body, MAX_FRAMES_BYTES, packed=packed)
    with blobs.writing(), blobs.Incoming() as incoming:
        try:
            for frame in manifest.frames(source.read):
                if len(sizes) >= manifest.MAX_BATCH_FILES or frame.sha256 in sizes:
                    raise TooLarge(_too_many(), limit=manifest.MAX_BATCH_FILES)
                sizes[frame.sha256] = frame.size
                incoming.take(frame.sha256, frame.blocks())
        except (Damaged, zlib.error) as exc:
            raise ChecksumDiffers(
                _("The code did not arrive as it was sent: send it again.")
            ) from exc
        incoming.put()
        Blob.objects.note(sizes, by, now)
    return len(sizes)


def _too_many() -> str:
    words = _("At most %(n)d files, each once, are taken in one request.")
    return words % {"n": manifest.MAX_BATCH_FILES}


class Unpacked:
    """A body, unpacked no further than to its limit."""

    def __init__(self, body: BinaryIO, limit: int, *, packed: bool) -> None:
        self._body = body
        self._limit = limit
        self._unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS) if packed else None
        self._given = 0

    def read(self, count: int) -> bytes:
        """At most so many bytes, none at the end.

        Raises:
            TooLarge: there are more than the limit.
            zlib.error: it is no gzip.
            Damaged: it ends in the middle.
        """
        data = self._body.read(count) if self._unpacker is None else self._unpack(count)
        self._given += len(data)
        if self._given > self._limit:
            raise TooLarge(_too_large(self._limit), limit=self._limit)
        return data

    def all(self) -> bytes:
        """The whole of a small one."""
        pieces = []
        while piece := self.read(manifest.BLOCK_BYTES):
            pieces.append(piece)
        return b"".join(pieces)

    def _unpack(self, count: int) -> bytes:
        unpacker = self._unpacker
        assert unpacker is not None
        while not unpacker.eof:
            source = unpacker.unconsumed_tail or self._body.read(manifest.BLOCK_BYTES)
            if not source:
                raise Damaged
            if data := unpacker.decompress(source, count):
                return data
        return b""


def _too_large(limit: int) -> str:
    return _("Unpacked it has more than %(n)d bytes.") % {"n": limit}
