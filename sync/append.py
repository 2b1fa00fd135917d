"""The delta: adding to a file exactly once, whatever is lost, repeated or late (protocol §6.1).

The order of things is what makes it durable. Under the file's lock and outside any transaction:
cut off what was never acknowledged, write, fsync, and only then move the row by an UPDATE on
the version and size that were seen; only then answer. A crash at any point leaves bytes beyond
`SyncFile.size`, which the next writer cuts off, or an acknowledged state; never less.
"""

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.db import connection, transaction

from experiments.errors import LostRace
from labsite import wake
from labsite.clock import database_now
from sync import displacing, room, storage
from sync.errors import Deleted, Diverged, OffsetMismatch, StaleGeneration
from sync.models import SyncFile, Upload
from sync.ownership import Target, check_still

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delta:
    """One chunk. None: the documented curl line says nothing of it."""

    data: bytes
    generation: int | None = None
    offset: int | None = None
    source_mtime: int | None = None
    file_sha256: str = ""  # of the whole file, which ends with this chunk: confirm it
    key: str = ""  # Idempotency-Key, for a delta without an offset


@dataclass(frozen=True)
class Stored:
    """What was done, and what is stored now. Sizes in bytes."""

    row: SyncFile | Upload
    appended: int
    acked: int
    duplicate: bool

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "bytes_appended": self.appended,
            "acked_bytes": self.acked,
            "size_bytes": self.row.size,
            "generation": self.row.generation,
            "duplicate": self.duplicate,
            "complete": self.row.complete,
        }


def append(target: Target, delta: Delta) -> Stored:
    """Add a chunk to a file, once.

    Raises:
        OffsetMismatch, Diverged, StaleGeneration: with where to go on from.
        NameTaken: a file of the run is in the way; see displacing.check().
        LostRace: another attempt was begun while this chunk waited for the file.
        FileBusy, DiskFull, QuotaFull: nothing was kept; the same request may come again.
        Deleted: nobody wants it any more.
    """
    room.admit(target, len(delta.data))
    if not delta.offset:  # else there are bytes of it already, or it is refused
        displacing.make_way(target, current(target), delta.generation)
    with storage.locked(target.place):
        check_still(target)
        row = current(target)
        if delta.key and row and row.last_key == delta.key:
            return Stored(row, 0, row.last_answer["acked"], duplicate=True)
        row = begin(target, row, delta)
        repair(target, row)
        stored = _add(target, row, delta)
        if delta.file_sha256:
            _confirm(target, row, delta.file_sha256)
    if stored.appended or delta.file_sha256:
        wake.publish_on_commit("file", row.pk, row.size)
    return stored


def current(target: Target) -> SyncFile | None:
    """
    Raises:
        Deleted: it lies in the trash, or did until it was removed from there.
    """
    for row in SyncFile.objects.raw(_asked(), [target.job.pk, target.shelf, target.name, 0]):
        if row.trash_id:
            raise Deleted(f"{target.name} was deleted; it is not wanted any more.")
        row.job = target.job
        return row
    return None


def begin(target: Target, row: SyncFile | None, delta: Delta) -> SyncFile:
    """The row that the chunk is about: that which is, or one of a new version.

    Rule 4: order is (attempt, generation). What is lower than the newest is stale; what is
    higher begins at 0, and what was there is laid aside.
    """
    number = target.number
    if row is None:
        check_begins_at_zero(delta.offset)
        return displacing.new_row(target, delta.generation or 1)
    version = (number, row.generation if delta.generation is None else delta.generation)
    if version < row.version:
        raise StaleGeneration(
            f"A newer version of {target.name} has been seen.",
            attempt=row.attempt,
            generation=row.generation,
        )
    if version == row.version:
        return row
    if delta.generation is None and number > row.attempt:
        version = (number, row.generation + 1)
    check_begins_at_zero(delta.offset)
    aside = storage.keep_generation(target.place, row.generation)
    fields = {"attempt": version[0], "generation": version[1], "aside_bytes": aside}
    return change(row, size=0, last_key="", **fields)


def check_begins_at_zero(offset: int | None) -> None:
    if offset:
        raise OffsetMismatch("A new version begins at offset 0.", expected_offset=0)


def change(row: SyncFile, **fields: Any) -> SyncFile:
    """Move the row from what was seen to what is now, and with it what its project takes;
    whatever moves it unmakes its hash.

    Raises:
        LostRace: it is not as it was seen, which the file's lock should have kept; or it was
            deleted meanwhile.
    """
    with transaction.atomic():
        more_bytes = move(row, **fields)
        if more_bytes is None:
            raise LostRace(f"{row.name} was changed by another request; send it again.")
        row.job.project.note_used(more_bytes)
    return row


def move(row: SyncFile, **fields: Any) -> int | None:
    """The row alone, in a transaction of the caller's, who then notes what its project takes.

    Returns:
        How many bytes more its project takes by it; None: it is not as it was seen.
    """
    fields = {"synced_at": database_now(), "sha256": "", "complete": False, **fields}
    seen = (row.pk, row.attempt, row.generation, row.size)
    if not _moved(fields, seen):
        return None
    before = row.size + row.aside_bytes
    for name, value in fields.items():
        setattr(row, name, value)
    return row.size + row.aside_bytes - before


def _moved(fields: dict[str, Any], seen: tuple[int, ...]) -> bool:
    field = SyncFile._meta.get_field
    values = [field(name).get_db_prep_save(value, connection) for name, value in fields.items()]
    with connection.cursor() as cursor:
        cursor.execute(_update(tuple(fields)), [*values, *seen])
        return cursor.rowcount == 1


# Composing these two anew for each delta would take longer than all the rest of it.


@cache
def _asked() -> str:
    rows = SyncFile.objects.filter(job=0).filter(shelf=0).filter(name="-").filter(displaced=0)
    return rows.order_by().query.sql_with_params()[0]


@cache
def _update(names: tuple[str, ...]) -> str:
    columns = ", ".join(f"{SyncFile._meta.get_field(name).column} = %s" for name in names)
    return (
        f"UPDATE {SyncFile._meta.db_table} SET {columns} WHERE trash_id IS NULL"  # noqa: S608
        " AND id = %s AND attempt = %s AND generation = %s AND size = %s"
    )


def repair(target: Target, row: SyncFile) -> None:
    """A file shorter than what was acknowledged: a disk that lied, or a hand in the folder."""
    actual = storage.size_of(target.place)
    if actual < row.size:
        logger.error(
            "%s holds %d bytes, and %d were acknowledged; they are asked for again",
            target.place.path, actual, row.size,
        )  # fmt: skip
        change(row, size=actual, outdated=True)


def _add(target: Target, row: SyncFile, delta: Delta) -> Stored:
    """Rules 1 to 3 and 6, on a repaired file."""
    offset = row.size if delta.offset is None else delta.offset
    if offset > row.size:
        raise OffsetMismatch(
            f"{target.name} ends at {row.size}, not at {offset}.", expected_offset=row.size
        )
    overlap = delta.data[: row.size - offset]
    if overlap and overlap != storage.read(target.place, offset, len(overlap)):
        raise Diverged(
            f"{target.name} holds other bytes from {offset} on.", expected_offset=row.size
        )
    news = delta.data[len(overlap) :]
    acked = offset + len(delta.data)
    if news:
        storage.write_at(target.place, row.size, news)
        change(row, size=row.size + len(news), **said(delta), **_remembered(delta, acked))
    return Stored(row, len(news), acked, duplicate=bool(delta.data) and not news)


def said(delta: Delta) -> dict[str, Any]:
    """What a row keeps of a chunk that went on at its end."""
    fields: dict[str, Any] = {"outdated": False}
    if delta.source_mtime is not None:
        fields["source_mtime"] = delta.source_mtime
    return fields


def _remembered(delta: Delta, acked: int) -> dict[str, Any]:
    return {"last_key": delta.key, "last_answer": {"acked": acked}} if delta.key else {}


def _confirm(target: Target, row: SyncFile, sha256: str) -> None:
    """The agent says that this is the whole file: compare it to the last byte."""
    if row.complete and row.sha256 == sha256:
        return
    if not row.size:
        storage.write_at(target.place, 0, b"")  # an empty file is a file
    if storage.sha256_of(target.place, row.size) != sha256:
        raise Diverged(
            f"{target.name} is not the file whose hash was sent.", expected_offset=row.size
        )
    change(row, sha256=sha256, complete=True)
