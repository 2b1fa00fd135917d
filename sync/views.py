"""What is read: how far a run's files are, and the files themselves. For people and agents."""

import re
from collections.abc import Iterator
from typing import BinaryIO

from django.http import HttpResponse, StreamingHttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from devices.auth import DeviceAuthentication
from devices.models import Device
from experiments.models import Attempt, Job
from labsite.clock import database_now
from labsite.errors import NotFound
from sync import ownership, status, storage
from sync.models import SyncFile
from sync.storage import Place

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


class RunView(APIView):
    """Of one run: for whoever is signed in, and for a device that has a try of it."""

    authentication_classes = [DeviceAuthentication, SessionAuthentication, TokenAuthentication]

    def job(self, request: Request, uid: str) -> Job:
        job = Job.objects.filter(uid=uid).select_related("project").first()
        if job is None or not self._may_read(request, job):
            raise NotFound(ownership.NOT_YOURS)
        ownership.check_present(job)
        return job

    @staticmethod
    def _may_read(request: Request, job: Job) -> bool:
        if not isinstance(request.auth, Device):
            return bool(request.user.pk)
        mine = Attempt.objects.filter(device=request.auth)
        return mine.filter(job=job).exists() or any(
            file["experiment_uid"] == job.uid
            for attempt in mine.open().exclude(resume=None)
            for file in attempt.resume["files"]
        )


class StatusView(RunView):
    """GET sync/status/<uid>"""

    @extend_schema(responses={(200, "application/json"): {"type": "object"}})
    def get(self, request: Request, uid: str) -> Response:
        job = self.job(request, uid)
        data = status.as_json(job, status.of(job, database_now()))
        return Response({"success": True, "data": data}, headers={"Cache-Control": "no-store"})


class FileView(RunView):
    """GET sync/file/<uid>/<name>, whole or a Range of it; only what was acknowledged."""

    @extend_schema(responses={(200, "application/octet-stream"): bytes})
    def get(self, request: Request, uid: str, name: str) -> HttpResponse | StreamingHttpResponse:
        job = self.job(request, uid)
        row = SyncFile.objects.results().filter(job=job, name=name).first()
        if row is None:
            raise NotFound(f"The server has no “{name[:80]}” of this run.")
        try:
            file = storage.open_file(Place.of(job, row.name))
        except FileNotFoundError as exc:
            raise NotFound(f"“{row.name}” is not on the server's disk any more.") from exc
        size = storage.readable_size(row.name, row.size, file)
        return ranged(file, size, request.headers.get("Range", ""), row.name.split("/")[-1])


def ranged(
    file: BinaryIO, size: int, asked: str, name: str
) -> HttpResponse | StreamingHttpResponse:
    """A file's first `size` bytes, or the one range of them that was asked for (RFC 9110 §14).

    The pool's loop sends the file by itself (`file_to_send`); other servers stream it.
    """
    part = _range(asked, size)
    if part is None:
        file.close()
        return HttpResponse(status=416, headers={"Content-Range": f"bytes */{size}"})
    offset, length = part
    response = StreamingHttpResponse(
        FilePart(file, offset, length),
        status=206 if asked and _RANGE.fullmatch(asked) else 200,
        content_type="application/octet-stream",
        headers={
            "Content-Length": str(length),
            "Accept-Ranges": "bytes",
            "Content-Disposition": f'attachment; filename="{name}"',
        },
    )
    if response.status_code == 206:
        response["Content-Range"] = f"bytes {offset}-{offset + length - 1}/{size}"
    response.file_to_send = (file, offset, length)
    return response


def _range(asked: str, size: int) -> tuple[int, int] | None:
    """Offset and length; the whole for a header we do not know; None if it cannot be had."""
    match = _RANGE.fullmatch(asked)
    if not match or match.groups() == ("", ""):
        return 0, size
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        return (size - length, length) if length else None
    start = int(first)
    end = min(int(last) if last else size - 1, size - 1)
    return (start, end - start + 1) if start <= end else None


class FilePart:
    """A stretch of an open file, block by block. Its response closes it, sent or not."""

    def __init__(self, file: BinaryIO, offset: int, length: int) -> None:
        self._file, self._offset, self._left = file, offset, length
        self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(self._offset)
        while self._left and (block := self._file.read(min(storage.BLOCK_BYTES, self._left))):
            self._left -= len(block)
            yield block
