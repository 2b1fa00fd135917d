"""What agents send: deltas, whole files, several of them at once, checkpoints (protocol §6)."""

import io
from typing import Any, BinaryIO

from django.utils.datastructures import CaseInsensitiveMapping
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.parsers import BaseParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from agent import wire
from devices.agent_views import AgentView
from devices.auth import RecentDeviceAuthentication
from labsite import api
from labsite.errors import BadRequest, NotFound, TooLarge, problem_of
from sync import chunks, intake, ownership, resume, storage
from sync.intake import Sent, Taken
from sync.multipart import Part, parts
from sync.serializers import check_plain, read_headers, read_point

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


HEADERS = ("X-Sync-Attempt", "X-Sync-Generation", "X-File-Mtime", "X-Chunk-SHA256")
ZIPPED = ("Content-Encoding", "X-Raw-Length")
BATCH = {"multipart/form-data": {"type": "object"}}
ANSWERS = {
    "type": "object",
    "properties": {
        "success": {"type": "boolean"},
        "data": {
            "type": "object",
            "properties": {
                "parts": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string"},
                            "status": {"type": "integer"},
                            "success": {"type": "boolean"},
                            "code": {"type": "string"},
                            "data": STORED["properties"]["data"],
                        },
                    },
                }
            },
        },
    },
}


def _headers(*more: str) -> list[OpenApiParameter]:
    names = HEADERS + ZIPPED + more
    return [OpenApiParameter(name, location=OpenApiParameter.HEADER) for name in names]


DELTA_HEADERS = _headers("X-Sync-Offset", "X-File-SHA256", "Idempotency-Key")
FULL_HEADERS = _headers("X-File-SHA256", "X-Upload-Id", "X-Upload-Length", "X-Upload-Offset")


class RawParser(BaseParser):
    """The body itself, unread: `request.data` is the stream."""

    media_type = "application/octet-stream"

    def parse(self, stream, media_type=None, parser_context=None) -> BinaryIO:
        return stream


class FormParser(RawParser):
    """A form whose parts' headers count; sync.multipart reads it."""

    media_type = "multipart/form-data"


class UploadView(AgentView):
    """An upload as a form (`field`) or as a raw body."""

    authentication_classes = [RecentDeviceAuthentication]
    parser_classes = [MultiPartParser, RawParser]
    field: str

    @staticmethod
    def named(request: Request, uid: str, name: str) -> Sent:
        return Sent(request.auth, uid, name, read_headers(request.headers))

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

    def read(self, request: Request, headers: dict[str, Any], limit: int) -> bytes:
        """The bytes in memory: one more than `limit` of a body that is longer."""
        if is_form(request):
            check_plain(headers)
        if not length_of(request):
            return b""
        sent = self.sent(request)
        return sent if isinstance(sent, bytes) else sent.read(limit + 1)


def length_of(request: Request) -> int:
    return int(request.META.get("CONTENT_LENGTH") or 0)


def is_form(request: Request) -> bool:
    return (request.content_type or "").startswith("multipart/")


def answer(taken: Taken) -> Response:
    headers = {"Upload-Offset": str(taken.result.row.size)} if taken.status == 202 else {}
    content = {"success": True, "data": taken.facts}
    return Response(content, status=taken.status, headers=headers)


class DeltaView(UploadView):
    """POST sync/delta/<uid>/<file>: add to a file that grows."""

    field = "delta"

    @extend_schema(request=BINARY, responses={(200, JSON): STORED}, parameters=DELTA_HEADERS)
    def post(self, request: Request, uid: str, name: str) -> Response:
        sent = self.named(request, uid, name)
        body = self.read(request, sent.headers, wire.MAX_CHUNK_BYTES)
        return answer(intake.take_delta(sent, body))


class FullView(UploadView):
    """POST sync/full/<uid>/<file>: put a whole file in the place of what was there.

    With `X-Upload-Id` the body is one chunk of it: 202 until the last one, then 200.
    """

    field = "file"

    @extend_schema(
        request=BINARY,
        responses={(200, JSON): STORED, (202, JSON): STORED},
        parameters=FULL_HEADERS,
    )
    def post(self, request: Request, uid: str, name: str) -> Response:
        sent = self.named(request, uid, name)
        if sent.headers["upload_id"]:
            body = self.read(request, sent.headers, wire.MAX_UPLOAD_CHUNK_BYTES)
            return answer(intake.take_chunk(sent, body))
        length = length_of(request)
        source = self.sent(request) if length else b""
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        return answer(intake.take_full(sent, stream, None if is_form(request) else length))

    @extend_schema(
        parameters=[OpenApiParameter("upload_id", required=True)],
        responses={(200, JSON): {"type": "object"}},
    )
    def get(self, request: Request, uid: str, name: str) -> Response:
        """How far an upload is: `Upload-Offset`. 404: not begun, so from 0; 410: abandoned."""
        upload_id = request.query_params.get("upload_id", "")
        asked = CaseInsensitiveMapping({**request.headers, "X-Upload-Id": upload_id})
        headers = read_headers(asked, asks=True)
        target = Sent(request.auth, uid, name, headers).target
        offset = chunks.offset_of(target, upload_id, headers["file_sha256"], headers["generation"])
        if offset is None:
            raise NotFound("No such upload is on its way: begin it at 0.")
        return Response(
            {"success": True, "data": {"upload_id": upload_id, "expected_offset": offset}},
            headers={"Upload-Offset": str(offset), "Cache-Control": "no-store"},
        )


class BatchView(AgentView):
    """POST sync/batch/<uid>: small deltas and files of one run, each for itself.

    multipart/form-data, a part each: its name is `delta` or `file`, its filename the file's name
    in the run, and it has the headers that a request of its own would have. They are done in
    their order; what is refused stops none of the others.
    """

    authentication_classes = [RecentDeviceAuthentication]
    parser_classes = [FormParser]

    @extend_schema(request=BATCH, responses={(200, JSON): ANSWERS})
    def post(self, request: Request, uid: str) -> Response:
        if length_of(request) > wire.MAX_BATCH_BYTES:
            raise TooLarge("A batch may have 8 MiB.", limit=wire.MAX_BATCH_BYTES)
        body = request.data.read() if length_of(request) else b""
        found = parts(request.META.get("CONTENT_TYPE", ""), body)
        answers = [self._done(request, uid, part) for part in found]
        return Response({"success": True, "data": {"parts": answers}})

    @staticmethod
    def _done(request: Request, uid: str, part: Part) -> dict[str, Any]:
        try:
            sent = Sent(request.auth, uid, part.name, read_headers(part.headers))
            taken = intake.take_part(sent, part.kind, part.data)
        except Exception as exc:
            refused = api.refusal_of(exc)
            if refused is None:
                raise
            return {"name": part.name, **problem_of(refused)}
        return {"name": part.name, "status": 200, "success": True, "data": taken.facts}


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
