"""The lab at a glance: what needs a person, what is free, who uses what, how the last day was."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import pgettext
from django.views.decorators.http import require_safe

from devices.models import DeviceState, Use
from experiments.leases import mass_loss
from experiments.models import Attempt, Job
from experiments.states import JobState
from labsite.clock import database_now
from labsite.pages import attention, labuse
from labsite.pages.access import Sight
from labsite.pages.enrolling import site_url
from labsite.pages.hostcards import Card, Row, gpu_type, read_cards
from labsite.pages.queue import HEAVY, Line, lines
from people.roles import may_manage
from sync import disk

MINE, LAST = 8, 8
LIVE_OR_QUEUED = (JobState.QUEUED, JobState.ASSIGNED, JobState.RUNNING)
#: Of a use: its colour, its shape in a cell, and its word in the key. Busy cells show a number.
_CELLS = {
    "busy": ("running", ""),
    "starting": ("starting", "s-starting"),
    Use.FREE: ("free", ""),
    Use.STOPPED: ("draining", "s-draining"),
    Use.OUTSIDE: ("outside", "s-outside"),
    Use.ELSEWHERE: ("outside", "s-outside"),
    Use.FAULTY: ("faulty", "s-faulty"),
    Use.MISSING: ("faulty", "s-faulty"),
    "unreachable": ("unreachable", "s-disconnected"),
}


@dataclass(frozen=True)
class Cell:
    """One card in the map of all."""

    row: Row
    kind: str  # of _CELLS
    word: str
    is_seen: bool  # by the reader: the run that has it, if one has

    @property
    def state(self) -> str:
        return _CELLS[self.kind][0]

    @property
    def icon(self) -> str:
        return _CELLS[self.kind][1]

    @property
    def whose(self) -> str:
        """Run and person, where the reader may know."""
        if self.row.borrow is not None:
            return self.row.borrow.user.get_username()
        if self.row.attempt is None:
            return ", ".join(self.row.gpu.foreign_users)
        job = self.row.attempt.job
        name = str(job) if self.is_seen else _("a private run")
        return ", ".join(filter(None, [name, job.user.username if job.user else ""]))


@login_required
@require_safe
def dashboard(request: HttpRequest) -> HttpResponse:
    """`wall`: for a screen on the wall, without what one clicks; `part`: what moves, alone."""
    wall = request.GET.get("wall") == "1"
    if wall:
        _stay_signed_in(request)
    context = _context(request.user, database_now()) | {"wall": wall}
    context["site"] = site_url(request)
    if "part" in request.GET:
        return render(request, "parts/dashboard.html", context)
    return render(request, "pages/wall.html" if wall else "pages/dashboard.html", context)


def _stay_signed_in(request: HttpRequest) -> None:
    """A wall lives for weeks: once a day its session is written anew, and so begins anew."""
    today = timezone.localdate().isoformat()
    if request.session.get("wall") != today:
        request.session["wall"] = today


def _context(user: Any, now: datetime) -> dict[str, Any]:
    cards = read_cards(user)
    sight = Sight(user)
    cells = {card.device.pk: [_cell(row, card, sight) for row in card.gpus] for card in cards}
    jobs = _unended(user)
    hours, of_all = labuse.hours_of_week(now)
    mine = _mine(user, now)
    return {
        "now": now,
        "hosts": [(card, cells[card.device.pk]) for card in cards],
        "todo": _todo(cards, jobs, user, now),
        "figures": _figures(cards, cells, jobs, user),
        "key": _key([cell for some in cells.values() for cell in some]),
        "users": labuse.users_now(user)[:10],
        "day": labuse.day(now),
        "week_hours": hours,
        "week_percent": of_all,
        "mine": mine,
        "last": _last(user, now),
        "is_new": not mine and not _has_run(user),
    }


def _cell(row: Row, card: Card, sight: Sight) -> Cell:
    words = {
        "busy": _("busy"),
        "starting": _("starting"),
        "unreachable": _("unreachable"),
        Use.FREE: pgettext("in a small cell", "free"),
    }
    kind: str = row.use
    if card.state == DeviceState.DISCONNECTED and row.use != Use.FAULTY:
        kind = "unreachable"
    elif row.use == Use.JOB:
        started = row.attempt is None or row.attempt.started_at or row.attempt.ended_at
        kind = "busy" if started else "starting"
    seen = row.attempt is None or sight.sees(row.attempt.job)
    return Cell(row, kind, words.get(kind) or str(Use(kind).label), seen)


def _key(cells: Sequence[Cell]) -> list[tuple[Cell, int]]:
    """What cells mean: one of each kind that there is, and how many there are."""
    counted = Counter(cell.kind for cell in cells)
    first = {cell.kind: cell for cell in reversed(cells)}
    return [(first[kind], counted[kind]) for kind in _CELLS if kind in counted]


def _unended(user: Any) -> list[Job]:
    """What waits or runs, each with `opened`: its open try, or None."""
    opened = Attempt.objects.open().select_related("device").defer(
        "files_advertised", "files_left_out", "resume", "device__source"
    )  # fmt: skip
    found = Job.objects.visible_to(user).present().filter(state__in=LIVE_OR_QUEUED)
    found = found.select_related("project").only(
        "uid", "run_number", "user_id", "state", "held", "waiting", "cancel_requested_at",
        "requeue_requested_at", "preempt_requested_at", "project__name",
    )  # fmt: skip
    jobs = list(found.order_by().prefetch_related(Prefetch("attempts", opened, to_attr="tries")))
    for job in jobs:
        job.opened = job.tries[-1] if job.tries else None
    return jobs


def _todo(
    cards: Sequence[Card], jobs: Sequence[Job], user: Any, now: datetime
) -> list[attention.Todo]:
    if may_manage(user):
        return attention.of_lab(cards, jobs, mass_loss(now), disk.forecast(now), now)
    return attention.of_own(cards, [job for job in jobs if job.user_id == user.pk], user, now)


def _figures(
    cards: Sequence[Card], cells: dict[int, list[Cell]], jobs: Sequence[Job], user: Any
) -> dict[str, Any]:
    every = [cell for some in cells.values() for cell in some]
    kinds = Counter(cell.kind for cell in every)
    free = [cell.row.gpu for cell in every if cell.kind == Use.FREE]
    live = [job for job in jobs if job.state != JobState.QUEUED]
    waiting = [job for job in jobs if job.state == JobState.QUEUED]
    states = Counter(card.state for card in cards)
    use = [
        cell.row.gpu.utilization_percent
        for cell in every
        if cell.kind == "busy" and cell.row.gpu.utilization_percent is not None
    ]
    return {
        "healthy": states[DeviceState.HEALTHY], "hosts": len(cards),
        "stale": states[DeviceState.STALE], "disconnected": states[DeviceState.DISCONNECTED],
        "busy": kinds["busy"] + kinds["starting"], "gpus": len(every),
        "use": sum(use) / len(use) if use else None,
        "free": len(free), "free_of": labuse.free_words(Counter(gpu_type(g.name) for g in free)),
        "foreign": kinds[Use.OUTSIDE] + kinds[Use.ELSEWHERE],
        "ill": kinds[Use.FAULTY] + kinds[Use.MISSING],
        "unreachable": kinds["unreachable"],
        "running": len(live), "mine_running": sum(job.user_id == user.pk for job in live),
        "waiting": len(waiting), "mine_waiting": sum(job.user_id == user.pk for job in waiting),
        "held": sum(job.held for job in waiting),
    }  # fmt: skip


def _mine(user: Any, now: datetime) -> list[Line]:
    """What runs, then what waits, then what ended last."""
    own = Job.objects.visible_to(user).present().filter(user=user)
    own = own.select_related("project", "user").defer(*HEAVY)
    found = lines(own.live().order_by("-id"), user, now, MINE)
    found += lines(own.queued().in_line(), user, now, MINE - len(found))
    return found + lines(own.ended().order_by("-finished_at"), user, now, MINE - len(found))


def _has_run(user: Any) -> bool:
    return Job.objects.visible_to(user).filter(user=user).exists()


def _last(user: Any, now: datetime) -> list[Line]:
    ended = Job.objects.visible_to(user).listed().filter(finished_at__isnull=False)
    ended = ended.select_related("project", "user").defer(*set(HEAVY) - {"summary"})
    return lines(ended.order_by("-finished_at"), user, now, LAST)
