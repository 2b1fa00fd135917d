"""What is read: how far a run's files are, and the files themselves. For people and agents."""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework.authentication import SessionAuthentication
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from devices.auth import DeviceAuthentication
from devices.models import Device
from experiments.models import Attempt, Job, Project
from labsite.clock import database_now
from labsite.errors import NotFound
from people.audit import recorded
from people.auth import IsManager, IsPerson, MayWrite, TokenAuthentication
from sync import disk, freeing, ownership, status, storage
from sync.models import SyncFile, Trash
from sync.ranges import Asked, ranged
from sync.serializers import DiskSerializer, RuleSerializer, TrashSerializer
from sync.storage import Place

PLAN = {
    "type": "object",
    "properties": {
        "what": {"type": "string"},
        "older_than_days": {"type": "integer"},
        "runs": {"type": "integer"},
        "deleted_runs": {"type": "array", "items": {"type": "string"}},
        "files": {"type": "integer"},
        "size_bytes": {"type": "integer"},
        "unsure_runs": {"type": "integer"},
        "confirm": {"type": "string"},
    },
}


class RunView(APIView):
    """Of one run: for whoever sees its project, and for a device that has a try of it."""

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
            return Job.objects.visible_to(request.user).filter(pk=job.pk).exists()
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
    """GET sync/file/<uid>/<name>, whole or a Range of it; only what was acknowledged.

    The ETag is the version's, of which bytes are only added: whoever follows a log asks for
    `Range: bytes=N-` with `If-Range`, and is sent what is new (206), nothing (416), or another
    try's file from its beginning (200).
    """

    @extend_schema(responses={(200, "application/octet-stream"): bytes})
    def get(self, request: Request, uid: str, name: str) -> HttpResponse | StreamingHttpResponse:
        job = self.job(request, uid)
        rows = SyncFile.objects.results().filter(job=job)
        row = None if "\x00" in name else rows.filter(name=name).first()
        if row is None:
            words = _("The server has no “%(name)s” of this run.")
            raise NotFound(words % {"name": name[:80]})
        try:
            file = storage.open_file(Place.of(job, row.name))
        except FileNotFoundError as exc:
            words = _("“%(name)s” is not on the server's disk any more.")
            raise NotFound(words % {"name": row.name}) from exc
        size = storage.readable_size(row.name, row.size, file)
        version = f"{row.attempt}.{row.generation}"
        return ranged(file, size, Asked.by(request.headers), row.name.split("/")[-1], version)


class OfManagers(APIView):
    """Space on the server is the managers' business."""

    authentication_classes = [SessionAuthentication, TokenAuthentication]
    permission_classes = [IsManager]


class FreeView(OfManagers):
    """GET and POST sync/projects/<name>/free: what a rule would delete; and do it."""

    @extend_schema(parameters=[RuleSerializer], responses={(200, "application/json"): PLAN})
    def get(self, request: Request, name: str) -> Response:
        """What would go, exactly; nothing does. Its `confirm` is what POST wants."""
        rule = self._asked(request.query_params)
        found = freeing.plan(get_object_or_404(Project, name=name), rule.rule, database_now())
        return Response(found.facts)

    @extend_schema(request=RuleSerializer, responses={201: TrashSerializer})
    def post(self, request: Request, name: str) -> Response:
        """Delete what the plan showed, into the trash; 409 if it is not the same any more."""
        asked = self._asked(request.data)
        project = get_object_or_404(Project, name=name)
        confirm, now = asked.validated_data["confirm"], database_now()
        made = freeing.free(project, asked.rule, confirm, now, by=request.user)
        return Response(TrashSerializer(made).data, status=201)

    @staticmethod
    def _asked(data: Any) -> RuleSerializer:
        asked = RuleSerializer(data=data)
        asked.is_valid(raise_exception=True)
        return asked


class TrashView(OfManagers):
    """GET sync/projects/<name>/trash: the newest 100 deletions, restorable or not."""

    permission_classes = [IsPerson]

    @extend_schema(responses=TrashSerializer(many=True))
    def get(self, request: Request, name: str) -> Response:
        project = get_object_or_404(Project.objects.visible_to(request.user), name=name)
        rows = project.trash.select_related("project", "by", "changed_by")
        return Response(TrashSerializer(rows.prefetch_related("jobs")[:100], many=True).data)


class TrashVerbView(OfManagers):
    """POST sync/trash/<pk>/restore and /empty: bring it back, or remove it for good."""

    permission_classes = [MayWrite]

    @extend_schema(request=None, responses=TrashSerializer)
    def post(self, request: Request, pk: str, verb: str) -> Response:
        seen = Project.objects.visible_to(request.user)
        row = get_object_or_404(Trash, pk=pk, project__in=seen)
        if not row.may_be_turned_by(request.user):
            raise PermissionDenied(_("Only a manager may do this, and whose run it was."))
        turn = row.restore if verb == "restore" else row.empty
        with recorded(request.user, row, verb):
            turn(database_now(), by=request.user)
        return Response(TrashSerializer(row).data)


class DiskView(OfManagers):
    """GET sync/disk: how full the disk of the runs' files is, and how long it will last."""

    @extend_schema(responses=DiskSerializer)
    def get(self, request: Request) -> Response:
        return Response(DiskSerializer(disk.forecast(database_now())).data)
