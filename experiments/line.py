"""The line of what waits: in which order dispatch looks at it, and how people change that.

Within a priority: first what a manager has laid before the others (`placed`), in that order; then
what was passed over for too long; then fair share, which takes each submitter's jobs by `rank`.
Whoever moves a job among their own only exchanges ranks that are theirs, and so overtakes nobody.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection
from django.utils.translation import gettext as _

from experiments.errors import IllegalTransition
from experiments.models import Job
from experiments.models.event import change, record
from experiments.states import EventKind, JobState
from experiments.waiting import AnyJob
from labsite import wake
from labsite.clock import database_now
from people.roles import may_manage

#: A job is passed over for so many times LAB_HOLD_BACK_AFTER_SECONDS at most.
PASSED_OVER = 4


def turn(held_gpus: Counter, now: datetime) -> Callable[[Job], tuple[Any, ...]]:
    """The key of dispatch's order while none of them gets a GPU; what is kept queued is last."""
    since = passed_over_since(now)
    return lambda job: (
        job.held,
        -job.priority,
        job.placed is None,
        job.placed or 0,
        *fair(job, held_gpus, since),
        job.rank,
        job.pk,
    )


def fair(job: AnyJob, held_gpus: Counter, since: datetime) -> tuple[bool, int]:
    """Fair share's part of the key: whoever holds the fewest GPUs, and before them, by age alone,
    what that has passed over for too long.

    Args:
        since: passed_over_since().
    """
    held = held_gpus[job.user_id]
    if job.gpus > held and job.submitted_at <= since:
        return False, 0
    return True, held


def passed_over_since(now: datetime) -> datetime:
    """Who queued a job by then, and holds fewer GPUs than it asks for, was passed over for too
    long: others who hold fewer, with always something small to start, could do so for ever."""
    return now - PASSED_OVER * timedelta(seconds=settings.LAB_HOLD_BACK_AFTER_SECONDS)


def neighbour(
    job: Job, jobs: Sequence[Job], *, step: int, among: Callable[[Job], bool]
) -> Job | None:
    """The one before (`step` -1) or after it (1) of its priority, among those that count."""
    line = [one for one in jobs if one.priority == job.priority and (among(one) or one == job)]
    place = line.index(job) + step if job in line else -1
    return line[place] if 0 <= place < len(line) else None


def move(job: Job, other: Job, *, after: bool, held_gpus: Counter, by: Any) -> None:
    """Put `job` before `other`, or after it.

    Two jobs of one submitter change their places among that one's own. Across submitters a
    manager decides: then all that stands before its new place stands there by hand as well.

    Raises:
        IllegalTransition: one of them does not wait any more, or they have not one priority; or
            it would take a manager.
    """
    with change():
        jobs = _locked(job.priority)
        job, other = _of(job, jobs), _of(other, jobs)
        placed = job.placed is not None or other.placed is not None
        in_turn = turn(held_gpus, database_now())
        if job.user_id == other.user_id and not placed:
            _exchange(_with(job, other, [j for j in jobs if _is_peer(j, job)], after=after))
        elif may_manage(by):
            _lay(job, _with(job, other, sorted(jobs, key=in_turn), after=after))
        elif placed:
            words = _("A manager has laid out this part of the queue; ask one to change it.")
            raise IllegalTransition.of(job, words)
        else:
            words = _("Only a manager moves a run before somebody else's.")
            raise IllegalTransition.of(job, words)
        record(job, EventKind.MOVED, by=by, other=other.uid, after=after)
    wake.ask_dispatch()


def give_back(job: Job, *, by: Any) -> None:
    """Let it wait for its turn again, as fair share has it. Twice is once."""
    with change():
        waiting = Job.objects.queued().filter(pk=job.pk, placed__isnull=False)
        if waiting.update(placed=None):
            record(job, EventKind.MOVED, by=by, other=None)
    job.placed = None
    wake.ask_dispatch()


def _locked(priority: int) -> list[Job]:
    """What waits with that priority, in the order of ranks; nobody else changes it before this is
    committed. Locked in the order in which sweeps lock theirs."""
    rows = Job.objects.queued().filter(priority=priority).select_related("project")
    rows = rows.only(
        "priority", "rank", "placed", "held", "user_id", "uid", "state", "run_number",
        "project__name", "gpus", "submitted_at",
    )  # fmt: skip
    locked = rows.order_by("pk").select_for_update(of=("self",), no_key=True)
    return sorted(locked, key=lambda job: (job.rank, job.pk))


def _of(job: Job, jobs: Iterable[Job]) -> Job:
    found = next((one for one in jobs if one.pk == job.pk), None)
    if found is None:
        job.refresh_from_db(fields=["state", "priority"])
        words = _("%(job)s does not wait any more.")
        if job.state == JobState.QUEUED:
            words = _("%(job)s has another priority; change that first.")
        raise IllegalTransition.of(job, words)
    return found


def _is_peer(one: Job, job: Job) -> bool:
    return one.user_id == job.user_id and one.placed is None


def _with(job: Job, other: Job, jobs: Sequence[Job], *, after: bool) -> list[Job]:
    line = [one for one in jobs if one.pk != job.pk]
    line.insert(line.index(other) + after, job)
    return line


def _exchange(line: Sequence[Job]) -> None:
    """Give the ranks that these have, in order, to them as they stand now."""
    ranks: list[int] = []
    for rank in sorted(one.rank for one in line):
        ranks.append(max(rank, ranks[-1] + 1) if ranks else rank)
    ranked = zip(line, ranks, strict=True)
    _write("rank", [(rank, one.pk) for one, rank in ranked if one.rank != rank])


def _lay(job: Job, line: Sequence[Job]) -> None:
    """Number them from the first to `job`, or to the last that had a number."""
    last = max(place for place, one in enumerate(line) if one == job or one.placed is not None)
    numbered = enumerate(line[: last + 1], start=1)
    _write("placed", [(number, one.pk) for number, one in numbered if one.placed != number])


def _write(column: str, rows: Sequence[tuple[int, int]]) -> None:
    """Of each job by its key, which is locked. One prepared UPDATE: of a long line one of the
    ORM's for each would keep SQLite's only writer for seconds."""
    table, value, key = map(connection.ops.quote_name, (Job._meta.db_table, column, "id"))
    with connection.cursor() as cursor:
        cursor.executemany(f"UPDATE {table} SET {value} = %s WHERE {key} = %s", rows)  # noqa: S608
