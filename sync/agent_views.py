"""What agents send: deltas, whole files, checkpoints (protocol §6)."""

import hashlib
import io
from typing import Any, BinaryIO

from drf_spectacular.utils import extend_schema
from rest_framework.parsers import BaseParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from agent import wire
from devices.agent_views import AgentView
from labsite.errors import BadRequest, TooLarge
from sync import append, ownership, resume, storage, summary, upload
from sync.errors import ChecksumDiffers
from sync.ownership import Target
from sync.serializers import read_headers, read_point

STORED = {
    "type": "object",
    "properties": {
        "success": {"type": "boolean"},
        "data": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "bytes_synced": {"type": "integer"},
                "bytes_appended": {"type": "integer"},
                "acked_bytes": {"type": "integer"},
                "size_bytes": {"type": "integer"},
                "generation": {"type": "integer"},
                "duplicate": {"type": "boolean"},
                "complete": {"type": "boolean"},
            },
        },
    },
}
JSON = "application/json"
BINARY = {"application/octet-stream": {"type": "string", "format": "binary"}}


class RawParser(BaseParser):
    """The body itself, unread: `request.data` is the stream."""

    media_type = "application/octet-stream"

    def parse(self, stream, media_type=None, parser_context=None) -> BinaryIO:
        return stream


class UploadView(AgentView):
    """An upload as a form (`field`) or as a raw body."""

    parser_classes = [MultiPartParser, RawParser]
    field: str

    def target(self, request: Request, uid: str, name: str, headers: dict[str, Any]) -> Target:
        return ownership.target(request.auth, uid, name, headers["attempt"])

    def sent(self, request: Request) -> BinaryIO | bytes:
        """The bytes: an open stream, or what a form field held as text."""
        with storage.disk_errors_are_refused():  # a form's file is laid down while it is parsed
            data = request.data
        if not hasattr(data, "getlist"):  # a raw body
            return data
        sent = data.get(self.field)
        if sent is None:
            raise BadRequest(
                f"The form has no field “{self.field}” (curl: -F {self.field}=@FILE).",
                field=self.field,
            )
        return sent.encode() if isinstance(sent, str) else sent

    @staticmethod
    def answer(message: str, stored: append.Stored, bytes_synced: int) -> Response:
        facts = {"message": message, "bytes_synced": bytes_synced, **stored.facts}
        return Response({"success": True, "data": facts})


class DeltaView(UploadView):
    """POST sync/delta/<uid>/<file>: add to a file that grows."""

    field = "delta"

    @extend_schema(request=BINARY, responses={(200, JSON): STORED})
    def post(self, request: Request, uid: str, name: str) -> Response:
        headers = read_headers(request.headers)
        target = self.target(request, uid, name, headers)
        data = self._read(request)
        _check_sum(data, headers["chunk_sha256"])
        delta = append.Delta(
            data,
            generation=headers["generation"],
            offset=headers["offset"],
            source_mtime=headers["mtime"],
            file_sha256=headers["file_sha256"],
            key=headers["key"],
        )
        stored = append.append(target, delta)
        note_derived(target, stored)
        return self.answer("Delta synced successfully", stored, len(data))

    def _read(self, request: Request) -> bytes:
        if not int(request.META.get("CONTENT_LENGTH") or 0):
            return b""
        sent = self.sent(request)
        data = sent if isinstance(sent, bytes) else sent.read(wire.MAX_CHUNK_BYTES + 1)
        if len(data) > wire.MAX_CHUNK_BYTES:
            raise TooLarge(
                "A delta may have 4 MiB at most; send the rest as another one.",
                limit=wire.MAX_CHUNK_BYTES,
            )
        return data


class FullView(UploadView):
    """POST sync/full/<uid>/<file>: put a whole file in the place of what was there."""

    field = "file"

    @extend_schema(request=BINARY, responses={(200, JSON): STORED})
    def post(self, request: Request, uid: str, name: str) -> Response:
        headers = read_headers(request.headers)
        target = self.target(request, uid, name, headers)
        length = int(request.META.get("CONTENT_LENGTH") or 0)
        is_form = (request.content_type or "").startswith("multipart/")
        source = self.sent(request) if length else b""
        whole = upload.Whole(
            generation=headers["generation"],
            source_mtime=headers["mtime"],
            sha256=headers["file_sha256"],
            length=None if is_form else length,
        )
        stored = upload.store(target, _stream(source), whole)
        note_derived(target, stored)
        return self.answer("File synced successfully", stored, stored.row.size)


def _stream(sent: BinaryIO | bytes) -> BinaryIO:
    return io.BytesIO(sent) if isinstance(sent, bytes) else sent


def _check_sum(data: bytes, sha256: str) -> None:
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise ChecksumDiffers("The chunk is not what X-Chunk-SHA256 says; send it again.")


def note_derived(target: Target, stored: append.Stored) -> None:
    """Bring up to date what is derived from results: the metrics' summary, where to resume."""
    if target.shelf:
        return
    if target.name == f"{target.job.run_name}.csv":
        summary.update(target.job, stored.row)
        if resume.is_to_name(target.job, target.name):
            resume.note_files(target.job)
    elif stored.row.complete and target.name.endswith(".pt"):
        resume.note_files(target.job)


class CheckpointView(AgentView):
    """POST sync/checkpoint/<uid>: how far the script has come, for a next attempt."""

    @extend_schema(request={JSON: {"type": "object"}}, responses={(200, JSON): STORED})
    def post(self, request: Request, uid: str) -> Response:
        headers = read_headers(request.headers)
        attempt = ownership.attempt_of(request.auth, uid, headers["attempt"])
        if int(request.META.get("CONTENT_LENGTH") or 0) > wire.MAX_CHECKPOINT_BYTES:
            raise TooLarge("A checkpoint may have 16 KiB.", limit=wire.MAX_CHECKPOINT_BYTES)
        point = read_point(request.data)
        applied = ownership.owns_results(attempt) and resume.note_point(attempt, point)
        message = "Checkpoint saved" if applied else "An older checkpoint changes nothing"
        return Response({"success": True, "data": {"message": message, "applied": applied}})
