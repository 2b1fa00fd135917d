"""What every DRF view shares: how refusals are answered, and how lists are paged."""

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError
from django.http import Http404, HttpResponse, JsonResponse
from django.utils.translation import gettext as _
from rest_framework import exceptions, serializers
from rest_framework.pagination import PageNumberPagination
from rest_framework.response import Response
from rest_framework.views import set_rollback

from agent import wire
from labsite.errors import (
    CONTENT_TYPE,
    Busy,
    Refused,
    WrongProtocol,
    headers_of,
    problem_of,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Pages(PageNumberPagination):
    page_size_query_param = "page_size"
    max_page_size = 500


class ByHand(serializers.ModelSerializer):
    """Of a row that programs write meanwhile: an update writes what was sent, and nothing else.

    DRF's own saves the whole row as it was read, and so takes back a state, a heartbeat or a
    counter that moved in between.
    """

    def update(self, instance: Any, validated_data: dict[str, Any]) -> Any:
        type(instance)._default_manager.filter(pk=instance.pk).update(**validated_data)
        for name, value in validated_data.items():
            setattr(instance, name, value)
        return instance


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Answer every refusal as problem+json (protocol §7); a bug stays a bug and is logged."""
    refused = refusal_of(exc)
    if refused is None:
        return None
    set_rollback()
    headers = headers_of(refused.facts)
    if isinstance(exc, exceptions.APIException) and getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = exc.auth_header
    response = Response(problem_of(refused), status=refused.status, headers=headers)
    response.content_type = CONTENT_TYPE
    return response


def answer(refused: Refused) -> HttpResponse:
    """The same answer outside DRF."""
    return JsonResponse(
        problem_of(refused),
        status=refused.status,
        headers=headers_of(refused.facts),
        content_type=CONTENT_TYPE,
    )


def refusal_of(exc: Exception) -> Refused | None:
    """How `exc` is told to a client; None: it is a bug."""
    if isinstance(exc, Refused):
        return exc
    if isinstance(exc, wire.Malformed):
        return _made(400, "malformed", str(exc), field=exc.field)
    if isinstance(exc, Http404):
        return _made(404, "not_found", _("There is nothing here, or it is not yours."))
    if isinstance(exc, PermissionDenied):
        return _made(403, "forbidden", str(exc) or _("Your role does not allow this."))
    if isinstance(exc, exceptions.APIException):
        return _from_drf(exc)
    return _from_database(exc)


def _from_database(exc: Exception) -> Refused | None:
    if isinstance(exc, OperationalError | InterfaceError):
        logger.warning("database: %s", exc)
        return Busy(_("The database is busy; try again in a moment."))
    if isinstance(exc, IntegrityError):  # two made the same, and this one came second
        logger.warning("database: %s", exc)
        return _made(409, "lost_race", _("Another request was faster; look, and ask again."))
    if isinstance(exc, DatabaseError) and "out of range" in str(exc):
        return _made(400, "bad_request", _("A number is too large."))
    return None


def message(cls: type[T], data: Any) -> T:
    """An agent's `data` as a `cls`. Its version comes first: another may have another form.

    Raises:
        WrongProtocol: this server does not speak that version of the wire.
        wire.Malformed: it is no `cls`.
    """
    version = data.get("protocol") if isinstance(data, Mapping) else None
    if isinstance(version, int) and version != wire.PROTOCOL:
        raise WrongProtocol(
            f"This server speaks version {wire.PROTOCOL} of the protocol, the agent {version}. "
            "Install the same release on both.",
            versions=[wire.PROTOCOL],
        )
    return wire.decode(cls, data)


def _from_drf(exc: exceptions.APIException) -> Refused:
    facts: dict[str, Any] = {}
    if isinstance(exc, exceptions.ValidationError):
        facts["errors"] = exc.get_full_details()
        return _made(400, "invalid", _first_sentence(exc.detail), **facts)
    if isinstance(exc, exceptions.Throttled) and exc.wait is not None:
        facts["retry_after_seconds"] = int(exc.wait) + 1
    codes = exc.get_codes()
    code = codes if isinstance(codes, str) else "bad_request"
    return _made(exc.status_code, code, str(exc.detail), **facts)


def _first_sentence(detail: Any, path: str = "") -> str:
    """The first of DRF's nested complaints, with the field it is about."""
    if isinstance(detail, dict) and detail:
        key, inner = next(iter(detail.items()))
        return _first_sentence(inner, "" if key == "non_field_errors" else f"{path}{key}: ")
    if isinstance(detail, list) and detail:
        return _first_sentence(detail[0], path)
    return f"{path}{detail}"


def _made(status: int, code: str, message: str, **facts: Any) -> Refused:
    refused = Refused(message, **facts)
    refused.status, refused.code = status, code
    refused.retryable = status in (408, 423, 429, 503, 507)
    return refused
