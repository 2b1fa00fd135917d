"""The first page of the desk: how the lab is, and what was done last."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from devices.models import DeviceState
from experiments.models import Job
from labsite.clock import database_now
from labsite.pages.auditlog import line_of
from labsite.pages.hostcards import read_cards
from labsite.templatetags.lab import size
from people.models import AuditEntry
from sync import disk
from sync.disk import Forecast

LAST_DONE = 10
#: Of gpus.Row.use: what is nobody's to use now.
ILL = ("faulty", "missing")
ELSEWHERE = ("outside", "elsewhere")


@dataclass(frozen=True)
class Figure:
    label: str
    value: str
    more: str
    url: str
    alarming: bool = False


def front(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """unfold's DASHBOARD_CALLBACK."""
    done = AuditEntry.objects.all()[:LAST_DONE]
    return context | {
        "figures": _figures(request.user),
        "done": [line_of(entry) for entry in done],
    }


def _figures(user: Any) -> list[Figure]:
    cards = read_cards(user)
    uses = Counter(row.use for card in cards for row in card.gpus)
    states = Counter(card.state for card in cards)
    return [
        _devices(states),
        _gpus(uses),
        _jobs(),
        _disk(disk.forecast(database_now())),
    ]


def _devices(states: Counter) -> Figure:
    healthy, known = states[DeviceState.HEALTHY], states.total()
    away = states[DeviceState.DISCONNECTED]
    more = ngettext("%(n)d not connected", "%(n)d not connected", away) % {"n": away}
    value = _("%(part)d of %(all)d healthy") % {"part": healthy, "all": known}
    url = reverse("admin:devices_device_changelist")
    return Figure(_("GPU servers"), value, more, url, alarming=away > 0)


def _gpus(uses: Counter) -> Figure:
    ill = sum(uses[use] for use in ILL)
    told = {"free": uses["free"], "ill": ill, "outside": sum(uses[use] for use in ELSEWHERE)}
    more = _("%(free)d free, %(ill)d faulty, %(outside)d used outside the queue") % told
    value = _("%(part)d of %(all)d busy") % {"part": uses["job"], "all": uses.total()}
    return Figure(_("GPUs"), value, more, reverse("admin:devices_gpu_changelist"), ill > 0)


def _jobs() -> Figure:
    running, waiting = Job.objects.live().count(), Job.objects.queued().count()
    value = ngettext("%(n)d running", "%(n)d running", running) % {"n": running}
    more = ngettext("%(n)d waiting", "%(n)d waiting", waiting) % {"n": waiting}
    return Figure(_("Runs"), value, more, reverse("admin:experiments_job_changelist"))


def _disk(found: Forecast) -> Figure:
    value = _("%(size)s free") % {"size": size(found.free_bytes)}
    days = found.days_left
    more = _("it does not fill up") if days is None else ""
    if days is not None:
        whole = int(days)
        more = ngettext("full in about %(n)d day", "full in about %(n)d days", whole)
        more %= {"n": whole}
    return Figure(
        _("The server's disk"), value, more, reverse("projects"), alarming=found.is_close
    )
