"""What is left to tell a channel: the events after the last one that it was told of."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from django.db.models import Max, Q, QuerySet

from experiments.models import Channel, JobEvent, Sweep, Tells
from experiments.models.channel import TOO_OLD
from experiments.states import ENDED, EventKind, JobState
from labsite.telling.said import Said, of_run, of_sweep

#: An end is told so long after it: the last lines of its log and metrics come after its word.
SETTLES = timedelta(seconds=10)
#: Looked at in one go.
AT_ONCE = 200
_WANT = {
    JobState.SUCCEEDED: Tells.SUCCEEDED,
    JobState.FAILED: Tells.FAILED,
    JobState.CANCELLED: Tells.CANCELLED,
}
#: Of a job, what no message says.
_HEAVY = (
    "job__config", "job__keys", "job__environment", "job__command", "job__resume_point",
    "job__notes", "job__waiting", "job__outputs", "job__ignore", "job__sync", "job__labels",
    "job__avoids",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One event: what is to be said of it, if anything is, and whether it came too late."""

    event_id: int
    said: Said | None = None
    late: bool = False


def left(channel: Channel, after: int) -> QuerySet[JobEvent]:
    """Ends of runs after that event which may be for this one. Of sweeps all: whether one is told
    is decided by how the whole of it ended."""
    if channel.project_id is not None:
        its = Q(job__project=channel.project_id)
    else:
        its = Q(job__user=channel.user_id, job__user__isnull=False)
    states = [state for state, want in _WANT.items() if want in channel.wants]
    wanted = Q(to_state__in=states) | Q(to_state__in=ENDED, job__sweep__isnull=False)
    return JobEvent.objects.filter(its, wanted, pk__gt=after)


def ends(channel: Channel, after: int, now: datetime) -> list[JobEvent]:
    """The first of them, up to one that has not settled."""
    found = (
        left(channel, after)
        .order_by("pk")
        .select_related("job__project", "job__user", "job__sweep")
    )
    settled = takewhile(lambda event: now - event.at >= SETTLES, found.defer(*_HEAVY)[:AT_ONCE])
    return list(settled)


def steps(channel: Channel, events: Iterable[JobEvent], now: datetime) -> Iterator[Step]:
    """In the language that is active."""
    done: dict[int, int | None] = {}
    for event in events:
        if now - event.at > TOO_OLD:
            yield Step(event.pk, late=True)
        else:
            yield Step(event.pk, _said(channel, event, done))


def _said(channel: Channel, event: JobEvent, done: dict[int, int | None]) -> Said | None:
    job = event.job
    if job.deleted_at or job.project.is_demo:
        return None
    if job.sweep is not None:
        if job.sweep_id not in done:
            done[job.sweep_id] = _last_of(job.sweep)
        return _of_whole(channel, event) if event.pk == done[job.sweep_id] else None
    canceller = _canceller(event)
    if event.to_state == JobState.CANCELLED and canceller in (None, job.user):
        return None
    if not channel.may_tell_of(job):
        return None
    return of_run(channel, event, canceller.get_username() if canceller else "")


def _of_whole(channel: Channel, event: JobEvent) -> Said | None:
    """Of a sweep of which all has ended, the last by this event: one message and not 200."""
    sweep = event.job.sweep
    states = set(sweep.counts())
    if _canceller(event) == event.job.user:
        states.discard(JobState.CANCELLED)
    wanted = {_WANT[JobState(state)] for state in states & set(ENDED)} & set(channel.wants)
    return of_sweep(channel, event, sweep) if wanted and channel.may_tell_of(event.job) else None


def _last_of(sweep: Sweep) -> int | None:
    """The event by which the last of its runs ended; None: one waits or runs."""
    if sweep.newest_runs().unended().exists():
        return None
    ended = JobEvent.objects.filter(job__in=sweep.jobs.present(), to_state__in=ENDED)
    return ended.aggregate(last=Max("pk"))["last"]


def _canceller(event: JobEvent) -> Any:
    """Who cancelled it; None: it was not, or its submitter is not known any more."""
    if event.to_state != JobState.CANCELLED:
        return None
    if event.kind == EventKind.CANCELLED:  # while it waited
        return event.by
    asked = event.job.events.filter(kind=EventKind.CANCEL_REQUESTED, pk__lt=event.pk)
    newest = asked.select_related("by").order_by("-pk").first()
    return newest.by if newest else event.by
