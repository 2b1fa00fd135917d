"""A project's timeline: on which GPU servers its runs were, from when to when, and whose they
were; drawn by the server, and told in a table."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from functools import cached_property
from typing import Any

from django.db.models import Q
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from devices.models import Device
from experiments.models import Attempt, Project
from labsite.clock import clock_words
from labsite.pages.access import visible
from labsite.pages.devicehistory import WINDOWS, Window
from labsite.pages.states import Badge, attempt_badge

#: Older tries are not read, and so many of the newest are told in the table.
DRAWN = 500
LISTED = 100
#: In percent of the width: what is shorter is drawn so wide; and what a shape, a run's name, and
#: whose it is besides, need.
NARROWEST, WITH_SHAPE, WITH_NAME, WITH_WHO = 0.3, 1.6, 5.5, 9.0
#: In pixels.
LANE, BAR = 24, 20

SPANS = [window for window in WINDOWS if window.name in ("day", "week", "month")]
USUAL = "week"
#: Between two marks beneath: in hours of a day, and in days.
MARKED_HOURS = {"day": 6}
MARKED_DAYS = {"week": 1, "month": 5}

_OF_TRY = (
    "pk", "job_id", "device_id", "number", "created_at", "started_at", "ended_at", "outcome",
    "unconfirmed", "found", "job__uid", "job__run_number", "job__name", "job__state", "job__held",
    "job__imported_at", "job__cancel_requested_at", "job__requeue_requested_at",
    "job__preempt_requested_at", "job__user__username",
)  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """One try of a run, from when the server was given it to its end, or now."""

    attempt: Attempt
    badge: Badge
    x: float  # percent of the width, as `width`
    width: float
    lane: int

    @property
    def y(self) -> int:
        return self.lane * LANE + (LANE - BAR) // 2

    @property
    def name(self) -> str:
        return self.attempt.job.run_name

    @property
    def who(self) -> str:
        user = self.attempt.job.user
        return user.username if user else "–"

    @cached_property
    def words(self) -> str:
        """All that the bar says, for whoever does not see it."""
        until = self.attempt.ended_at
        return _("%(run)s, %(who)s, on %(device)s, %(state)s, from %(begin)s to %(end)s") % {
            "run": self.name, "who": self.who, "device": self.attempt.device.host_id,
            "state": self.badge.word, "begin": clock_words(self.attempt.created_at),
            "end": clock_words(until) if until else _("now"),
        }  # fmt: skip

    @property
    def address(self) -> str:
        return reverse("run", args=[self.attempt.job.uid])

    @property
    def shown_words(self) -> str:
        """Within it, as far as there is room."""
        if self.width < WITH_NAME:
            return ""
        return f"{self.name} {self.who}" if self.width >= WITH_WHO else self.name

    @property
    def shown_icon(self) -> str:
        return self.badge.icon if self.width >= WITH_SHAPE else ""


@dataclass(frozen=True)
class Row:
    """A GPU server and what it had, from left to right; tries that it had at the same time lie
    beneath each other."""

    device: Device
    bars: list[Bar]

    @property
    def height(self) -> int:
        return LANE * (1 + max(bar.lane for bar in self.bars))


@dataclass(frozen=True)
class Mark:
    """A moment that is named beneath."""

    x: float
    words: str


@dataclass(frozen=True)
class Timeline:
    window: Window
    rows: list[Row]
    marks: list[Mark]
    bars: list[Bar]  # of all rows, the newest first
    is_cut: bool  # there are older ones, which are not drawn

    @property
    def listed(self) -> list[Bar]:
        return self.bars[:LISTED]

    @property
    def unlisted(self) -> int:
        return len(self.bars) - len(self.listed)


def span_named(name: str) -> Window:
    """That one; a week where there is none of that name."""
    found = {window.name: window for window in SPANS}
    return found.get(name, found[USUAL])


def timeline_of(project: Project, user: Any, window: Window, now: datetime) -> Timeline:
    """Three queries, however many tries."""
    begin = now - window.length
    found = _tries(project, begin)
    bars = _laid(visible(found[:DRAWN], user), window, now)
    by_device: dict[Device, list[Bar]] = defaultdict(list)
    for bar in reversed(bars):
        by_device[bar.attempt.device].append(bar)
    rows = [Row(device, by_device[device]) for device in sorted(by_device, key=_host)]
    return Timeline(window, rows, list(_marks(window, now)), bars, len(found) > DRAWN)


def _host(device: Device) -> str:
    return device.host_id


def _tries(project: Project, begin: datetime) -> list[Attempt]:
    """The newest first, one more than are drawn. What is asked of the jobs follows from what is
    asked of the tries, and spares a look at the tries of all older ones."""
    goes_on = Q(ended_at=None, job__finished_at=None)
    found = Attempt.objects.filter(
        goes_on | Q(ended_at__gte=begin),
        Q(job__finished_at=None) | Q(job__finished_at__gte=begin),
        job__project=project, job__deleted_at=None,
    )  # fmt: skip
    rows = found.select_related("job__user").only(*_OF_TRY).order_by("-created_at", "-number")
    tries = list(rows[: DRAWN + 1])
    devices = Device.objects.in_bulk({one.device_id for one in tries})
    for one in tries:
        one.device = devices[one.device_id]
    return tries


def _laid(tries: Sequence[Attempt], window: Window, now: datetime) -> list[Bar]:
    """Each in the first lane of its server that is free by then; in the order of `tries`."""
    ends: dict[int, list[float]] = defaultdict(list)
    badges = _badges(tries, now)
    bars = []
    for one in reversed(tries):
        x = _percent(one.created_at, window, now)
        width = max(_percent(one.ended_at or now, window, now) - x, NARROWEST)
        x = min(x, 100 - width)
        lane = _free_lane(ends[one.device_id], x, x + width)
        bars.append(Bar(one, badges[_look(one)], round(x, 2), round(width, 2), lane))
    return bars[::-1]


def _badges(tries: Sequence[Attempt], now: datetime) -> dict[Any, Badge]:
    """By _look(): to put hundreds into words one by one takes longer than to read them."""
    examples = {_look(one): one for one in tries}
    return {look: attempt_badge(one, one.job, now) for look, one in examples.items()}


def _look(one: Attempt) -> Any:
    """Equal for tries that look alike: an open one looks like no other."""
    return one.pk if one.is_open else (one.outcome, one.unconfirmed and not one.found)


def _percent(moment: datetime, window: Window, now: datetime) -> float:
    past = (now - moment) / window.length
    return 100 * (1 - min(1.0, max(0.0, past)))


def _free_lane(ends: list[float], x: float, end: float) -> int:
    """Takes it, too: `ends` are where the lanes are taken up to."""
    lane = next((at for at, taken in enumerate(ends) if taken <= x), len(ends))
    ends[lane : lane + 1] = [end]
    return lane


def _marks(window: Window, now: datetime) -> Iterator[Mark]:
    """Hours or midnights in the reader's zone, but for those too near the end to be named."""
    for moment in _moments(window, now):
        x = _percent(moment, window, now)
        if 1 < x < 94:
            is_day = moment.hour == 0
            yield Mark(round(x, 2), date_format(moment, _("M j") if is_day else "H:i"))


def _moments(window: Window, now: datetime) -> Iterator[datetime]:
    zone = timezone.get_current_timezone()
    first = timezone.localtime(now - window.length).date()
    hours = range(0, 24, MARKED_HOURS.get(window.name, 24))
    for day in range(0, window.length.days + 1, MARKED_DAYS.get(window.name, 1)):
        for hour in hours:
            yield datetime.combine(first + timedelta(days=day), time(hour), zone)
