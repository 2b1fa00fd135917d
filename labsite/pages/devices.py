"""Devices: a card for each GPU server, and how a new one is let in."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from devices.models import GPU, Device, DeviceState, EnrollmentCode, EnrollmentUse
from experiments.deciding import changed_by
from experiments.leases import mass_loss
from experiments.models import Borrow
from labsite.clock import database_now
from labsite.pages import serving
from labsite.pages.access import asked, managers_only
from labsite.pages.enrolling import command_for, line_for, renewal_line
from labsite.pages.fields import Variables
from labsite.pages.frame import troubled_count
from labsite.pages.hostcards import Card, gpu_type, read_cards
from labsite.pages.sharing import SharedPart
from labsite.pages.states import Badge
from labsite.pages.versions import other_code
from labsite.zipapps import AGENT
from people.audit import facts_of, note, recorded
from people.roles import may_manage

MOST_USES = 500
_LIST = SharedPart("parts/devices.html")


@dataclass(frozen=True)
class Wish:
    """Which cards the reader wants to see; empty: all of them."""

    state: str = ""
    type: str = ""
    label: str = ""  # "room=b1", or "room"

    @property
    def query(self) -> str:
        given = {"state": self.state, "type": self.type, "label": self.label}
        return urlencode({name: value for name, value in given.items() if value})

    def fits(self, card: Card) -> bool:
        names = {row.gpu.name for row in card.gpus}
        return (
            (not self.state or self.state in _states(card))
            and (not self.type or any(self.type.lower() in name.lower() for name in names))
            and (not self.label or self.label in _labels(card))
        )


def _states(card: Card) -> set[str]:
    stopped = {"draining"} if card.device.draining else set()
    return {card.badge.state, *stopped}


def _labels(card: Card) -> set[str]:
    labels = card.device.labels
    return {*labels, *(f"{key}={value}" for key, value in labels.items() if value)}


def _choices(cards: Sequence[Card]) -> dict[str, Any]:
    """What there is to choose from, in this lab."""
    states = {card.badge.state: card.badge.word for card in cards}
    if any(card.device.draining for card in cards):
        states["draining"] = _("no new jobs")
    types = {gpu_type(row.gpu.name) for card in cards for row in card.gpus}
    labels = {label for card in cards for label in _labels(card)}
    return {"states": states.items(), "types": sorted(types), "labels": sorted(labels)}


@login_required
@require_safe
def devices(request: HttpRequest) -> HttpResponse:
    wish = Wish(*(asked(request, name) for name in ("state", "type", "label")))
    if "part" in request.GET:
        return _LIST.answer(request, wish, partial(_listed, request.user, wish))
    return render(request, "pages/devices.html", _listed(request.user, wish))


def _listed(reader: Any, wish: Wish) -> dict[str, Any]:
    cards = sorted(read_cards(reader), key=_attention_first)
    others = other_code([card.device for card in cards])
    for card in cards:
        card.other_code = others.get(card.device.pk)
    return {
        "cards": [card for card in cards if wish.fits(card)],
        "all": len(cards),
        "wish": wish,
        "query": wish.query,
        "choices": _choices(cards),
        "counts": _counts(cards),
        "mass_loss": mass_loss(database_now()),  # wrong with more than one: needs a person
        "faulty": _faulty(),
        "blind": Device.objects.blind(),
        "server": serving.panel() if may_manage(reader) else None,
    }


@login_required
@require_safe
def count(request: HttpRequest) -> HttpResponse:
    """The number beside "Devices": what waits for a manager, and nothing for others."""
    number = troubled_count() if may_manage(request.user) else 0
    return render(request, "parts/devices_count.html", {"count": number})


@managers_only
def add(request: HttpRequest) -> HttpResponse:
    """Make an enrollment code, and show it with the command to copy, this once.

    `device` names a known GPU server that gets a new token; `uses` lets several new ones in.
    """
    name = request.POST.get("device", "").replace("\x00", "") or asked(request, "device")
    known = get_object_or_404(Device, host_id=name) if name else None
    if request.method != "POST":
        context = {"known": known, "agent": AGENT, "renewal": renewal_line(request)}
        return render(request, "pages/add_device.html", context)
    uses = 1 if known else _whole(request.POST.get("uses", ""), 1, MOST_USES)
    with transaction.atomic():
        code, text = EnrollmentCode.make(database_now(), by=request.user, uses=uses, device=known)
        note(request.user, code, "make", after=facts_of(code))
    context = {
        "line": line_for(request, text, known),
        "command": command_for(request, text, known),
        "code": code,
        "known": known,
        "agent": AGENT,
    }
    return render(request, "pages/add_device.html", context)


def _whole(text: str, least: int, most: int) -> int:
    return min(max(int(text), least), most) if text.isascii() and text.isdigit() else least


@managers_only
@require_safe
def joined(request: HttpRequest, pk: int) -> HttpResponse:
    """Whether somebody has come in by that code."""
    use = EnrollmentUse.objects.filter(code_id=pk).select_related("device").first()
    return render(request, "parts/joined.html", {"joined": use.device if use else None})


@login_required
@require_POST
def end_borrow(request: HttpRequest, pk: int) -> HttpResponse:
    borrow = get_object_or_404(Borrow.objects.select_related("user", "device"), pk=pk)
    if not borrow.may_be_ended_by(request.user):
        raise PermissionDenied(_("Somebody else borrowed it; they or a manager may return it."))
    with changed_by(request.user, borrow, "end"):
        borrow.end(database_now())
    messages.success(request, _("It is back; the next run may have it."))
    return redirect("device", pk=borrow.device_id)


@managers_only
@require_POST
def act(request: HttpRequest, pk: int, verb: str) -> HttpResponse:
    device = get_object_or_404(Device.objects.enrolled(), pk=pk)
    with recorded(request.user, device, verb):
        device.drain() if verb == "drain" else device.resume()
    if verb == "drain":
        messages.success(
            request,
            _("%(device)s gets no new jobs; those that run go on.") % {"device": device},
        )
    else:
        messages.success(request, _("%(device)s takes new jobs again.") % {"device": device})
    return redirect("devices")


class SettingsForm(forms.Form):
    environment = Variables(required=False)
    python = forms.CharField(max_length=1024, required=False)
    working_directory = forms.CharField(max_length=1024, required=False)


@managers_only
@require_POST
def settings(request: HttpRequest, pk: int) -> HttpResponse:
    """What its jobs are given where neither they nor their projects say otherwise."""
    device = get_object_or_404(Device.objects.enrolled(), pk=pk)
    form = SettingsForm(request.POST)
    if mistakes := _set(request.user, device, form):
        for mistake in mistakes:
            messages.error(request, mistake)
    else:
        words = _("Saved. What starts on %(device)s from now on uses it.")
        messages.success(request, words % {"device": device})
    return redirect("device", pk=device.pk)


def _set(by: Any, device: Device, form: SettingsForm) -> list[str]:
    """What is wrong with it; empty: it is saved."""
    if not form.is_valid():
        return [str(error) for errors in form.errors.values() for error in errors]
    for name, value in form.cleaned_data.items():
        setattr(device, name, value)
    try:
        device.clean()
    except ValidationError as exc:
        return exc.messages
    with recorded(by, device, "change"):
        device.set_options(form.cleaned_data)
    return []


def _faulty() -> QuerySet[GPU]:
    return GPU.objects.faulty().select_related("device").order_by("device__host_id", "index")


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
