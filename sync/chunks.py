"""A whole file in chunks: an interrupted upload goes on where it was (protocol §6.2).

The rules of the delta hold for the file on its way: bytes first, fsync, then the row by an
UPDATE on what was seen, then the answer; under a lock of its own, since to hash a large file
takes long. Whole and hashed, it takes its place by a rename as any whole file does, and whatever
came first counts there: a late last chunk of an older version is refused as stale.
"""

import hashlib
import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError

from experiments.errors import LostRace
from labsite import wake
from labsite.clock import database_now
from labsite.errors import BadRequest, TooLarge
from sync import displacing, room, storage
from sync.append import Stored, change, check_begins_at_zero, current
from sync.errors import ChecksumDiffers, Diverged, OffsetMismatch, QuotaFull, UploadExpired
from sync.models import SyncFile, Upload
from sync.ownership import Target, check_still
from sync.storage import Arrived
from sync.upload import Whole, check_not_stale, take_place, version_of

logger = logging.getLogger(__name__)

#: So long after it was abandoned its row tells a sender who comes back that it was.
FORGOTTEN_AFTER = timedelta(days=6)
_LOCK = "upload-"


@dataclass(frozen=True)
class Chunk:
    data: bytes
    upload_id: str
    length: int  # of the whole, in bytes
    sha256: str  # of the whole
    offset: int
    generation: int | None = None
    source_mtime: int | None = None


@dataclass(frozen=True)
class Progress(Stored):
    """The same of a chunk whose file is not whole yet."""

    row: Upload


def receive(target: Target, chunk: Chunk) -> Stored:
    """Add a chunk to the upload of a file; the last one puts the file in its place.

    Raises:
        OffsetMismatch, Diverged, StaleGeneration: with where to go on from.
        ChecksumDiffers: all is there and is not what was said; the upload begins anew.
        NameTaken: a file of the run is in the way; see displacing.check().
        UploadExpired: it was abandoned; send the file under another id.
        BadRequest, TooLarge: the chunk goes beyond the file, or the file beyond the limit.
        LostRace, FileBusy, DiskFull, QuotaFull: nothing was kept; it may come again.
        Deleted: nobody wants it any more.
    """
    _check_fits(chunk)
    with storage.locked(target.place, kind=_LOCK):
        check_still(target)
        row, upload = current(target), upload_of(target)
        version = _version(target, row, upload, chunk)
        if row is not None and _is_stored(target, row, version, chunk):
            if version > row.version:
                said = {"sha256": row.sha256, "complete": True}
                change(row, attempt=version[0], generation=version[1], **said)
            return Stored(row, 0, chunk.offset + len(chunk.data), duplicate=True)
        for newest in (row, upload):
            check_not_stale(target, version, newest.version if newest else (0, 0))
        upload = _begun(target, row, upload, version, chunk)
        _repair(upload)
        progress = _add(upload, chunk)
        return progress if upload.size < upload.length else _finish(target, upload, chunk)


def offset_of(target: Target, upload_id: str, whole: str, generation: int | None) -> int | None:
    """Where to go on from, in bytes. None: no such upload, so from 0.

    Args:
        whole: the file's SHA-256; with it, an upload that is done tells so: its whole length.

    Raises:
        UploadExpired: it was abandoned.
    """
    row, upload = current(target), upload_of(target)
    if upload is not None and upload.upload_id == upload_id:
        _check_fresh(upload)
        return min(upload.size, storage.size_of(storage.upload_place(upload.pk)))
    version = version_of(target, row, generation)
    if row is None or (row.complete, row.version, row.sha256) != (True, version, whole):
        return None
    return row.size if storage.size_of(target.place) == row.size else None


def upload_of(target: Target) -> Upload | None:
    return Upload.objects.filter(job=target.job, shelf=target.shelf, name=target.name).first()


def _check_fits(chunk: Chunk) -> None:
    if chunk.offset + len(chunk.data) > chunk.length:
        raise BadRequest(
            f"The chunk ends at {chunk.offset + len(chunk.data)}, and the file at "
            f"X-Upload-Length, {chunk.length}.",
            field="X-Upload-Length",
        )
    if chunk.length > settings.LAB_MAX_FILE_BYTES:
        raise TooLarge(
            f"A file of a run may have {settings.LAB_MAX_FILE_BYTES} bytes at most.",
            limit=settings.LAB_MAX_FILE_BYTES,
        )


def _version(
    target: Target, row: SyncFile | None, upload: Upload | None, chunk: Chunk
) -> tuple[int, int]:
    """Of the chunk; without a generation it goes on with the upload that it names."""
    if chunk.generation is None and upload is not None and upload.upload_id == chunk.upload_id:
        return version_of(target, None, upload.generation)
    return version_of(target, row, chunk.generation)


def _is_stored(target: Target, row: SyncFile, version: tuple[int, int], chunk: Chunk) -> bool:
    """Whether the file stands already in its place: the last answer was lost, or a next attempt
    sends the checkpoint that it was given to go on from."""
    same = row.complete and (row.sha256, row.size) == (chunk.sha256, chunk.length)
    is_current = version >= row.version
    return same and is_current and storage.size_of(target.place) == row.size


def _begun(
    target: Target,
    row: SyncFile | None,
    upload: Upload | None,
    version: tuple[int, int],
    chunk: Chunk,
) -> Upload:
    """The upload that the chunk is about: that which is on its way, or a new one in its place.
    What is in the way of the whole is looked at when it begins, and when it is here."""
    if upload is not None and _is_same(upload, version, chunk):
        _check_fresh(upload)
        _admit_next(target, row, chunk)
        return upload
    in_the_way = displacing.check(target, row, chunk.generation)
    check_begins_at_zero(chunk.offset)
    replaces = sum(one.size for one in (row, upload, *in_the_way) if one)
    room.admit(target, chunk.length, replaces=replaces)
    fields = {
        "attempt": version[0],
        "generation": version[1],
        "upload_id": chunk.upload_id,
        "length": chunk.length,
        "sha256": chunk.sha256,
    }
    return _new(target, fields) if upload is None else _move(upload, size=0, **fields)


def _admit_next(target: Target, row: SyncFile | None, chunk: Chunk) -> None:
    if row is not None and row.size:
        return room.admit(target, len(chunk.data), replaces=row.size)
    try:
        room.admit(target, len(chunk.data))
    except QuotaFull:
        in_the_way = displacing.in_the_way(target)  # its room is free when the whole is here
        replaces = sum(one.size for one in in_the_way)
        room.check_quota(target, len(chunk.data), replaces=replaces)


def _is_same(upload: Upload, version: tuple[int, int], chunk: Chunk) -> bool:
    said = (version, chunk.upload_id, chunk.length, chunk.sha256)
    return said == (upload.version, upload.upload_id, upload.length, upload.sha256)


def _check_fresh(upload: Upload) -> None:
    if upload.moved_at < database_now() - _expires_after():
        raise UploadExpired(
            f"Nothing of this upload came for {settings.LAB_KEEP_UPLOADS_HOURS:g} h, so it was "
            "thrown away; send the file under another X-Upload-Id."
        )


def _expires_after() -> timedelta:
    """Without a chunk for so long an upload is abandoned, and its bytes are removed."""
    return timedelta(hours=settings.LAB_KEEP_UPLOADS_HOURS)


def _new(target: Target, fields: dict[str, Any]) -> Upload:
    try:
        return Upload.objects.create(
            job=target.job,
            shelf=target.shelf,
            name=target.name,
            moved_at=database_now(),
            **fields,
        )
    except IntegrityError as exc:
        raise LostRace(f"{target.name} was begun by another request; send it again.") from exc


def _move(upload: Upload, **fields: Any) -> Upload:
    fields = {"moved_at": database_now(), **fields}
    seen = Upload.objects.filter(pk=upload.pk, upload_id=upload.upload_id, size=upload.size)
    if not seen.update(**fields):
        raise LostRace(f"{upload.name} was changed by another request; send it again.")
    for name, value in fields.items():
        setattr(upload, name, value)
    return upload


def _repair(upload: Upload) -> None:
    """Fewer bytes than were acknowledged: the disk lost them, or the file had just taken its
    place when this server was killed. The rest is asked for again."""
    actual = storage.size_of(storage.upload_place(upload.pk))
    if actual < upload.size:
        logger.warning("the upload of %s goes back to %d of %d", upload, actual, upload.size)
        _move(upload, size=actual)


def _add(upload: Upload, chunk: Chunk) -> Progress:
    """Rules 1 to 3 of the delta."""
    place = storage.upload_place(upload.pk)
    if chunk.offset > upload.size:
        raise OffsetMismatch(
            f"The upload of {upload.name} is at {upload.size}, not at {chunk.offset}.",
            expected_offset=upload.size,
        )
    overlap = chunk.data[: upload.size - chunk.offset]
    if overlap and overlap != storage.read(place, chunk.offset, len(overlap)):
        raise Diverged(
            f"Other bytes of {upload.name} came from {chunk.offset} on.",
            expected_offset=upload.size,
        )
    news = chunk.data[len(overlap) :]
    if news or not upload.length:  # an empty file is a file
        digest = _digests.take(upload)
        storage.write_at(place, upload.size, news)
        _move(upload, size=upload.size + len(news))
        if digest is not None:
            digest.update(news)
            _digests.keep(upload, digest)
    acked = chunk.offset + len(chunk.data)
    return Progress(upload, len(news), acked, duplicate=bool(chunk.data) and not news)


def _finish(target: Target, upload: Upload, chunk: Chunk) -> Stored:
    place = storage.upload_place(upload.pk)
    sha256 = _sha256_of(upload)
    if sha256 != upload.sha256:
        _move(upload, size=0)
        raise ChecksumDiffers(
            f"The SHA-256 of all chunks is {sha256}, not what X-File-SHA256 says; the upload "
            "begins anew.",
            sha256=sha256,
        )
    said = Whole(upload.generation, chunk.source_mtime, sha256)
    displacing.make_way(target, current(target), upload.generation)
    with storage.locked(target.place), storage.open_file(place) as file:
        check_still(target)
        stored = take_place(target, Arrived(place, target.place, file, sha256), said)
        storage.remove(place)  # where the same bytes stood in their place before
        upload.delete()
    wake.publish_on_commit("file", stored.row.pk, stored.row.size)
    return Stored(stored.row, stored.appended, chunk.offset + len(chunk.data), stored.duplicate)


def _sha256_of(upload: Upload) -> str:
    digest = _digests.take(upload)
    if digest is not None:
        return digest.hexdigest()
    return storage.sha256_of(storage.upload_place(upload.pk), upload.size)


class _Digests:
    """Running hashes of the uploads that this process receives, so that the whole need not be
    read once more at its end. One that another process has moved meanwhile is of no use."""

    MOST = 64

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[int, datetime, Any]] = OrderedDict()
        self._turn = threading.Lock()

    def take(self, upload: Upload) -> Any | None:
        """The hash of its first `size` bytes, if it is known here."""
        with self._turn:
            size, moved_at, digest = self._kept.pop(upload.pk, (0, None, None))
        if not upload.size:
            return hashlib.sha256()
        return digest if (size, moved_at) == (upload.size, upload.moved_at) else None

    def keep(self, upload: Upload, digest: Any) -> None:
        with self._turn:
            self._kept[upload.pk] = upload.size, upload.moved_at, digest
            if len(self._kept) > self.MOST:
                self._kept.popitem(last=False)


_digests = _Digests()


# --- what nobody finishes -----------------------------------------------------------------------


def tidy(now: datetime) -> int:
    """Remove the bytes of abandoned uploads, and in time their rows. Returns how many files."""
    abandoned_at = now - _expires_after()
    Upload.objects.filter(moved_at__lt=abandoned_at - FORGOTTEN_AFTER).delete()
    live = Upload.objects.filter(moved_at__gte=abandoned_at, job__deleted_at=None)
    abandoned = set(storage.upload_numbers()) - set(live.values_list("pk", flat=True))
    for number in abandoned:
        storage.remove(storage.upload_place(number))
    # What is gone takes no room in a quota, though its row stays for a while.
    Upload.objects.filter(moved_at__lt=abandoned_at, size__gt=0).update(size=0)
    return len(abandoned)
