"""The endpoints of agents for attempts (protocol §3, §4). Polls as a rule enter by the lane
instead; the view here calls the same function and never holds one."""

import uuid
from dataclasses import asdict

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from agent import wire
from devices.agent_views import AgentView
from devices.schema import body, schema_of
from experiments import leases, reports
from experiments.models import Attempt, GivenSecret
from labsite import api
from labsite.errors import NotFound, Refused

JSON = "application/json"


class PollView(AgentView):
    """POST agent/poll: what is alive on a device; the answer is all that should be."""

    @extend_schema(request=body(wire.Poll), responses={(200, JSON): schema_of(wire.PollReply)})
    def post(self, request: Request) -> Response:
        message = api.message(wire.Poll, request.data)
        [answer] = leases.poll([leases.Call(request.auth.pk, message)])
        if isinstance(answer, Refused):
            raise answer
        return Response(asdict(answer))


class AttemptEventView(AgentView):
    """POST agent/attempts/<id>/events: started, exited, start_failed, released."""

    @extend_schema(
        request=body(wire.AttemptEvent), responses={(200, JSON): schema_of(wire.EventReply)}
    )
    def post(self, request: Request, attempt_id: uuid.UUID) -> Response:
        event = wire.decode(wire.AttemptEvent, request.data)
        return Response(asdict(reports.receive(request.auth, str(attempt_id), event)))


class AttemptSecretsView(AgentView):
    """GET agent/attempts/<id>/secrets: what the attempt was given, to mask it in its log. Also
    after its end, as long as that is kept (GivenSecret.forget)."""

    @extend_schema(responses={(200, JSON): schema_of(wire.AttemptSecrets)})
    def get(self, request: Request, attempt_id: uuid.UUID) -> Response:
        mine = Attempt.objects.filter(pk=attempt_id, device=request.auth).select_related("job")
        attempt = mine.first()
        found = GivenSecret.of([attempt]).get(attempt.pk, {}) if attempt else {}
        if attempt is None or found.keys() != set(attempt.job.secrets):
            raise NotFound(
                "There is no such attempt, or it is another's, or what it was given is not kept "
                "any more or cannot be opened: its log stays on its host."
            )
        answer = asdict(wire.AttemptSecrets(found))
        return Response(answer, headers={"Cache-Control": "no-store"})


class AttemptConfigView(AgentView):
    """GET agent/attempts/<id>/config: the job's YAML, byte for byte."""

    @extend_schema(responses={(200, "application/yaml"): bytes})
    def get(self, request: Request, attempt_id: uuid.UUID) -> HttpResponse:
        mine = Attempt.objects.filter(pk=attempt_id, device=request.auth)
        attempt = mine.select_related("job").first()
        if attempt is None or not attempt.job.config:
            raise NotFound("There is no such attempt, or it has no config, or it is another's.")
        return HttpResponse(bytes(attempt.job.config), content_type="application/yaml")
