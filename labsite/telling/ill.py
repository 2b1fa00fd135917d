"""What is wrong in the lab just now, of which a channel of managers is told once.

Each is known by a key that is the same as long as it lasts, and another one the next time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, Q
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from devices.models import GPU, Device, DeviceState
from devices.models.fault import Fault
from experiments.models import Channel, Pulse, Tells
from labsite.clock import clock_words, lab_date
from labsite.pages.hostcards import FULL_PERCENT, percent
from labsite.telling.phrases import Ours, Phrase, Text
from labsite.telling.said import Said, id_of
from labsite.templatetags.lab import size
from sync import disk

#: A GPU server that is silent for so long, with runs on it, is told of.
SILENT = timedelta(minutes=5)
#: What was told of a disk is over when it is better by so much: else it would be told of each
#: time that a checkpoint is written and removed.
CALM_PERCENT, CALM_DAYS = 5, 2


@dataclass(frozen=True)
class Ill:
    key: str
    words: Phrase
    is_ebbing: bool = False  # no news any more, and not over for whom it was told


def ills(wants: Sequence[str], told: Sequence[str], now: datetime) -> dict[str, Ill]:
    """By their keys, in the language that is active. `told`: the keys of those that were."""
    asked = {Tells.SILENT: _silent, Tells.FAULTY: _faulty, Tells.DISK: _disks}
    found = [one for want in wants if want in asked for one in asked[Tells(want)](now)]
    return {one.key: one for one in found if not one.is_ebbing or one.key in told}


def of_ills(channel: Channel, news: Sequence[Ill], now: datetime) -> Said:
    keys = [one.key for one in news]
    title = Phrase(_("The lab needs somebody"))
    return Said(
        id=id_of(channel, lab_date(now), *keys),
        kind="lab",
        title=title,
        path=reverse("home"),
        lines=[one.words for one in news],
        facts={"what": keys},
    )


def _silent(now: datetime) -> Iterator[Ill]:
    """While this server itself heard nobody it judges nobody."""
    if now - Pulse.sees_since(now) < SILENT:
        return
    runs = Count("attempts", filter=Q(attempts__ended_at=None))
    gone = Device.objects.real().filter(last_heartbeat_at__lt=now - SILENT)
    for device in gone.annotate(n=runs).filter(n__gt=0):
        if device.state(now) != DeviceState.DISCONNECTED:
            continue
        words = ngettext(
            "%(device)s has not been heard of since %(when)s. %(n)s run there is probably still "
            "training; nothing is lost.",
            "%(device)s has not been heard of since %(when)s. %(n)s runs there are probably still "
            "training; nothing is lost.",
            device.n,
        )
        when = device.last_heartbeat_at
        values = {"device": device.host_id, "when": Ours(clock_words(when)), "n": Ours(device.n)}
        yield Ill(f"silent:{device.pk}:{when.timestamp():.0f}", Phrase(words, values))


def _faulty(now: datetime) -> Iterator[Ill]:
    """A manager who sets one aside by hand knows it."""
    found = GPU.objects.faulty().filter(device__is_demo=False).exclude(fault=Fault.BY_HAND)
    for gpu in found.select_related("device"):
        words = _("%(gpu)s is faulty: %(why)s It gets no jobs until somebody clears it.")
        values = {"gpu": str(gpu), "why": Text(gpu.quarantine_reason.rstrip(".") + ".")}
        yield Ill(f"faulty:{gpu.pk}:{gpu.quarantined_at.timestamp():.0f}", Phrase(words, values))


def _disks(now: datetime) -> Iterator[Ill]:
    yield from _own_disk(disk.forecast(now))
    for device in Device.objects.real().filter(disk_total_bytes__gt=0):
        free, total = device.disk_free_bytes, device.disk_total_bytes
        full = 0 if free is None else percent(total - free, total) or 0
        if full >= FULL_PERCENT - CALM_PERCENT:
            words = _("%(device)s has %(free)s left on its disk; runs fail there when it is full.")
            values = {"device": device.host_id, "free": Ours(size(free))}
            yield Ill(f"disk:{device.pk}", Phrase(words, values), is_ebbing=full < FULL_PERCENT)


def _own_disk(forecast: disk.Forecast) -> Iterator[Ill]:
    left = forecast.days_left
    if left is not None and left < disk.WARN_DAYS + CALM_DAYS:
        days = int(left)
        words = ngettext(
            "The server's own disk has %(free)s left, and is full in about %(n)s day.",
            "The server's own disk has %(free)s left, and is full in about %(n)s days.",
            days,
        )
        values = {"free": Ours(size(forecast.free_bytes)), "n": Ours(days)}
        yield Ill("disk", Phrase(words, values), is_ebbing=not forecast.is_close)
