"""Who is told where, set up, tried and taken away: of one's account, of a project, of the lab.

The same form for each. Where a message goes is written and never shown again, but for its host.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from experiments.models import Channel
from experiments.models.channel import (
    MIN_KEY_CHARACTERS,
    OF_LAB,
    OF_RUNS,
    TOO_OLD,
    kinds_offered,
)
from labsite.clock import database_now
from labsite.errors import Refused
from labsite.pages.access import posted
from labsite.pages.enrolling import site_url


@dataclass(frozen=True)
class Line:
    channel: Channel
    standing: list[str]  # sentences, of what a person should know


def offered(of: Any, now: datetime) -> dict[str, Any]:
    """What the form and the list above it are made of. `of`: a person, a project, or None."""
    channels = Channel.objects.of(of).select_related("project", "made_by__profile")
    wants = OF_LAB if of is None else OF_RUNS
    return {
        "lines": [Line(channel, _standing(channel, now)) for channel in channels],
        "kinds": [(kind.value, kind.label) for kind in kinds_offered()],
        "wants": [(want.value, want.label) for want in wants],
        "least_key": MIN_KEY_CHARACTERS,
    }


def put(request: HttpRequest, of: Any, *back: str) -> HttpResponse:
    """`of`: as above, whom the caller has made sure they may change."""
    try:
        made = Channel.put(
            of, posted(request, "kind"), posted(request, "address"),
            request.POST.getlist("wants"), database_now(), by=request.user,
            key=posted(request, "key"), site=site_url(request),
        )  # fmt: skip
    except Refused as refused:
        messages.error(request, str(refused))
    else:
        words = _(
            "From now on it is told at %(host)s. Send a test message to see that it arrives."
        )
        messages.success(request, words % {"host": made.host})
    return redirect(*back)


def _take(channel: Channel, by: Any) -> str:
    channel.take(by=by)
    return _("%(channel)s is told nothing any more.") % {"channel": channel}


def _test(channel: Channel, by: Any) -> str:
    channel.ask_test(database_now())
    return _("A test message is on its way; load the page again to see whether it arrived.")


VERBS: dict[str, Callable[[Channel, Any], str]] = {"delete": _take, "test": _test}


def act(request: HttpRequest, channel: Channel, verb: str, *back: str) -> HttpResponse:
    try:
        messages.success(request, VERBS[verb](channel, request.user))
    except Refused as refused:
        messages.error(request, str(refused))
    return redirect(*back)


def _standing(channel: Channel, now: datetime) -> list[str]:
    return [*_going(channel, now), *_skipped(channel), *_unknown(channel)]


def _going(channel: Channel, now: datetime) -> Iterable[str]:
    if channel.test_asked_at:
        yield _("A test message is on its way.")
    if channel.trouble:
        yield channel.trouble_words
    if channel.has_given_up(now):
        yield _(
            "It failed for a week and is tried no more: mend it and send a test message, which "
            "wakes it again, or delete it."
        )
    elif channel.retry_at and channel.retry_at > now:
        yield _("It is tried again within the hour.")


def _skipped(channel: Channel) -> Iterable[str]:
    if channel.skipped:
        words = ngettext(
            "%(n)d end of a run was not told: it was more than %(days)d days old by then.",
            "%(n)d ends of runs were not told: they were more than %(days)d days old by then.",
            channel.skipped,
        )
        yield words % {"n": channel.skipped, "days": TOO_OLD.days}


def _unknown(channel: Channel) -> Iterable[str]:
    if not channel.may_be_told():
        yield _(
            "Nothing is told: whoever set it up may not see this any more. Set up another one."
        )
