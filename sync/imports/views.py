"""The files of imported runs, as whoever imports them sends them: whole, or in chunks, exactly as
agents send theirs (protocol §6.2). What differs is whose they are, and that people are told."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.utils.datastructures import CaseInsensitiveMapping
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.authentication import SessionAuthentication
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agent import wire
from labsite.errors import NotFound
from people.auth import MayWrite, TokenAuthentication
from sync import chunks, intake, ownership
from sync.agent_views import BINARY, FULL_HEADERS, JSON, STORED, RawParser, answer, length_of
from sync.errors import DiskFull, QuotaFull
from sync.ownership import Target
from sync.serializers import read_headers


@dataclass(frozen=True)
class Sent:
    """A file, or a chunk of one, as a person sends it."""

    target: Target
    headers: dict[str, Any]


@contextmanager
def told_to_people() -> Iterator[None]:
    """An agent keeps what is not taken and tries again; a person has to hear what to do."""
    try:
        yield
    except DiskFull as full:
        words = _(
            "The server's disk has no room for this file: a manager has to make room. Then "
            "import once more; what has arrived is not sent again."
        )
        raise DiskFull(words, **full.facts) from full
    except QuotaFull as full:
        words = _(
            "The project has used up its room on the server: delete some of its files, or ask a "
            "manager for more. Then import once more; what has arrived is not sent again."
        )
        raise QuotaFull(words, **full.facts) from full


class FileView(APIView):
    """POST sync/import/<uid>/<file>: put a whole file of an imported run in its place.

    With `X-Upload-Id` the body is one chunk of it: 202 until the last one, then 200.
    """

    authentication_classes = [SessionAuthentication, TokenAuthentication]
    permission_classes = [MayWrite]
    parser_classes = [RawParser]

    @extend_schema(
        request=BINARY,
        responses={(200, JSON): STORED, (202, JSON): STORED},
        parameters=FULL_HEADERS,
    )
    def post(self, request: Request, uid: str, name: str) -> Response:
        sent = self._sent(request, uid, name, read_headers(request.headers))
        length = length_of(request)
        body = request.data if length else io.BytesIO()
        with told_to_people():
            if sent.headers["upload_id"]:
                data = body.read(wire.MAX_UPLOAD_CHUNK_BYTES + 1)
                return answer(intake.take_chunk(sent, data))
            return answer(intake.take_full(sent, body, length))

    @extend_schema(
        parameters=[OpenApiParameter("upload_id", required=True)],
        responses={(200, JSON): {"type": "object"}},
    )
    def get(self, request: Request, uid: str, name: str) -> Response:
        """How far an upload is: `Upload-Offset`. 404: not begun, so from 0; 410: abandoned."""
        upload_id = request.query_params.get("upload_id", "")
        asked = CaseInsensitiveMapping({**request.headers, "X-Upload-Id": upload_id})
        sent = self._sent(request, uid, name, read_headers(asked, asks=True))
        whole, generation = sent.headers["file_sha256"], sent.headers["generation"]
        offset = chunks.offset_of(sent.target, upload_id, whole, generation)
        if offset is None:
            raise NotFound(_("No such upload is on its way: begin it at 0."))
        return Response(
            {"success": True, "data": {"upload_id": upload_id, "expected_offset": offset}},
            headers={"Upload-Offset": str(offset), "Cache-Control": "no-store"},
        )

    @staticmethod
    def _sent(request: Request, uid: str, name: str, headers: dict[str, Any]) -> Sent:
        return Sent(ownership.of_imported(request.user, uid, name), headers)
