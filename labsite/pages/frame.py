"""What stands around every page: the lab's name, where one can go, the reader's time zone."""

import zoneinfo
from collections.abc import Callable
from importlib import metadata
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy as _

from devices.models import GPU, Device
from experiments.models import Job
from labsite.build import build_id
from labsite.live import newest_seq
from labsite.pages.access import Sight
from labsite.pages.serving import notice
from labsite.pages.states import theme_words
from people.models.profile import Theme
from people.roles import may_manage, may_submit, role_of

VERSION = metadata.version("labsite")
#: Where everybody is told when queued runs are not given out; managers are told everywhere.
TOLD_TO_ALL = ("home", "queue", "devices", "device", "run")
#: (view, icon, label, key after "g"), in the order of the bar.
PLACES = [
    ("home", "dashboard", _("Dashboard"), "d"),
    ("devices", "devices", _("Devices"), "s"),
    ("execute", "execute", _("Execute"), "e"),
    ("queue", "queue", _("Queue"), "q"),
    ("projects", "projects", _("Projects"), "p"),
    ("runs", "runs", _("Runs"), "r"),
]

#: (place, view): pages that one reaches from there.
INSIDE = {
    ("runs", "run"),
    ("runs", "run-edit"),
    ("runs", "compare"),
    ("runs", "sweep"),
    ("runs", "sweeps"),
    ("devices", "gpu"),
    ("devices", "device"),
    ("devices", "device-add"),
    ("projects", "project"),
    ("projects", "project-settings"),
    ("projects", "project-timeline"),
    ("projects", "project-charts"),
}


def frame(request: HttpRequest) -> dict[str, Any]:
    """The context processor of every template."""
    user = getattr(request, "user", None)
    signed_in = user is not None and user.is_authenticated
    here = request.resolver_match.view_name.split(":")[0] if request.resolver_match else ""
    return {
        "lab_name": settings.LAB_NAME,
        "lab_version": VERSION,
        "build": build_id(),
        "zone": timezone.get_current_timezone_name(),
        "places": _places(here, user) if signed_in else [],
        "themes": theme_words(),
        "has_demo": signed_in and Device.objects.filter(is_demo=True).exists(),
        "serving": SimpleLazyObject(notice) if _is_told(user, here) else None,
        **(_reader(user) if signed_in else {}),
    }


def _reader(user: Any) -> dict[str, Any]:
    """Who reads: what templates ask of it."""
    return {
        "sight": Sight(user),
        "may_manage": may_manage(user),
        "may_submit": may_submit(user),
        "role_words": role_of(user).label,
        "own_theme": _own_theme(user),
    }


def _own_theme(user: Any) -> str:
    """As they chose it on their account's page; empty: as the system's."""
    profile = getattr(user, "profile", None)
    return "" if profile is None or profile.theme == Theme.SYSTEM else profile.theme


def _is_told(user: Any, here: str) -> bool:
    signed_in = user is not None and user.is_authenticated
    return signed_in and (may_manage(user) or here in TOLD_TO_ALL)


def waiting_count() -> int:
    """All, since the queue shows all: of a private project's run whose it is."""
    return Job.objects.queued().count()


def troubled_count() -> int:
    """GPUs that are faulty, and GPU servers whose driver does not answer: a manager's business."""
    return GPU.objects.faulty().count() + Device.objects.blind().count()


def _places(here: str, user: Any) -> list[dict[str, Any]]:
    counts = {
        "queue": waiting_count(),
        "devices": troubled_count() if may_manage(user) else None,
    }
    return [
        {
            "view": view,
            "icon": icon,
            "label": label,
            "key": key,
            "here": here == view or (view, here) in INSIDE,
            "count": counts.get(view),
        }
        for view, icon, label, key in PLACES
    ]


class FrameMiddleware:
    """Before a page is made: the reader's zone (their own; else a cookie's; else the lab's), and
    the number of the newest event, after which the page's live feed begins. Read first, so that
    nothing that happens while the page is made is missed."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.method == "GET" and not request.path_info.startswith(("/api/", "/admin/")):
            request.newest_seq = newest_seq()
        with timezone.override(_zone_of(request)):
            return self._get_response(request)


def _own_zone(request: HttpRequest) -> str:
    """As they chose it on their account's page. Programs bring no session, and are not asked."""
    if settings.SESSION_COOKIE_NAME not in request.COOKIES:
        return ""
    profile = getattr(request.user, "profile", None)
    return profile.time_zone if profile is not None else ""


def _zone_of(request: HttpRequest) -> zoneinfo.ZoneInfo | None:
    name = _own_zone(request) or request.COOKIES.get("zone", "")
    if not name or name not in zoneinfo.available_timezones():
        return timezone.get_default_timezone()
    return zoneinfo.ZoneInfo(name)
