"""What the server refuses, and how it says so (protocol §7).

Refused is the root of every refusal that a domain function raises; each app has its own
branches. `problem()` makes the body that DRF's views, the lane and the pool all answer with.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

CONTENT_TYPE = "application/problem+json"


class Refused(Exception):
    """The request was understood and cannot be granted as things stand.

    `code` is for programs and never changes; the message is for people. `facts` go into the
    response body, so that the caller can put itself right without a second request. Some are
    headers as well: see headers_of().
    """

    status = 409
    code = "refused"
    retryable = False

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts


class BadRequest(Refused):
    status = 400
    code = "bad_request"


class Unauthorized(Refused):
    status = 401
    code = "unauthorized"


class NotFound(Refused):
    status = 404
    code = "not_found"


class TooLarge(Refused):
    status = 413
    code = "too_large"


class WrongProtocol(Refused):
    """The agent speaks a version of the wire that this server does not."""

    status = 426
    code = "wrong_protocol"


class Busy(Refused):
    """It may work in a moment: the database is busy, or the server is going down."""

    status = 503
    code = "busy"
    retryable = True

    def __init__(self, message: str, *, retry_after_seconds: int = 1, **facts: Any) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds, **facts)


def problem(
    status: int, code: str, detail: str, *, retryable: bool = False, **facts: Any
) -> dict[str, Any]:
    """The body of an `application/problem+json` answer (RFC 9457) with our fields."""
    return {
        "type": f"/docs/errors#{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "retryable": retryable,
        "success": False,
        **facts,
    }


def problem_of(refused: Refused) -> dict[str, Any]:
    return problem(
        refused.status, refused.code, str(refused), retryable=refused.retryable, **refused.facts
    )


#: Facts of a refusal that are headers as well.
_HEADERS = {"retry_after_seconds": "Retry-After", "expected_offset": "Upload-Offset"}


def headers_of(facts: Mapping[str, Any]) -> dict[str, str]:
    return {_HEADERS[fact]: str(facts[fact]) for fact in _HEADERS if facts.get(fact) is not None}
