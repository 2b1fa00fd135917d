"""One card: what it says of itself, who works on it, and what was done about it."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST, require_safe

from devices.models import GPU
from devices.serializers import REASON_CHARACTERS
from experiments.models import Attempt, Borrow
from labsite.clock import database_now
from labsite.pages.access import managers_only
from people.audit import recorded

HISTORY = 50  # events shown: more are for the administration

THROTTLED = {
    "power_cap": gettext_lazy("power limit"),
    "hw_slowdown": gettext_lazy("the card protects itself"),
    "sync_boost": gettext_lazy("in step with other cards"),
    "sw_thermal": gettext_lazy("too hot"),
    "hw_thermal": gettext_lazy("much too hot"),
    "power_brake": gettext_lazy("the host's power supply"),
}
#: Those that a person should do something about; a power limit is what a busy card meets.
ALARMING = ("hw_slowdown", "sw_thermal", "hw_thermal", "power_brake")


@dataclass
class Process:
    pid: int
    user: str
    memory_bytes: int | None
    attempt: Attempt | None  # None: used outside the queue


@login_required
@require_safe
def gpu(request: HttpRequest, pk: int) -> HttpResponse:
    card = get_object_or_404(GPU.objects.select_related("device"), pk=pk)
    context = {
        "gpu": card,
        "processes": _processes(card),
        "borrow": Borrow.objects.filter(gpu_claims__gpu=card).select_related("user").first(),
        "throttled": throttled(card),
        "events": card.events.select_related("by")[:HISTORY],
    }
    if "part" in request.GET:
        return render(request, "parts/gpu.html", context)
    return render(request, "pages/gpu.html", context)


@managers_only
@require_POST
def act(request: HttpRequest, pk: int, verb: str) -> HttpResponse:
    card = get_object_or_404(GPU.objects.select_related("device"), pk=pk)
    reason = " ".join(request.POST.get("reason", "").replace("\x00", "").split())
    if verb == "release":
        with recorded(request.user, card, verb):
            card.release(by=request.user)
        said = _("%(gpu)s is used again.")
    elif not reason:
        messages.error(request, _("Say in a few words why: everybody reads it on this page."))
        return redirect("gpu", pk=pk)
    else:
        with recorded(request.user, card, verb):
            card.quarantine(reason[:REASON_CHARACTERS], database_now(), by=request.user)
        said = _("%(gpu)s is given to nobody; what runs on it goes on.")
    messages.success(request, said % {"gpu": card})
    return redirect("gpu", pk=pk)


def throttled(card: GPU, among: Any = THROTTLED) -> list[str]:
    """Why its clocks are held down, in words."""
    return [str(THROTTLED.get(one, one)) for one in card.throttle_reasons if one in among]


def _processes(card: GPU) -> list[Process]:
    ids = [_uuid(one["attempt_id"]) for one in card.processes]
    known = Attempt.objects.filter(device_id=card.device_id).select_related("job__project")
    attempts = {str(one.pk): one for one in known.filter(pk__in=[one for one in ids if one])}
    return [
        Process(one["pid"], one["user"], one["memory_bytes"], attempts.get(one["attempt_id"]))
        for one in card.processes
    ]


def _uuid(text: str | None) -> UUID | None:
    """None: no attempt of this server has such an id."""
    with suppress(ValueError):
        return UUID(text or "")
    return None
