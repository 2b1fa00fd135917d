"""What needs a person: each a state, a sentence that ends with what to do, and where to look.

Managers see what is wrong in the lab; others what is wrong with their own runs.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.urls import reverse
from django.utils.html import escape, format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from devices.models import Device, DeviceState, Use
from experiments import reasons
from experiments.leases import MassLoss
from experiments.models import Attempt, Job
from labsite.pages.hostcards import Card
from labsite.pages.states import Badge
from labsite.pages.versions import skewed
from labsite.templatetags.lab import clock, size
from sync.disk import Forecast

#: A run that starts, or is being stopped, for longer than this is stuck.
STUCK = timedelta(minutes=10)
#: Reasons to wait that do not go away by themselves.
HOPELESS = ("nothing_fits", "no_unix_name")
#: Beyond so many of a kind people look at the page of all.
SHOWN = 6


@dataclass(frozen=True)
class Todo:
    badge: Badge
    words: SafeString
    url: str
    act: str = ""  # the words of its button

    @property
    def button(self) -> str:
        return self.act or _("Look")


def of_lab(
    cards: Sequence[Card], jobs: Iterable[Job], brake: MassLoss | None, disk: Forecast,
    now: datetime,
) -> list[Todo]:  # fmt: skip
    """A manager's, the most urgent first."""
    found: list[Todo] = []
    if brake:
        found.append(_vanished(brake))
    found += _silent(cards)
    found += _faulty(cards)
    found += _blind(cards)
    found += _stuck(jobs, now)
    found += _disks(cards, disk)
    found += _skew(cards)
    found += _older(cards)
    return found


def of_own(cards: Sequence[Card], jobs: Iterable[Job], user: Any, now: datetime) -> list[Todo]:
    """Of one whose runs these are."""
    own = []
    for card in cards:
        if mine := [one for one in card.attempts if one.job.user_id == user.pk]:
            own.append(replace(card, attempts=mine))
    return [*_silent(own), *_stuck(jobs, now)]


def _vanished(brake: MassLoss) -> Todo:
    words = _(
        "{n} of {busy} busy GPU servers vanished within a minute. Look at network and power first."
    )
    said = format_html(words, n=len(brake.vanished), busy=brake.busy)
    return Todo(Badge("unreachable", "s-disconnected", _("unreachable")), said, reverse("devices"))


def _silent(cards: Sequence[Card]) -> Iterator[Todo]:
    gone = [card for card in cards if card.state == DeviceState.DISCONNECTED]
    gone = [card for card in gone if card.device.last_heartbeat_at]
    # An agent that was stopped in order, with nothing on its host, is nobody's business.
    gone = [card for card in gone if card.attempts or not card.device.has_said_goodbye]
    for card in sorted(gone, key=lambda card: not card.attempts)[:SHOWN]:
        yield Todo(
            Badge("unreachable", "s-disconnected", _("unreachable")),
            _silence(card),
            _page(card.device),
        )


def _silence(card: Card) -> SafeString:
    known = {"device": _link(card.device), "when": clock(card.device.last_heartbeat_at)}
    if not card.attempts:
        words = _("{device} has not been heard of since {when}; nothing ran on it.")
        return format_html(words, **known)
    words = ngettext(
        "{device} has not been heard of since {when}. {runs} is probably still training; nothing "
        "is lost.",
        "{device} has not been heard of since {when}. {runs} are probably still training; nothing "
        "is lost.",
        len(card.attempts),
    )
    return format_html(words, **known, runs=_runs(card.attempts))


def _runs(attempts: Sequence[Attempt]) -> SafeString:
    shown = [(reverse("run", args=[one.job.uid]), str(one.job)) for one in attempts[:SHOWN]]
    return format_html_join(", ", '<a href="{}">{}</a>', shown)


def _faulty(cards: Sequence[Card]) -> Iterator[Todo]:
    rows = [row for card in cards for row in card.gpus if row.use == Use.FAULTY]
    for row in sorted(rows, key=lambda row: row.gpu.quarantined_at)[:SHOWN]:
        words = _("{gpu} since {when}: {why} It gets no jobs until somebody clears it.")
        why = row.gpu.quarantine_reason.rstrip(".") + "."
        url = reverse("gpu", args=[row.gpu.pk])
        link = format_html('<a href="{}">{}</a>', url, str(row.gpu))
        said = format_html(words, gpu=link, when=clock(row.gpu.quarantined_at), why=why)
        yield Todo(Badge("faulty", "s-faulty", _("faulty")), said, url)


def _blind(cards: Sequence[Card]) -> Iterator[Todo]:
    for card in [one for one in cards if one.device.driver_answers is False and one.gpus][:SHOWN]:
        words = _("The GPU driver of {device} does not answer; its GPUs get no new jobs.")
        said = format_html(words, device=_link(card.device))
        yield Todo(_warning(_("driver silent")), said, _page(card.device))


def _stuck(jobs: Iterable[Job], now: datetime) -> Iterator[Todo]:
    """`jobs`: what waits or runs, each with `opened`, its open try or None."""
    found = [(job, words) for job in jobs if (words := _why_stuck(job, now))]
    for job, words in found[:SHOWN]:
        url = reverse("run", args=[job.uid])
        link = format_html('<a href="{}">{}</a>', url, str(job))
        yield Todo(_warning(_("stuck")), format_html(words, run=link), url)


def _why_stuck(job: Job, now: datetime) -> str:
    """A sentence of HTML with {run} in it; empty: it is not."""
    asked = job.cancel_requested_at or job.requeue_requested_at or job.preempt_requested_at
    opened = job.opened
    if opened is None:
        if job.held or job.waiting.get("code") not in HOPELESS:
            return ""
        # Of people's own words (a kind of GPU, a label) it may hold anything.
        told = escape(reasons.sentence(job.waiting))
        return "{run}: " + told.replace("{", "{{").replace("}", "}}")
    if opened.device.state(now) == DeviceState.DISCONNECTED:
        return ""  # told with its host
    if asked and now - asked > STUCK:
        return _("{run} was asked to stop and has not; look at its process on the GPU server.")
    if opened.started_at is None and now - opened.created_at > STUCK:
        return _("{run} was given to a GPU server long ago and has not started there.")
    return ""


def _disks(cards: Sequence[Card], disk: Forecast) -> Iterator[Todo]:
    badge = _warning(_("disk filling"))
    if disk.is_close:
        words = ngettext(
            "The server's own disk has {free} left, and is full in about {n} day.",
            "The server's own disk has {free} left, and is full in about {n} days.",
            int(disk.days_left or 0),
        )
        said = format_html(words, free=size(disk.free_bytes), n=int(disk.days_left or 0))
        yield Todo(badge, said, reverse("projects"), _("Free space"))
    for card in [one for one in cards if one.disk_is_full][:SHOWN]:
        words = _("{device} has {free} left on its disk; runs fail there when it is full.")
        said = format_html(
            words, device=_link(card.device), free=size(card.device.disk_free_bytes)
        )
        yield Todo(badge, said, _page(card.device))


def _skew(cards: Sequence[Card]) -> Iterator[Todo]:
    for device, odd in skewed([card.device for card in cards])[:SHOWN]:
        told = "; ".join(
            _("%(what)s %(version)s, most others have %(usual)s")
            % {"what": one.label, "version": one.value, "usual": one.usual}
            for one in odd
        )
        said = format_html("{}: {}.", _link(device), told)
        yield Todo(_warning(_("versions differ")), said, _page(device))


def _older(cards: Sequence[Card]) -> Iterator[Todo]:
    """All in one: after an upgrade of the server it is every agent."""
    there = [card for card in cards if card.state != DeviceState.DISCONNECTED]
    older = [card.device for card in there if card.has_older_agent]
    if older:
        words = ngettext(
            "The agent of {devices} is older than this server's. One line renews it; jobs go on.",
            "The agents of {devices} are older than this server's. One line renews each; jobs go "
            "on.",
            len(older),
        )
        named = format_html_join(", ", "{}", [(_link(one),) for one in older[:SHOWN]])
        more = format_html(" (+{})", len(older) - SHOWN) if len(older) > SHOWN else ""
        said = format_html(words, devices=format_html("{}{}", named, more))
        url = reverse("device-add") + "#h-renew"
        yield Todo(_warning(_("older agents")), said, url, _("Renew"))


def _warning(word: str) -> Badge:
    return Badge("warning", "s-warning", word)


def _page(device: Device) -> str:
    return reverse("device", args=[device.pk])


def _link(device: Device) -> SafeString:
    return format_html('<a href="{}">{}</a>', _page(device), device.host_id)
