"""Giving queued jobs to free GPUs.

dispatch() looks at what is, not at what happened: it may be called at any time, by any number
of processes, for any reason or none, and does what is then left to do. It plans in memory from
one reading of the database, and assigns job by job as it plans; each assignment is safe by itself
(conditional UPDATEs and constraints), so a plan that has grown stale costs a LostRace and
nothing else.

Order (docs/adr/0010): priority, then what a manager has laid before the others, then what fair
share has passed over for too long (experiments.line), then the user who holds the fewest GPUs,
then age or the place to which a submitter moved it among their own.
A job that fits nowhere now may be passed by smaller ones, until it has waited for
LAB_HOLD_BACK_AFTER_SECONDS; then free GPUs are held back for it.
"""

import heapq
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models.functions import Coalesce

from devices.models import GPU
from experiments import line, reasons
from experiments.errors import IllegalTransition, LostRace
from experiments.models import Attempt, Borrow, GPUClaim, Job, Pulse
from experiments.models.secret import Vault
from experiments.places import Place, read_places
from experiments.rooms import Room, read_rooms
from experiments.waiting import Waiting, read_waiting
from labsite import wake
from labsite.clock import database_now

logger = logging.getLogger(__name__)

#: Above this many queued jobs the rest waits for a later pass: a pass stays well under a second.
LOOK_AT_MOST = 20_000
#: A pass gives out jobs for so long and leaves the rest to the next one, which it asks for: the
#: cluster's watchdog takes a task that runs for long for a dead one.
PASS_SECONDS = 1.0
#: But for so long at least from the first on, however long that took to plan in a long queue.
LEAST_SECONDS = 0.5
#: How often a pass that lost races plans anew; the next tick does the rest.
PLANS_AT_MOST = 5

Planned = tuple[Waiting, Place, list[GPU]]


def _told_to_all(job: Waiting) -> str:
    """Its name; empty for one of a private project."""
    return "" if job.project.private else str(job)


def dispatch(now: datetime | None = None) -> list[Attempt]:
    """Assign all that can be assigned now, tell every other job why it waits, and return
    the attempts made."""
    now = now or database_now()
    Pulse.beat(Pulse.DISPATCH, now)
    if not Job.objects.queued().real().exists():
        return []  # as a rule: this is asked every other second
    Borrow.objects.end_due(now)
    until = time.monotonic() + PASS_SECONDS
    made: list[Attempt] = []
    for _again in range(PLANS_AT_MOST):
        plan = Plan(read_places(now), held_gpus(), now, read_rooms())
        done, is_all = _give_out(plan.of(read_waiting(LOOK_AT_MOST)), now, until)
        made += done
        if is_all:
            break
        # Another dispatcher was at work, and the reading is out of date; or time is up.
        if time.monotonic() >= until:
            wake.ask_dispatch()  # there may be more to give out: another pass goes on
            break
    _write_reasons(plan.waiting)
    return made


def _give_out(
    planned: Iterator[Planned], now: datetime, until: float
) -> tuple[list[Attempt], bool]:
    """Carry out what is planned, in order and as far as time allows: until `until`, or for
    LEAST_SECONDS from the first on.

    Returns:
        The attempts made, and whether those are all: none was lost to another dispatcher, and
        time was not up.
    """
    made, lost = [], 0
    least = float("inf")
    for job, place, gpus in planned:
        least = min(least, time.monotonic() + LEAST_SECONDS)
        attempt = _assign(job, place, gpus, now)
        made += [attempt] if attempt else []
        lost += attempt is None
        if time.monotonic() >= max(until, least):
            return made, False
    return made, not lost


def held_gpus() -> Counter:
    """How many GPUs each user holds now, by user id, in jobs and by hand."""
    whose = Coalesce("attempt__job__user_id", "borrow__user_id")
    return Counter(GPUClaim.objects.values_list(whose, flat=True))


class Plan:
    """Who gets what, as far as one reading of the database tells."""

    def __init__(
        self, places: Sequence[Place], held: Counter, now: datetime, rooms: dict[int, Room]
    ) -> None:
        self._places = places
        self._rooms = rooms
        self._held = held
        self._now = now
        self._hold_back_since = now - timedelta(seconds=settings.LAB_HOLD_BACK_AFTER_SECONDS)
        self._passed_over = line.passed_over_since(now)
        #: Users with a Unix name; None: no place asks for one.
        self._named = next((p.admitted for p in places if p.admitted is not None), None)
        self._some_lack = any(place.device.lacks for place in places)
        self._held_back_for: Waiting | None = None
        #: What did not fit: asked again in the same pass it would not fit either.
        self._refused: dict[tuple, dict[str, Any]] = {}
        #: Jobs that stay queued, with the reason.
        self.waiting: list[tuple[Waiting, dict[str, Any]]] = []

    def of(self, jobs: Sequence[Waiting]) -> Iterator[Planned]:
        """The assignments to make, in order."""
        vault = Vault(jobs)
        by_priority: dict[int, list[Waiting]] = defaultdict(list)
        for job in jobs:
            if job.held:
                self.waiting.append((job, reasons.HELD))
            elif job.secrets and (reason := _without_secrets(job, vault)):
                self.waiting.append((job, reason))
            else:
                by_priority[job.priority].append(job)
        for priority in sorted(by_priority, reverse=True):
            yield from self._of_class(by_priority[priority])

    def _of_class(self, jobs: Sequence[Waiting]) -> Iterator[Planned]:
        """One priority class: what a manager laid before the others, then what was passed over
        for too long, then always the first job of the user who holds the fewest GPUs."""
        for job in sorted((job for job in jobs if job.placed is not None), key=_placed):
            yield from self._given(job)
        queues: dict[int | None, list[Waiting]] = defaultdict(list)
        for job in jobs:
            if job.placed is None:
                queues[job.user_id].append(job)
        for queue in queues.values():  # the first is at the end, where pop() is cheap
            queue.sort(key=self._turn, reverse=True)
        turn = [self._turn(queue[-1]) for queue in queues.values()]
        heapq.heapify(turn)
        while turn:
            user = heapq.heappop(turn)[-1]
            yield from self._given(queues[user].pop())
            if queues[user]:
                heapq.heappush(turn, self._turn(queues[user][-1]))

    def _turn(self, job: Waiting) -> tuple[bool, int, int, int, int | None]:
        return *line.fair(job, self._held, self._passed_over), job.rank, job.pk, job.user_id

    def _given(self, job: Waiting) -> Iterator[Planned]:
        """What it gets now, if it gets something."""
        room = self._rooms.get(job.sweep_id)
        if room is not None and room.is_full:
            self.waiting.append((job, reasons.sweep_full(room.running, room.most)))
        elif fit := self._fit(job):
            self._held[job.user_id] += job.gpus
            if room is not None:
                room.take()
            yield job, *fit

    def _fit(self, job: Waiting) -> tuple[Place, list[GPU]] | None:
        wish = self._wish(job)
        if wish not in self._refused:
            # The fullest place that it fits into: large gaps are kept for large jobs.
            fitting = [place for place in self._places if place.fits(job, self._now)]
            if fitting:
                place = min(fitting, key=lambda one: len(one.free_for(job)))
                return place, place.take(job)
            self._refused[wish] = self._why(job)
        if job.gpus and job.submitted_at <= self._hold_back_since:
            self._hold_back(job)  # also behind a younger one that asks for the same
        self.waiting.append((job, self._refused[wish]))
        return None

    def _why(self, job: Waiting) -> dict[str, Any]:
        """The reason that this job waits, from what this pass sees."""
        wants = _wants(job)
        if not self._places:
            return reasons.NO_DEVICES
        fitting = [place for place in self._places if place.could_ever(job)]
        if not fitting:
            return {"code": "nothing_fits", **wants}
        admitting = [place for place in fitting if place.admits(job)]
        if not admitting:
            return {"code": "no_unix_name", "devices": _names(fitting)}
        having = [place for place in admitting if not place.lacking(job)]
        if not having:
            return {"code": "lacks", "lacks": _lacks(admitting, job)}
        return self._why_not_now(job, having)

    def _why_not_now(self, job: Waiting, fitting: list[Place]) -> dict[str, Any]:
        wants = _wants(job)
        open_now = [place for place in fitting if place.accepts]
        if not open_now:
            return _none_accepts(fitting, wants)
        usable = [place for place in open_now if not place.is_avoided(job, self._now)]
        if not usable:
            return {"code": "avoids", "devices": _names(open_now)}
        if self._held_back_for and any(place.held_back for place in usable):
            return {"code": "held_back", "job": _told_to_all(self._held_back_for)}
        if not job.gpus:
            return {"code": "busy_cpu"}
        if reason := _used_by_others(usable):
            return {**reason, **wants}
        outside = [place for place in usable if place.outside]
        free = sum(len(place.free_for(job)) for place in usable)
        able = sum(place.able(job) for place in usable)
        return {"code": "busy", "free": free, "all": able, **_users(outside), **wants}

    def _wish(self, job: Waiting) -> tuple:
        """What decides where a job fits: two jobs with one wish fit at the same places."""
        labels = tuple(sorted(job.labels.items())) if job.labels else ()
        avoids = self._avoided(job) if job.avoids else ()
        admitted = self._named is None or job.user_id in self._named
        needs = (str(job.requires), job.python, job.user_id) if self._some_lack else ()
        return (job.gpus, job.gpu_memory_bytes, job.gpu_type, labels, avoids, admitted, needs)

    def _avoided(self, job: Waiting) -> tuple[str, ...]:
        now = self._now.isoformat()
        return tuple(sorted(pk for pk, until in job.avoids.items() if until > now))

    def _hold_back(self, job: Waiting) -> None:
        """Keep the place that is nearest to fitting this job free of smaller ones."""
        if self._held_back_for:
            return  # one at a time: the eldest in order
        able = [
            place
            for place in self._places
            if place.accepts
            and place.could_ever(job)
            and place.could_have(job)
            and place.admits(job)
            and not place.lacking(job)
        ]
        if able:
            nearest = max(able, key=lambda place: len(place.free_for(job)))
            nearest.hold_back()
            self._held_back_for = job
            wish = self._wish(job)
            self._refused = {wish: self._refused[wish]}


def _without_secrets(job: Waiting, vault: Vault) -> dict[str, Any] | None:
    """Why it cannot be given what it names; None: it can."""
    if missing := vault.missing(job):
        return {"code": "no_secret", "names": missing}
    return None if vault.opens(job) else reasons.SECRETS_LOCKED


def _placed(job: Waiting) -> int:
    return job.placed or 0


def _none_accepts(able: Sequence[Place], wants: dict[str, Any]) -> dict[str, Any]:
    stopping = [place for place in able if place.is_stopping]
    if stopping:
        return {"code": "stopping", "devices": _names(stopping)}
    return {"code": "unreachable", "devices": _names(able), **wants}


def _wants(job: Waiting) -> dict[str, Any]:
    return {
        "gpus": job.gpus,
        "gpu_type": job.gpu_type,
        "gpu_memory_bytes": job.gpu_memory_bytes,
        "labels": job.labels,
    }


def _used_by_others(usable: Sequence[Place]) -> dict[str, Any] | None:
    """The reason, where no job of ours has a GPU that this one could have instead."""
    if any(place.claimed for place in usable):
        return None
    if elsewhere := [place for place in usable if place.elsewhere]:
        return {"code": "elsewhere", "devices": _names(elsewhere)}
    outside = [place for place in usable if place.outside]
    if not outside:
        return None
    return {"code": "outside", "devices": _names(outside), **_users(outside)}


def _lacks(places: Sequence[Place], job: Waiting, at_most: int = 5) -> list[dict[str, Any]]:
    return [
        {"device": place.device.host_id, "names": place.lacking(job)[:at_most]}
        for place in places[:at_most]
    ]


def _names(places: Sequence[Place], at_most: int = 5) -> list[str]:
    names = [place.device.host_id for place in places]
    return names if len(names) <= at_most else [*names[:at_most], "…"]


def _users(places: Sequence[Place], at_most: int = 3) -> dict[str, Any]:
    """Who works there outside the queue, as far as drivers show it."""
    users = sorted({user for place in places for user in place.outside_users})
    return {"outside": users[:at_most]} if users else {}


def _assign(job: Waiting, place: Place, gpus: Sequence[GPU], now: datetime) -> Attempt | None:
    try:
        whole = Job.objects.select_related("project", "user", "sweep").get(pk=job.pk)
        attempt = whole.assign(place.device, gpus, now)
    except (LostRace, IllegalTransition, IntegrityError, Job.DoesNotExist) as exc:
        logger.info("%s not assigned to %s: %s", job, place.device, exc)
        return None
    logger.info("%s assigned to %s", job, place.device)
    return attempt


def _write_reasons(waiting: Sequence[tuple[Waiting, dict[str, Any]]]) -> None:
    """Write the reasons that changed: as a rule few, and many jobs share one."""
    changed: dict[str, tuple[dict[str, Any], list[int]]] = {}
    for job, reason in waiting:
        if job.waiting != reason:
            changed.setdefault(str(reason), (reason, []))[1].append(job.pk)
    for reason, pks in changed.values():
        for start in range(0, len(pks), 500):
            _write_reason(reason, pks[start : start + 500])


@transaction.atomic
def _write_reason(reason: dict[str, Any], pks: Sequence[int]) -> None:
    """What somebody changes just now is left to the next pass, which sees it changed."""
    queued = Job.objects.queued().filter(pk__in=pks)
    free = queued.select_for_update(no_key=True, skip_locked=True).values_list("pk", flat=True)
    Job.objects.filter(pk__in=list(free)).update(waiting=reason)
