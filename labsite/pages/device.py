"""A GPU server's own page: how it is, what it runs on, and its past."""

from datetime import datetime
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from devices.models import Device, GPUEvent
from labsite.clock import database_now
from labsite.pages import devicehistory
from labsite.pages.access import asked
from labsite.pages.devicehistory import WINDOWS, Window, window_named
from labsite.pages.enrolling import renewal_line
from labsite.pages.fields import variables_text
from labsite.pages.hostcards import Card, read_cards
from labsite.pages.queue import gpu_words
from labsite.pages.states import attempt_badge
from labsite.pages.versions import usual_of, versions_of
from people.roles import may_manage

#: Tries and events that are listed; older ones are in the runs' own pages.
LISTED = 40
EVENTS = 30


@login_required
@require_safe
def device(request: HttpRequest, pk: int) -> HttpResponse:
    """`part`: what moves, alone: `now` (each second), `past` (as jobs come and go)."""
    now, window = database_now(), window_named(asked(request, "span"))
    card = next(iter(read_cards(request.user, pk=pk)), None)
    if card is None:
        raise Http404
    context = {"card": card, "device": card.device, "window": window, "windows": WINDOWS}
    part = request.GET.get("part")
    if part != "now":
        context |= _past(card, request.user, window, now)
    if part in ("now", "past"):
        return render(request, f"parts/device_{part}.html", context)
    others = Device.objects.enrolled().only("versions", "source")
    context["versions"] = versions_of(card.device, usual_of(others))
    context["environment"] = variables_text(card.device.environment)
    context["may_manage"] = may_manage(request.user)
    context["renewal"] = renewal_line(request) if card.has_older_agent else ""
    return render(request, "pages/device.html", context)


@login_required
@require_safe
def history(request: HttpRequest, pk: int) -> JsonResponse:
    found = get_object_or_404(Device.objects.enrolled(), pk=pk)
    window = window_named(asked(request, "span"))
    answer = JsonResponse(devicehistory.curves(found, window, database_now()))
    answer["Cache-Control"] = "no-store"
    return answer


def _past(card: Card, user: Any, window: Window, now: datetime) -> dict[str, Any]:
    host = card.device
    tries = devicehistory.tries_within(host, user, window, now)
    indices = dict(host.gpus.values_list("uuid", "index"))
    totals = devicehistory.totals(host, window, now)
    events = GPUEvent.objects.filter(gpu__device=host, at__gte=now - window.length)
    return {
        "tries": [
            (one, attempt_badge(one, one.job, now), gpu_words(one, indices))
            for one in devicehistory.attempts_of(host, tries[:LISTED])
        ],
        "more_tries": max(0, len(tries) - LISTED),
        "bands": devicehistory.bands(host, tries, totals, window, now),
        "totals": [(row.gpu, totals[row.gpu.pk]) for row in card.gpus if row.gpu.pk in totals],
        "events": events.select_related("gpu", "by")[:EVENTS],
        "began": now - window.length,
    }
