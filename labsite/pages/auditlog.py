"""The audit log as managers read it: who did what, to what, from what to what."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.core.paginator import Paginator
from django.db.models import DateTimeField, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from labsite.clock import clock_words, day_begins
from labsite.pages.access import asked, managers_only
from people.models import AuditEntry, Door
from people.roles import Role

PAGE = 50
VERBS = {
    "activate": gettext_lazy("let sign in again"),
    "archive": gettext_lazy("archived"),
    "at-a-time": gettext_lazy("changed how many run at a time"),
    "cancel": gettext_lazy("cancelled"),
    "change": gettext_lazy("changed"),
    "deactivate": gettext_lazy("deactivated"),
    "delete": gettext_lazy("deleted"),
    "drain": gettext_lazy("stopped new jobs"),
    "elsewhere": gettext_lazy("gave up, to run elsewhere"),
    "empty": gettext_lazy("removed for good"),
    "end": gettext_lazy("ended"),
    "give-up": gettext_lazy("gave up"),
    "give_up": gettext_lazy("gave up"),
    "hold": gettext_lazy("kept queued"),
    "join": gettext_lazy("made a member"),
    "leave": gettext_lazy("took out of the members"),
    "set": gettext_lazy("set its value"),
    "make": gettext_lazy("made"),
    "move": gettext_lazy("moved in the queue"),
    "password": gettext_lazy("set a new password"),
    "priority": gettext_lazy("changed the priority"),
    "quarantine": gettext_lazy("marked as faulty"),
    "quota": gettext_lazy("changed the quota"),
    "release": gettext_lazy("released"),
    "requeue": gettext_lazy("requeued"),
    "rerun-failed": gettext_lazy("reran what failed"),
    "rerun_failed": gettext_lazy("reran what failed"),
    "reset-link": gettext_lazy("made a link for a new password"),
    "restore": gettext_lazy("restored"),
    "resume": gettext_lazy("took new jobs again"),
    "revoke": gettext_lazy("revoked"),
    "role": gettext_lazy("changed the role"),
    "tag": gettext_lazy("tagged"),
    "unarchive": gettext_lazy("took out of the archive"),
    "unhold": gettext_lazy("let go"),
    "untag": gettext_lazy("took tags away"),
    "unix-name": gettext_lazy("set the Unix name"),
}


#: Facts of an account, which are no fields of a row.
OF_PERSON = {"active": gettext_lazy("may sign in"), "role": gettext_lazy("role")}


@dataclass(frozen=True)
class Line:
    entry: AuditEntry
    verb: str
    kind: str
    changes: list[tuple[str, str, str]]


@managers_only
@require_safe
def audit(request: HttpRequest) -> HttpResponse:
    page = Paginator(_found(request), PAGE).get_page(request.GET.get("page"))
    kinds = AuditEntry.objects.order_by("kind").values_list("kind", flat=True).distinct()
    query = request.GET.copy()
    query.pop("page", None)
    context = {
        "page": page,
        "lines": [line_of(entry) for entry in page.object_list],
        "kinds": sorted((kind, kind_words(kind)) for kind in kinds),
        "doors": Door.choices,
        "verbs": sorted(VERBS.items(), key=lambda item: str(item[1])),
        "query": query.urlencode(),
        **{name: asked(request, name) for name in ("q", "kind", "door", "verb", "since")},
    }
    return render(request, "pages/audit.html", context)


def _found(request: HttpRequest) -> QuerySet[AuditEntry]:
    found = AuditEntry.objects.all()
    for name in ("kind", "door", "verb"):
        if value := asked(request, name):
            found = found.filter(**{name: value})
    for word in asked(request, "q").split()[:8]:
        found = found.filter(Q(by_name__icontains=word) | Q(name__icontains=word))
    since = _day(asked(request, "since"))
    return found.filter(at__gte=since) if since else found


def _day(text: str) -> datetime | None:
    """When it begins."""
    try:
        day = parse_date(text)
        return day_begins(day) if day else None
    except (ValueError, OverflowError):  # 2026-02-31; no zone reaches year 1
        return None


def line_of(entry: AuditEntry) -> Line:
    changes = [
        (field_words(entry.kind, name), *(_shown(entry.kind, name, it) for it in (before, after)))
        for name, before, after in entry.changes
    ]
    verb = str(VERBS.get(entry.verb, entry.verb))
    return Line(entry, verb, kind_words(entry.kind), changes)


def kind_words(kind: str) -> str:
    try:
        return str(apps.get_model(kind)._meta.verbose_name)
    except (LookupError, ValueError):
        return kind


def field_words(kind: str, name: str) -> str:
    if name in OF_PERSON:
        return capfirst(str(OF_PERSON[name]))
    field = _field(kind, name)
    return capfirst(str(field.verbose_name)) if field else name


def _field(kind: str, name: str) -> Any:
    """The model's field of that name; None: it has none, or not any more."""
    try:
        return apps.get_model(kind)._meta.get_field(name)
    except (LookupError, ValueError, FieldDoesNotExist):
        return None


def _moment(value: Any) -> datetime | None:
    """As people.audit wrote it."""
    return parse_datetime(value) if isinstance(value, str) else None


def _shown(kind: str, name: str, value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "–"
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if name == "role" and value in Role.values:
        return str(Role(value).label)
    if isinstance(_field(kind, name), DateTimeField) and (moment := _moment(value)):
        return clock_words(moment)
    choices = dict(getattr(_field(kind, name), "choices", None) or ())
    return str(choices.get(value, value) if isinstance(value, str | int) else value)
