"""The whole file: received beside its target, and put in its place at once (protocol §6.2).

A body arrives here spooled and complete. It is copied and hashed block by block into a file
beside the target, so that taking its place is a rename within one folder. Agents send files
above wire.MAX_WHOLE_FILE_BYTES in chunks (sync.chunks), which end in take_place() as well.
"""

from dataclasses import dataclass
from typing import Any, BinaryIO

from agent import wire
from labsite import wake
from labsite.errors import BadRequest
from sync import displacing, room, storage
from sync.append import Stored, change, current, repair
from sync.errors import ChecksumDiffers, StaleGeneration
from sync.models import SyncFile
from sync.ownership import Target, check_still
from sync.storage import Arrived, Incoming


@dataclass(frozen=True)
class Whole:
    """What a request says of the file. None: the documented curl line says nothing of it."""

    generation: int | None = None
    source_mtime: int | None = None
    sha256: str = ""
    length: int | None = None  # of the body, where nothing but the file is in it


def store(target: Target, source: BinaryIO, said: Whole) -> Stored:
    """Put `source` in the place of the run's file.

    Raises:
        ChecksumDiffers: it is not the file whose hash was sent; nothing was changed.
        StaleGeneration: a newer version has been seen.
        NameTaken: a file of the run is in the way; see displacing.check().
        LostRace: another attempt was begun while this file came in.
        FileBusy, DiskFull, QuotaFull: nothing was kept; the same request may come again.
        Deleted: nobody wants it any more.
    """
    row = current(target)
    in_the_way = displacing.check(target, row, said.generation)
    replaces = (row.size if row else 0) + sum(one.size for one in in_the_way)
    room.admit(target, 1 if said.length is None else said.length, replaces=replaces)
    with storage.incoming(target.place) as part:
        part.take(source)
        room.check_quota(target, part.size, replaces=replaces)  # a form tells no length before
        if said.length is not None and said.length != part.size:
            raise BadRequest(f"The body was cut short: {part.size} of {said.length} bytes came.")
        if said.sha256 and said.sha256 != part.sha256:
            raise ChecksumDiffers(
                f"The body's SHA-256 is {part.sha256}, not what X-File-SHA256 says.",
                sha256=part.sha256,
            )
        displacing.make_way(target, row, said.generation, in_the_way)
        with storage.locked(target.place):
            check_still(target)
            stored = take_place(target, part, said)
    wake.publish_on_commit("file", stored.row.pk, stored.row.size)
    return stored


def take_place(target: Target, part: Incoming | Arrived, said: Whole) -> Stored:
    """Put a file that is whole in its place, under the target's lock; see store()."""
    row = current(target)
    version = version_of(target, row, said.generation)
    if row is None:
        row = displacing.new_row(target, version[1])
        return _put(target, row, part, said)
    repair(target, row)
    check_not_stale(target, version, row.version)
    if version == row.version and _is_stored(target, row, part):
        change(row, sha256=part.sha256, complete=True, outdated=False)
        return Stored(row, 0, row.size, duplicate=True)
    return _replace(target, row, part, said, version)


def version_of(target: Target, row: SyncFile | None, generation: int | None) -> tuple[int, int]:
    """Of a file that is sent; without a generation it is that which is there, or a next one."""
    number = target.number
    if generation is not None:
        return number, generation
    if row is None:
        return number, 1
    return number, row.generation + (number > row.attempt)


def check_not_stale(target: Target, version: tuple[int, int], newest: tuple[int, int]) -> None:
    if version < newest:
        raise StaleGeneration(
            f"A newer version of {target.name} has been seen.",
            attempt=newest[0],
            generation=newest[1],
        )


def _is_stored(target: Target, row: SyncFile, part: Incoming | Arrived) -> bool:
    if row.size != part.size or storage.size_of(target.place) != row.size:
        return False
    if not row.size:
        return row.complete  # of an empty one that is not, there may be no file yet
    known = row.sha256 or storage.sha256_of(target.place, row.size)
    return known == part.sha256


def _replace(
    target: Target,
    row: SyncFile,
    part: Incoming | Arrived,
    said: Whole,
    version: tuple[int, int],
) -> Stored:
    grows = wire.grows(target.name)
    by_hand = said.generation is None and version == row.version
    moved: dict[str, Any] = {"attempt": version[0], "generation": version[1]}
    if grows and _only_grew(target, row, part, version):
        if by_hand and row.complete:
            moved["outdated"] = _is_an_agents(target)
        return _put(target, row, part, said, **moved)
    if by_hand:  # its agent, who has not sent it, finds out
        moved |= {"generation": row.generation + 1, "outdated": _is_an_agents(target)}
    # First the row: a crash in between would leave other bytes under a version that is gone on
    # with, or said to be whole.
    if grows:
        aside = storage.keep_generation(target.place, row.generation)
        change(row, size=0, last_key="", aside_bytes=aside, **moved)
    else:
        change(row, **moved)
    return _put(target, row, part, said, **moved)


def _is_an_agents(target: Target) -> bool:
    """Whether its agent has told of a file of that name: then its bytes are the run's."""
    return target.attempt is not None and target.name in target.attempt.files_advertised


def _only_grew(
    target: Target, row: SyncFile, part: Incoming | Arrived, version: tuple[int, int]
) -> bool:
    """Whether all that is stored is in it, so that nothing has to be laid aside. Agents that send
    a growing file as a whole give each version a generation of its own; of these the longer one,
    unless what lies there is not what was acknowledged (a server that was killed in between)."""
    if not _is_prefix(target, row, part):
        return False
    longer = row.size < part.size and storage.size_of(target.place) == row.size
    return version == row.version or longer


def _is_prefix(target: Target, row: SyncFile, part: Incoming | Arrived) -> bool:
    shorter = row.size <= part.size
    return shorter and (not row.size or storage.starts_with(target.place, part.file, row.size))


def _put(
    target: Target, row: SyncFile, part: Incoming | Arrived, said: Whole, **also: Any
) -> Stored:
    before = row.size
    part.put()
    mtime = {} if said.source_mtime is None else {"source_mtime": said.source_mtime}
    kept = {"sha256": part.sha256, "complete": True, "outdated": False}
    change(row, size=part.size, **kept | mtime | also)
    return Stored(row, max(0, part.size - before), part.size, duplicate=False)
