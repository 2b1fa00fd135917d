"""Devices: a card for each GPU server, and how a new one is let in."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from devices.models import GPU, Device, DeviceState, EnrollmentCode, EnrollmentUse
from experiments.leases import mass_loss
from experiments.models import Attempt, Pulse
from labsite.clock import database_now
from labsite.pages.access import asked, managers_only
from labsite.pages.enrolling import command_for
from labsite.pages.states import Badge, device_badge

FULL_PERCENT = 90
#: Dispatch is run every two seconds, and its watchdog starts it again after ten.
DISPATCH_SILENCE = timedelta(seconds=15)
MOST_USES = 500


@dataclass
class Card:
    """One GPU server as the page shows it."""

    device: Device
    state: DeviceState
    badge: Badge
    gpus: list["Row"]
    attempts: list[Attempt]
    models: list[str] = field(default_factory=list)

    @property
    def is_old(self) -> bool:
        """Whether its figures are not of now."""
        return self.state != DeviceState.HEALTHY

    @property
    def cpu_attempts(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if not attempt.gpu_uuids]

    @property
    def memory_percent(self) -> int | None:
        return _percent(self.device.memory_used_bytes, self.device.memory_total_bytes)

    @property
    def disk_percent(self) -> int | None:
        total, free = self.device.disk_total_bytes, self.device.disk_free_bytes
        return None if total is None or free is None else _percent(total - free, total)

    @property
    def disk_is_full(self) -> bool:
        return (self.disk_percent or 0) >= FULL_PERCENT


@dataclass
class Row:
    """One card of a GPU server, and what it does."""

    gpu: GPU
    use: str  # faulty, missing, job, outside, stopped, free
    attempt: Attempt | None = None

    @property
    def vram_percent(self) -> int | None:
        return _percent(self.gpu.memory_used_bytes, self.gpu.memory_total_bytes)


def _percent(part: float | None, whole: float | None) -> int | None:
    return None if part is None or not whole else round(100 * part / whole)


@login_required
@require_safe
def devices(request: HttpRequest) -> HttpResponse:
    cards = sorted(_cards(_listed()), key=_attention_first)
    context = {"cards": cards, "counts": _counts(cards), **_troubles(database_now())}
    if "part" in request.GET:
        return render(request, "parts/devices.html", context)
    return render(request, "pages/devices.html", context)


def _troubles(now: datetime) -> dict[str, Any]:
    """What is wrong with more than one GPU server, and needs a person."""
    pulse = Pulse.last(Pulse.DISPATCH)
    is_silent = pulse is not None and now - pulse.at > DISPATCH_SILENCE
    return {"mass_loss": mass_loss(now), "dispatch_silent_since": pulse.at if is_silent else None}


@managers_only
def add(request: HttpRequest) -> HttpResponse:
    """Make an enrollment code, and show it with the command to copy, this once.

    `device` names a known GPU server that gets a new token; `uses` lets several new ones in.
    """
    name = request.POST.get("device", "").replace("\x00", "") or asked(request, "device")
    known = get_object_or_404(Device, host_id=name) if name else None
    if request.method != "POST":
        return render(request, "pages/add_device.html", {"known": known})
    uses = 1 if known else _whole(request.POST.get("uses", ""), 1, MOST_USES)
    code, text = EnrollmentCode.make(database_now(), by=request.user, uses=uses, device=known)
    context = {"command": command_for(request, text, known), "code": code, "known": known}
    return render(request, "pages/add_device.html", context)


def _whole(text: str, least: int, most: int) -> int:
    return min(max(int(text), least), most) if text.isascii() and text.isdigit() else least


@login_required
@require_safe
def joined(request: HttpRequest, pk: int) -> HttpResponse:
    """Whether somebody has come in by that code."""
    use = EnrollmentUse.objects.filter(code_id=pk).select_related("device").first()
    return render(request, "parts/joined.html", {"joined": use.device if use else None})


@managers_only
@require_POST
def act(request: HttpRequest, pk: int, verb: str) -> HttpResponse:
    device = get_object_or_404(Device.objects.enrolled(), pk=pk)
    if verb == "drain":
        device.drain()
        messages.success(
            request,
            _("%(device)s gets no new jobs; those that run go on.") % {"device": device},
        )
    else:
        device.resume()
        messages.success(request, _("%(device)s takes new jobs again.") % {"device": device})
    return redirect("devices")


def _listed():
    cards = GPU.objects.select_related(
        "claim__attempt__job__project", "claim__attempt__job__user"
    ).order_by("index")
    running = Attempt.objects.open().select_related("job__project", "job__user").order_by("number")
    return Device.objects.enrolled().prefetch_related(
        Prefetch("gpus", queryset=cards), Prefetch("attempts", queryset=running, to_attr="running")
    )


def _cards(found: Iterable[Device]) -> list[Card]:
    now = database_now()
    return [_card(device, now) for device in found]


def _card(device: Device, now: datetime) -> Card:
    known = list(device.gpus.all())
    rows = [_row(gpu, device) for gpu in known if gpu.present or gpu.quarantined_at]
    made = Counter(gpu.name for gpu in known if gpu.present)
    return Card(
        device=device,
        state=device.state(now),
        badge=device_badge(device, now),
        gpus=rows,
        attempts=device.running,
        models=[f"{count} × {name}" for name, count in made.items()],
    )


def _row(gpu: GPU, device: Device) -> Row:
    claim = getattr(gpu, "claim", None)
    attempt = claim.attempt if claim else None
    if gpu.quarantined_at:
        return Row(gpu, "faulty", attempt)
    if not gpu.present:
        return Row(gpu, "missing", attempt)
    if attempt:
        return Row(gpu, "job", attempt)
    if gpu.used_outside(claimed=False):
        return Row(gpu, "outside")
    return Row(gpu, "stopped" if device.draining else "free")


def _attention_first(one: Card) -> tuple[Any, ...]:
    """Those that a person should look at stand first; within, by name."""
    order = {DeviceState.DISCONNECTED: 0, DeviceState.STALE: 1}
    return order.get(one.state, 2 if one.device.draining else 3), one.device.host_id


def _counts(cards: Sequence[Card]) -> list[Badge]:
    """ "10 healthy, 1 stale": the badges of the head, in a fixed order."""
    by_word: dict[str, list[Badge]] = defaultdict(list)
    for one in cards:
        by_word[one.badge.word].append(one.badge)
    groups = sorted(by_word.values(), key=lambda badges: badges[0].state != "healthy")
    return [badges[0].counted(len(badges)) for badges in groups]
