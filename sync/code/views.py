"""Snapshots of code over HTTP: from people, and back to them."""

import io
import zlib
from typing import Any, BinaryIO

from django.http import StreamingHttpResponse
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.authentication import SessionAuthentication
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agent.code import manifest
from agent.code.manifest import Damaged
from experiments.models import Job
from labsite.clock import database_now
from labsite.errors import BadRequest, NotFound
from people.auth import IsPerson, MayWrite, TokenAuthentication
from sync.code import giving, taking
from sync.serializers import UnsupportedEncoding

JSON = "application/json"
BINARY = {"application/octet-stream": {"type": "string", "format": "binary"}}
TEXT = {"type": "string"}
TAKEN = {
    "type": "object",
    "properties": {"sha256": TEXT, "missing": {"type": "array", "items": TEXT}},
}
STORED = {"type": "object", "properties": {"files": {"type": "integer"}}}
ENCODING = [OpenApiParameter("Content-Encoding", location=OpenApiParameter.HEADER)]


class RawParser(BaseParser):
    """The body itself, unread: `request.data` is the stream."""

    media_type = "application/octet-stream"

    def parse(self, stream, media_type=None, parser_context=None) -> Any:
        return stream


class OfPeople(APIView):
    authentication_classes = [SessionAuthentication, TokenAuthentication]
    permission_classes = [MayWrite]
    parser_classes = [RawParser]

    @staticmethod
    def body(request: Request) -> BinaryIO:
        """Of a request without one DRF makes an empty form."""
        return request.data if hasattr(request.data, "read") else io.BytesIO()

    @staticmethod
    def is_packed(request: Request) -> bool:
        encoding = request.headers.get("Content-Encoding", "identity")
        if encoding not in ("identity", "gzip"):
            raise UnsupportedEncoding(_("Send it as it is, or with Content-Encoding: gzip."))
        return encoding == "gzip"


class CodeView(OfPeople):
    """POST code: a snapshot's manifest; what is missing of its files."""

    @extend_schema(
        request=BINARY,
        parameters=ENCODING,
        responses={(201, JSON): TAKEN, (202, JSON): TAKEN},
    )
    def post(self, request: Request) -> Response:
        """201: the snapshot is made, and a job may name it. 202: send what is `missing` to
        code/files, then this once more. Its form: docs/protocol.md."""
        body = taking.Unpacked(
            self.body(request), manifest.MAX_DOCUMENT_BYTES, packed=self.is_packed(request)
        )
        try:
            document = body.all()
        except (Damaged, zlib.error) as exc:
            raise BadRequest(_("The manifest did not arrive whole: send it again.")) from exc
        taken = taking.take_manifest(document, by=request.user, now=database_now())
        status = 202 if taken.snapshot is None else 201
        return Response({"sha256": taken.sha256, "missing": taken.missing}, status=status)


class FilesView(OfPeople):
    """POST code/files: files of snapshots, as frames."""

    @extend_schema(request=BINARY, parameters=ENCODING, responses={(200, JSON): STORED})
    def post(self, request: Request) -> Response:
        """All of them are kept, or none; twice is once. At most 1000 in a request."""
        length = int(request.META.get("CONTENT_LENGTH") or 0)
        packed = self.is_packed(request)
        stored = taking.take_files(
            self.body(request), length, packed=packed, by=request.user, now=database_now()
        )
        return Response({"files": stored})


class ArchiveView(APIView):
    """GET code/runs/<uid>.tar: the code of a run, for whoever sees the run."""

    authentication_classes = [SessionAuthentication, TokenAuthentication]
    permission_classes = [IsPerson]

    @extend_schema(responses={(200, "application/x-tar"): bytes})
    def get(self, request: Request, uid: str) -> StreamingHttpResponse:
        jobs = Job.objects.visible_to(request.user).present()
        job = jobs.select_related("project", "snapshot").filter(uid=uid).first()
        if job is None or job.snapshot is None:
            raise NotFound(_("There is no such run, or the server has no code of it."))
        called = f"{job.project.name}-{job.run_name}-code"
        made = giving.Tar(giving.held_by(job.snapshot), called, job.snapshot.made_at.timestamp())
        headers = {
            "Content-Disposition": content_disposition_header(True, f"{called}.tar"),
            "Cache-Control": "no-store",
        }
        response = StreamingHttpResponse(made, content_type="application/x-tar", headers=headers)
        response.parts_to_send = made
        return response
