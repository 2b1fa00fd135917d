"""What stands around every page: the lab's name, where one can go, the reader's time zone."""

import zoneinfo
from collections.abc import Callable
from importlib import metadata
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from experiments.models import Job
from labsite.live import newest_seq
from labsite.pages.states import theme_words

VERSION = metadata.version("labsite")
#: (view, icon, label), in the order of the bar.
PLACES = [
    ("devices", "devices", _("Devices")),
    ("execute", "execute", _("Execute")),
    ("queue", "queue", _("Queue")),
    ("runs", "runs", _("Runs")),
]


def frame(request: HttpRequest) -> dict[str, Any]:
    """The context processor of every template."""
    user = getattr(request, "user", None)
    signed_in = user is not None and user.is_authenticated
    here = request.resolver_match.view_name.split(":")[0] if request.resolver_match else ""
    return {
        "lab_name": settings.LAB_NAME,
        "lab_version": VERSION,
        "zone": timezone.get_current_timezone_name(),
        "places": _places(here) if signed_in else [],
        "themes": theme_words(),
    }


def waiting_count() -> int:
    return Job.objects.queued().count()


def _places(here: str) -> list[dict[str, Any]]:
    return [
        {
            "view": view,
            "icon": icon,
            "label": label,
            "here": here == view or (view == "runs" and here == "run"),
            "count": waiting_count() if view == "queue" else None,
        }
        for view, icon, label in PLACES
    ]


class FrameMiddleware:
    """Before a page is made: the reader's zone (a cookie; else the lab's), and the number of the
    newest event, after which the page's live feed begins. Read first, so that nothing that
    happens while the page is made is missed."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.method == "GET" and not request.path_info.startswith(("/api/", "/admin/")):
            request.newest_seq = newest_seq()
        with timezone.override(_zone_of(request)):
            return self._get_response(request)


def _zone_of(request: HttpRequest) -> zoneinfo.ZoneInfo | None:
    name = request.COOKIES.get("zone", "")
    if not name or name not in zoneinfo.available_timezones():
        return timezone.get_default_timezone()
    return zoneinfo.ZoneInfo(name)
