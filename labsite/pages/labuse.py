"""How much of the lab is used: by whom now, how it went in the last day, what the week took."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.db.models import Q, Sum
from django.utils.translation import gettext as _

from devices.models import minute_of, moment_of
from experiments.dispatch import held_gpus
from experiments.models import Attempt, LabSample
from labsite.pages.minutely import EachMinute
from labsite.pages.sparks import area, path

DAY_MINUTES = 24 * 60
#: The box of the day's chart: a step is ten minutes.
STEP_MINUTES, HEIGHT = 10, 100.0
WEEK = timedelta(days=7)
#: Each three hours a word beneath the chart.
TICKS = 4


@dataclass(frozen=True)
class Share:
    """What one person uses. `percent` is of the largest, for its bar; `of_all` of all."""

    name: str
    username: str
    amount: float
    percent: float
    of_all: float
    is_reader: bool


def users_now(reader: Any) -> list[Share]:
    """GPUs held now, by whoever holds most."""
    return _shares(Counter(held_gpus()), reader)


def users_of_week(reader: Any, now: datetime) -> list[Share]:
    """GPU hours of the last seven days."""
    return _shares(_hours_by_user(now), reader)


@EachMinute
def _hours_by_user(now: datetime) -> Counter:
    begin = now - WEEK
    found = Attempt.objects.filter(
        Q(ended_at=None) | Q(ended_at__gt=begin), started_at__isnull=False
    )
    hours: Counter[int | None] = Counter()
    for user, gpus, started, ended in found.order_by().values_list(
        "job__user_id", "job__gpus", "started_at", "ended_at"
    ):
        seconds = ((ended or now) - max(started, begin)).total_seconds()
        hours[user] += gpus * max(0.0, seconds) / 3600
    return hours


def _shares(amounts: Counter, reader: Any) -> list[Share]:
    people = get_user_model().objects.in_bulk([pk for pk in amounts if pk])
    most, all_ = max(amounts.values(), default=0), sum(amounts.values())
    return [
        Share(
            name=people[pk].get_full_name() or people[pk].username if pk in people else "–",
            username=people[pk].username if pk in people else "",
            amount=amount,
            percent=100 * amount / most,
            of_all=100 * amount / all_,
            is_reader=pk == reader.pk,
        )
        for pk, amount in amounts.most_common()
        if amount > 0
    ]


# --- the last day -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Day:
    """The last 24 hours as paths in a box of 1440 × 100, and what they say in numbers."""

    busy: str
    busy_area: str
    outside: str  # what is used outside the queue, laid on what is busy
    ticks: Sequence[datetime]
    mean_percent: float | None  # of all cards
    utilization_percent: float | None  # of those that were busy
    most: int  # cards: the top of the box


@EachMinute
def day(now: datetime) -> Day:
    first = minute_of(now) - DAY_MINUTES
    rows = LabSample.objects.filter(minute__gt=first).values_list(
        "minute", "busy", "outside", "gpus", "utilization_percent"
    )
    rows = list(rows)
    most = max((gpus for _minute, _busy, _outside, gpus, _use in rows), default=0)
    busy = _means([(minute, busy) for minute, busy, *_rest in rows], first, most)
    both = _means([(minute, b + o) for minute, b, o, *_rest in rows], first, most)
    held = sum(row[1] for row in rows)
    used = [(row[1], row[4]) for row in rows if row[4] is not None]
    return Day(
        busy=path(busy, gap=3 * STEP_MINUTES),
        busy_area=area(busy, HEIGHT),
        outside=path(both, gap=3 * STEP_MINUTES) if any(row[2] for row in rows) else "",
        ticks=[moment_of(first + n * DAY_MINUTES // TICKS) for n in range(TICKS + 1)],
        mean_percent=100 * held / sum(row[3] for row in rows) if most else None,
        utilization_percent=_weighted(used),
        most=most,
    )


def _means(values: Sequence[tuple[int, int]], first: int, most: int) -> list[tuple[float, float]]:
    """Means of ten minutes, as points of the box."""
    steps: dict[int, list[int]] = {}
    for minute, value in values:
        steps.setdefault(minute - minute % STEP_MINUTES, []).append(value)
    return [
        (max(0, step - first), HEIGHT * (1 - sum(some) / len(some) / (most or 1)))
        for step, some in steps.items()
    ]


def _weighted(used: Sequence[tuple[int, int]]) -> float | None:
    cards = sum(busy for busy, _use in used)
    return sum(busy * use for busy, use in used) / cards if cards else None


@EachMinute
def hours_of_week(now: datetime) -> tuple[float, float | None]:
    """GPU hours held by jobs in seven days; and of those that the lab had, in percent."""
    rows = LabSample.objects.filter(minute__gt=minute_of(now - WEEK))
    found = rows.aggregate(busy=Sum("busy"), gpus=Sum("gpus"))
    if not found["gpus"]:
        return 0.0, None
    return found["busy"] / 60, 100 * found["busy"] / found["gpus"]


def free_words(free: Counter) -> str:
    """ "8 × RTX 3090, 3 × H100": what is free, the most first."""
    told = [f"{count} × {kind}" for kind, count in free.most_common(3)]
    return ", ".join(told) if told else _("none")
