"""Snapshots of code for the agents that run them (protocol §4)."""

import uuid

from django.http import HttpResponse, StreamingHttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from agent.code import manifest
from devices.agent_views import AgentView
from experiments.models import Attempt, Snapshot
from labsite.errors import BadRequest, NotFound
from sync.code import blobs, giving

JSON = "application/json"
WANTED = {
    "type": "object",
    "properties": {"sha256": {"type": "array", "items": {"type": "string"}}},
}


class AttemptCodeView(AgentView):
    """GET agent/attempts/<id>/code: the manifest of the snapshot that it runs in."""

    @extend_schema(responses={(200, JSON): {"type": "object"}})
    def get(self, request: Request, attempt_id: uuid.UUID) -> HttpResponse:
        snapshot = snapshot_of(request, attempt_id)
        try:
            document = blobs.read(snapshot.sha256)
        except FileNotFoundError as exc:
            raise giving.gone() from exc
        return HttpResponse(document, content_type=JSON)


class AttemptFilesView(AgentView):
    """POST agent/attempts/<id>/code/files: files of that snapshot, as frames."""

    @extend_schema(request={JSON: WANTED}, responses={(200, "application/octet-stream"): bytes})
    def post(self, request: Request, attempt_id: uuid.UUID) -> StreamingHttpResponse:
        sizes = giving.held_by(snapshot_of(request, attempt_id)).sizes
        wanted = request.data.get("sha256") if isinstance(request.data, dict) else None
        if not isinstance(wanted, list) or len(wanted) > manifest.MAX_BATCH_FILES:
            raise BadRequest("“sha256” must be a list of at most 1000.", field="sha256")
        if not all(isinstance(one, str) and one in sizes for one in wanted):
            raise NotFound("One of these is no file of the code of this attempt.")
        made = giving.Frames({one: sizes[one] for one in wanted})
        response = StreamingHttpResponse(made, content_type="application/octet-stream")
        response.parts_to_send = made
        return response


def snapshot_of(request: Request, attempt_id: uuid.UUID) -> Snapshot:
    mine = Attempt.objects.filter(pk=attempt_id, device=request.auth)
    found = mine.exclude(job__snapshot=None).select_related("job__snapshot").first()
    if found is None:
        raise NotFound("There is no such attempt, or it runs in no snapshot, or it is another's.")
    return found.job.snapshot
