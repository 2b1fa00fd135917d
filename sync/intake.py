"""Taking in what agents send, once a request or a part of one is read: to whom it belongs, what it
does, and what is derived from it."""

import hashlib
import io
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from agent import wire
from devices.models import Device
from labsite.errors import BadRequest
from sync import append, chunks, ownership, resume, summary, upload
from sync.append import Delta, Stored
from sync.chunks import Chunk, Progress
from sync.curves.sources import is_source
from sync.errors import ChecksumDiffers
from sync.ownership import Target
from sync.serializers import check_plain, raw

DELTA = "Delta synced successfully"


class Upload(Protocol):
    """A file, or a piece of one, as somebody sends it; `headers` are those of read_headers()."""

    @property
    def headers(self) -> dict[str, Any]: ...

    @property
    def target(self) -> Target: ...


@dataclass(frozen=True)
class Sent:
    """As a device sends it."""

    device: Device
    uid: str
    name: str
    headers: dict[str, Any]

    @property
    def target(self) -> Target:
        return ownership.target(self.device, self.uid, self.name, self.headers["attempt"])


@dataclass(frozen=True)
class Taken:
    message: str
    result: Stored
    bytes_synced: int

    @property
    def status(self) -> int:
        return 202 if isinstance(self.result, Progress) else 200

    @property
    def facts(self) -> dict[str, Any]:
        facts = {"message": self.message, "bytes_synced": self.bytes_synced}
        return {**facts, **self.result.facts}


def take_delta(sent: Sent, body: bytes) -> Taken:
    """Add to a file that grows; see append()."""
    target, delta = sent.target, delta_of(sent, body)
    stored = append.append(target, delta)
    note_derived(target, stored)
    return Taken(DELTA, stored, len(delta.data))


def delta_of(sent: Sent, body: bytes) -> Delta:
    """
    Raises:
        TooLarge, ChecksumDiffers: the body is not what its headers say, or too long.
    """
    headers = sent.headers
    data = raw(body, headers, wire.MAX_CHUNK_BYTES)
    _check_sum(data, headers["chunk_sha256"])
    return Delta(
        data,
        generation=headers["generation"],
        offset=headers["offset"],
        source_mtime=headers["mtime"],
        file_sha256=headers["file_sha256"],
        key=headers["key"],
    )


def take_full(sent: Upload, source: BinaryIO, length: int | None) -> Taken:
    """Put a whole file in its place; see upload.store().

    Args:
        length: of the body, where nothing but the file is in it.
    """
    headers, target = sent.headers, sent.target
    check_plain(headers)
    whole = upload.Whole(
        generation=headers["generation"],
        source_mtime=headers["mtime"],
        sha256=headers["file_sha256"],
        length=length,
    )
    stored = upload.store(target, source, whole)
    note_derived(target, stored)
    return Taken("File synced successfully", stored, stored.row.size)


def take_chunk(sent: Upload, body: bytes) -> Taken:
    """Add a chunk to a whole file on its way; see chunks.receive()."""
    headers, target = sent.headers, sent.target
    data = raw(body, headers, wire.MAX_UPLOAD_CHUNK_BYTES)
    _check_sum(data, headers["chunk_sha256"])
    chunk = Chunk(
        data,
        upload_id=headers["upload_id"],
        length=headers["upload_length"],
        sha256=headers["file_sha256"],
        offset=headers["upload_offset"],
        generation=headers["generation"],
        source_mtime=headers["mtime"],
    )
    result = chunks.receive(target, chunk)
    if isinstance(result, Progress):
        return Taken("Chunk stored", result, len(data))
    note_derived(target, result)
    return Taken("File synced successfully", result, len(data))


def take_part(sent: Sent, kind: str, data: bytes) -> Taken:
    """A part of a batch: `delta` or `file`."""
    if kind == "delta":
        return take_delta(sent, data)
    if kind != "file" or sent.headers["upload_id"]:
        raise BadRequest("A part of a batch is a “delta” or a whole “file”.", field="name")
    return take_full(sent, io.BytesIO(data), len(data))


def _check_sum(data: bytes, sha256: str) -> None:
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise ChecksumDiffers("The chunk is not what X-Chunk-SHA256 says; send it again.")


def note_derived(target: Target, stored: Stored) -> None:
    """Bring up to date what is derived from results: the metrics' summary, where to resume."""
    if target.shelf:
        return
    if is_metrics(target):
        summary.update(target.job, stored.row)
        if resume.is_to_name(target.job, target.name):
            resume.note_files(target.job)
    elif is_source(target.name):
        summary.update_others(target.job, stored.row)
    elif stored.row.complete and resume.is_checkpoint(target.name):
        resume.note_files(target.job)


def is_metrics(target: Target) -> bool:
    """Whether it is the run's own CSV."""
    return not target.shelf and target.name == f"{target.job.run_name}.csv"


def feeds_other_curves(target: Target) -> bool:
    """Whether it is another source of the run's curves, all of which are then looked at."""
    return not target.shelf and not is_metrics(target) and is_source(target.name)
