"""The audit log is written here, by every door: `with recorded(user, row, "drain"): …`.

A model says in AUDITED which of its fields people decide; the entry holds those that the block
changed, as the database had them before and has them after.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.contrib.auth import get_user_model
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models, transaction
from django.http import HttpRequest, HttpResponseBase

from labsite.clock import database_now
from people.models import AuditEntry, Door
from people.roles import role_of

_door: ContextVar[Door] = ContextVar("door", default=Door.COMMAND)
NAME_CHARACTERS = 255


class DoorMiddleware:
    """Notes through which door a request came."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        token = _door.set(_door_of(request.path_info))
        try:
            return self._get_response(request)
        finally:
            _door.reset(token)


def _door_of(path: str) -> Door:
    if path.startswith("/api/"):
        return Door.API
    return Door.ADMIN if path.startswith("/admin/") else Door.PAGE


@contextmanager
def recorded(by: Any, row: models.Model, verb: str) -> Iterator[None]:
    """One transaction for what the block does to `row` and the entry that tells of it.

    What the block raises takes both back.
    """
    with transaction.atomic():
        before = facts_of(row)
        yield
        note(by, row, verb, before=before, after=facts_of(row))


def note(
    by: Any,
    row: models.Model,
    verb: str,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> AuditEntry:
    """Write the entry. In the transaction of what it tells; `by` None: the command line.

    Args:
        before, after: facts by name; those that are equal are left out.
    """
    before, after = before or {}, after or {}
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return AuditEntry.objects.create(
        at=database_now(),
        by=by,
        by_name=by.get_username() if by else "",
        door=_door.get(),
        verb=verb,
        kind=row._meta.label_lower,
        key=str(row.pk),
        name=str(row)[:NAME_CHARACTERS],
        before={name: before[name] for name in names if name in before},
        after={name: after[name] for name in names if name in after},
    )


def facts_of(row: models.Model) -> dict[str, Any]:
    """What people decide about it, as the database has it now; empty: it is not there."""
    if isinstance(row, get_user_model()):
        return _facts_of_person(row)
    names = getattr(row, "AUDITED", ())
    found = type(row)._base_manager.filter(pk=row.pk).values(*names).first() if names else None
    return _as_json(found or {})


def _facts_of_person(row: Any) -> dict[str, Any]:
    fresh = get_user_model().objects.select_related("profile").filter(pk=row.pk).first()
    if fresh is None:
        return {}
    return {
        "username": fresh.username,
        "name": fresh.get_full_name(),
        "active": fresh.is_active,
        "role": str(role_of(fresh)),
    }


def _as_json(facts: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(facts, cls=DjangoJSONEncoder))
