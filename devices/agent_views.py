"""The endpoints of agents (protocol §1, §2). Heartbeats as a rule enter by the lane instead;
the view here calls the same function, and stands for tests, OpenAPI and other ASGI servers."""

from contextlib import suppress
from dataclasses import asdict

from django.conf import settings
from django.core.cache import cache
from drf_spectacular.utils import extend_schema
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agent import wire
from devices import heartbeat
from devices.auth import DeviceAuthentication, IsDevice
from devices.errors import EnrollmentRefused, TooManyTries
from devices.models import Device, EnrollmentCode, ServerIdentity, digest
from devices.schema import body, schema_of
from labsite import api
from labsite.clock import database_now
from labsite.errors import Refused

FAILED_TRIES_A_MINUTE = 5
JSON = "application/json"
DONE = {(200, JSON): {"type": "object", "properties": {"success": {"type": "boolean"}}}}


class WireParser(BaseParser):
    """JSON as strictly as the wire wants it, so that lane and view refuse alike."""

    media_type = "application/json"

    def parse(self, stream, media_type=None, parser_context=None):
        return wire.loads(stream.read())


class AgentView(APIView):
    """A request of an enrolled device; `request.auth` is that Device."""

    parser_classes = [WireParser]
    authentication_classes = [DeviceAuthentication]
    permission_classes = [IsDevice]


class EnrollView(APIView):
    """POST devices/enroll: let a new agent in by a code that a manager made."""

    authentication_classes: list = []
    permission_classes: list = []
    parser_classes = [WireParser]

    @extend_schema(request=body(wire.Enroll), responses={(201, JSON): schema_of(wire.Enrolled)})
    def post(self, request: Request) -> Response:
        message = api.message(wire.Enroll, request.data)
        tries = _Tries(message.enroll_code, request.META.get("REMOTE_ADDR", ""))
        tries.check()
        try:
            device = _code(message.enroll_code).enroll(message, database_now())
        except EnrollmentRefused:
            tries.count()
            raise
        return Response(asdict(_enrolled(device)), status=201)


class MeView(AgentView):
    """GET devices/me: what a token is good for, without being a sign of life (`doctor`)."""

    @extend_schema(responses={(200, JSON): schema_of(wire.Enrolled)})
    def get(self, request: Request) -> Response:
        return Response(asdict(_enrolled(request.auth)))


def _enrolled(device: Device) -> wire.Enrolled:
    return wire.Enrolled(device.pk, device.host_id, ServerIdentity.current(), settings.LAB_NAME)


def _code(text: str) -> EnrollmentCode:
    code = EnrollmentCode.objects.filter(code_sha256=digest(text)).first()
    if code is None:
        raise EnrollmentRefused(
            "This enrollment code is not known here. Copy it once more, or ask a manager for a "
            "new one (Devices → Add a GPU server)."
        )
    return code


class _Tries:
    """Failed tries of a code from an address, a minute long. A lab sits behind one address, so
    the code counts too: a colleague's mistake locks nobody else out."""

    def __init__(self, code: str, address: str) -> None:
        self._key = f"enroll-tries:{digest(code)[:16]}:{address}"

    def check(self) -> None:
        if cache.get(self._key, 0) >= FAILED_TRIES_A_MINUTE:
            raise TooManyTries(
                "Too many failed tries with this code; wait a minute.", retry_after_seconds=60
            )

    def count(self) -> None:
        cache.add(self._key, 0, timeout=60)
        with suppress(ValueError):  # it ran out at this very moment
            cache.incr(self._key)


class TokenView(AgentView):
    """POST devices/token: rotate; the old token lives until the new one is first used."""

    @extend_schema(request=body(wire.NewToken), responses=DONE)
    def post(self, request: Request) -> Response:
        message = wire.decode(wire.NewToken, request.data)
        request.auth.rotate_token(message.token_sha256)
        return Response({"success": True})


class GoodbyeView(AgentView):
    """POST devices/goodbye: the agent stops in order; its jobs may go on."""

    @extend_schema(request=body(wire.Goodbye), responses=DONE)
    def post(self, request: Request) -> Response:
        message = wire.decode(wire.Goodbye, request.data)
        request.auth.say_goodbye(message.instance_id, database_now())
        return Response({"success": True})


class HeartbeatView(AgentView):
    """POST devices/heartbeat: "I am alive, and so are my GPUs"."""

    @extend_schema(
        request=body(wire.Heartbeat), responses={(200, JSON): schema_of(wire.HeartbeatReply)}
    )
    def post(self, request: Request) -> Response:
        message = api.message(wire.Heartbeat, request.data)
        [answer] = heartbeat.record([heartbeat.Beat(request.auth.pk, message)])
        if isinstance(answer, Refused):
            raise answer
        return Response(asdict(answer))
