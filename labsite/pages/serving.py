"""What pages say of the server itself: whether runs are given out, and what runlab keeps alive."""

import signal
from dataclasses import dataclass

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_safe

from experiments.models import Pulse
from labsite import health
from labsite.clock import database_now
from labsite.health import ServerProgram
from labsite.templatetags.lab import since, size
from sync import disk
from sync.disk import Forecast

YEAR_DAYS = 365


@dataclass(frozen=True)
class Line:
    """One of runlab's programs in words."""

    program: ServerProgram
    label: str
    ended: str  # why it ended the last time; empty: it never did


@login_required
@require_safe
def serving(request: HttpRequest) -> HttpResponse:
    return render(request, "parts/serving.html", {"serving": notice()})


def notice() -> dict[str, object]:
    """What parts/serving.html shows."""
    now = database_now()
    found = health.dispatch(now)
    restarted = found.restarted
    return {
        "dispatch": found,
        "silent_for": since(found.silent_since, now) if found.silent_since else "",
        "because": _why(restarted) if restarted else "",
        "silence": since(found.over.since, found.over.until) if found.over else "",
    }


def panel() -> dict[str, object]:
    """What parts/server.html shows managers: each program, or what is known where runlab keeps
    none."""
    pulses = {pulse.name: pulse for pulse in Pulse.objects.all()}
    forecast = disk.forecast(database_now())
    return {
        "lines": lines(),
        "disk": forecast,
        "disk_lasts": _lasts(forecast),
        "heard_since": pulses[Pulse.LANE].unbroken_since if Pulse.LANE in pulses else None,
        "looked_at": pulses[Pulse.DISPATCH].at if Pulse.DISPATCH in pulses else None,
    }


def _lasts(found: Forecast) -> str:
    """How long the disk lasts, in a sentence."""
    growth = found.growth_bytes_per_day
    if growth is None:
        return _("How long it will last is not known yet: that takes a day of measurements.")
    if found.days_left is None:
        return _("It does not fill up.")
    grows = {"size": size(growth)}
    days = int(found.days_left)
    if days > YEAR_DAYS:
        return _("It fills by %(size)s a day, and lasts more than a year.") % grows
    if days < 1:
        return _("It fills by %(size)s a day, and is full in less than a day.") % grows
    words = ngettext(
        "It fills by %(size)s a day, and is full in about %(n)d day.",
        "It fills by %(size)s a day, and is full in about %(n)d days.",
        days,
    )
    return words % {**grows, "n": days}


def lines() -> list[Line]:
    labels = {
        "web": _("the site"),
        "dispatch": _("giving out runs"),
        "clock": _("the clock"),
        "agent": _("the agent on this server"),
    }
    return [
        Line(one, labels.get(one.name, one.name), _why(one) if one.ended_at else "")
        for one in health.programs()
    ]


def _why(program: ServerProgram) -> str:
    """Why it ended the last time, as the rest of a sentence."""
    known = {
        "stuck": _("no queued run was looked at for ten seconds"),
        "member_killed": _("one of its processes was killed"),
        "changed": _("the source has changed"),
    }
    if program.cause == "signal" and program.status is not None:
        return _("it was killed (%(signal)s)") % {"signal": _signal_name(-program.status)}
    return known.get(program.cause) or _("it ended with status %(status)s") % {
        "status": program.status
    }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
