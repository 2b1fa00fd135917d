"""The trash: what was deleted is kept for a while, and comes back as it was.

A deletion is rows first (models.Trash): once they are marked sync refuses the files, since every
write is an UPDATE of a row that is not deleted, and no page shows them. The bytes follow, file
by file under its lock, by renames within the one disk; what is moved twice is moved once. So a
crash at any point leaves what the next call of tidy() brings to its end. Whoever deletes a run in
a lower app writes Job.deleted_at only; collect() makes the deletion of it.

Rows are marked slice by slice, since heartbeats and deltas wait for whoever writes to SQLite.
What is yet to be marked stands in the deletion itself: it is carried out whole, or, should some of
it have changed meanwhile, what went before comes back.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models import Exists, OuterRef
from django.utils.translation import gettext_lazy

from experiments.models import Job, Project
from experiments.models.event import change
from experiments.states import EventKind
from labsite import wake
from labsite.errors import Refused
from sync import displacing, storage
from sync.errors import PlaceTaken, PlanChanged
from sync.models import SyncFile, Trash, TrashSlice, TrashState, What
from sync.storage import Place

logger = logging.getLogger(__name__)

#: So many files are moved, and so many runs looked at, before the next are asked for.
AT_ONCE = 500
#: So many are marked in one transaction, of a hundredth of a second or two.
FILES_AT_ONCE = 500
JOBS_AT_ONCE = 25
#: Between two the writer's place is free for so long at least. Who waits for SQLite does not stand
#: in a line but looks again, after 1, 2, 5, 10, 15, 20 and three times 25 ms, then after 50 and
#: 100: were the place free for less than 25 it might be found taken at each look.
PAUSE_SECONDS = 0.03
MEANWHILE = gettext_lazy("Some of these files have changed meanwhile; look again.")


def put_away(
    project: Project,
    what: What,
    files: Iterable[SyncFile],
    jobs: Iterable[Job],
    now: datetime,
    *,
    by: Any = None,
    older_than_days: int = 0,
) -> Trash:
    """Begin to delete these files, and these jobs as a whole: gather() goes on with it.

    In one transaction, of the caller's if there is one; of few that is all.

    Raises:
        PlanChanged: one of the files was deleted meanwhile, or is being sent anew; or another
            run is to go on from one of the jobs. Nothing was done.
    """
    files, jobs = list(files), list(jobs)
    runs = {job.pk for job in jobs} | {row.job_id for row in files}
    with change():
        trash = Trash.objects.create(
            project=project, what=what, by=by, made_at=now, changed_at=now, runs=len(runs),
            older_than_days=older_than_days,
        )  # fmt: skip
        TrashSlice.objects.bulk_create(_sliced(trash, jobs, files))
        _mark_some(trash)
    wake.publish_on_commit("project", project.pk)
    return trash


def _sliced(trash: Trash, jobs: list[Job], files: list[SyncFile]) -> Iterator[TrashSlice]:
    """Jobs first: what is deleted as a whole takes no more files in from then on."""
    more = [
        TrashSlice(trash=trash, jobs=[job.pk for job in jobs[start : start + JOBS_AT_ONCE]])
        for start in range(0, len(jobs), JOBS_AT_ONCE)
    ] or [TrashSlice(trash=trash)]
    *before, last = more
    yield from before
    last.files = [row.pk for row in files[:FILES_AT_ONCE]]
    yield last
    for start in range(FILES_AT_ONCE, len(files), FILES_AT_ONCE):
        keys = [row.pk for row in files[start : start + FILES_AT_ONCE]]
        yield TrashSlice(trash=trash, files=keys)


def gather(trash: Trash, deadline: float = math.inf) -> bool:
    """Mark what is yet to be marked. Twice, or by two processes at once, is once.

    Args:
        deadline: of time.monotonic(); then the rest is left for another call.

    Returns:
        Whether nothing is left to be marked.

    Raises:
        PlanChanged: some of it has changed meanwhile. What was marked will be restored.
    """
    held_seconds = 0.0
    while trash.state == TrashState.GATHERING:
        if time.monotonic() >= deadline:
            return False
        time.sleep(max(PAUSE_SECONDS, held_seconds))
        began = time.monotonic()
        try:
            _mark_more(trash)
        except PlanChanged:
            _take_back(trash)
            raise
        held_seconds = time.monotonic() - began
    return True


def _mark_more(trash: Trash) -> None:
    with change():
        trash.refresh_from_db(from_queryset=Trash.objects.select_for_update(no_key=True))
        if trash.state == TrashState.GATHERING:
            _mark_some(trash)


def _mark_some(trash: Trash) -> None:
    """The next slice, in the caller's transaction. Files before projects and jobs, as all who
    write them: on PostgreSQL two would else wait for one another."""
    some = trash.slices.first()
    if some is not None:
        count, size = _marked(trash, some.files)
        trash.project.note_used(-size)
        _leave_tombstones(trash, some.jobs)
        trash.file_count += count
        trash.size += size
        some.delete()
    if not trash.slices.exists():
        trash.state = TrashState.FILLING
        wake.ask_tidy()
    trash.save(update_fields=["state", "size", "file_count"])


def _leave_tombstones(trash: Trash, keys: list[int]) -> None:
    jobs = list(Job.objects.filter(pk__in=keys).defer("config", "summary"))
    trash.project.lock()  # no job begins to need a file while we look
    if Job.objects.needed() & {job.uid for job in jobs if job.deleted_at is None}:
        raise PlanChanged(str(MEANWHILE))
    for job in jobs:
        job.leave_tombstone(trash.made_at, by=trash.by)
    trash.jobs.add(*jobs)


def _marked(trash: Trash, keys: list[int]) -> tuple[int, int]:
    """Say of each file that it is in the trash; return how many that was news of, and what they
    take in bytes. Of a rule, what was shown goes; of a run, what is there."""
    files = SyncFile.objects.present().filter(pk__in=keys)
    if trash.what not in (What.RUN, What.ALL):
        files = files.filter(complete=True)
    size = files.taken_bytes()
    count = files.update(trash=trash)
    if count != len(keys) and trash.what != What.RUN:
        raise PlanChanged(str(MEANWHILE))
    return count, size


def _take_back(trash: Trash) -> None:
    with transaction.atomic():
        gathering = Trash.objects.filter(pk=trash.pk, state=TrashState.GATHERING)
        if gathering.update(state=TrashState.RESTORING, moved_upto=0):
            trash.slices.all().delete()
    wake.publish_on_commit("project", trash.project_id)
    wake.ask_tidy()


def collect(now: datetime) -> None:
    """Make a deletion of each job that was deleted by itself; and of files of a deleted job that
    came in at that moment."""
    deleted = Job.objects.exclude(deleted_at=None)
    elsewhere = Trash.objects.exclude(state=TrashState.RESTORED)
    alone = deleted.exclude(trash__in=elsewhere)
    late = deleted.exclude(trash__state__in=(TrashState.GATHERING, TrashState.RESTORING))
    late = late.filter(Exists(SyncFile.objects.present().filter(job=OuterRef("pk"))))
    for job in (alone | late).distinct().select_related("project")[:AT_ONCE]:
        put_away(job.project, What.RUN, job.files.present(), [job], now, by=_deleter(job))


def _deleter(job: Job) -> Any:
    last = job.events.filter(kind=EventKind.DELETED).select_related("by").last()
    return last.by if last else None


def expire(now: datetime) -> None:
    """Let go of what was kept for long enough."""
    limit = now - timedelta(days=settings.LAB_KEEP_TRASH_DAYS)
    old = Trash.objects.filter(state=TrashState.KEPT, made_at__lt=limit)
    old.update(state=TrashState.EMPTYING, changed_at=now, changed_by=None, moved_upto=0)


def settle(trash: Trash, deadline: float) -> bool:
    """Bring the bytes to where the rows say they are.

    Args:
        deadline: of time.monotonic(); then the rest is left for another call.

    Returns:
        Whether nothing is left to do.
    """
    try:
        if not gather(trash, deadline):
            return False
    except PlanChanged as exc:
        logger.warning("the trash: %s is restored: %s", trash, exc)
        return False
    state = TrashState(trash.state)
    if state not in _MOVES:
        return True
    move, then = _MOVES[state]
    while rows := list(_rest(trash)):
        for row in rows:
            if time.monotonic() >= deadline or not _moved(trash, row, move):
                return False
            trash.moved_upto = row.pk
    return _conclude(trash, state, then)


def _rest(trash: Trash) -> models.QuerySet[SyncFile]:
    rest = trash.files.filter(pk__gt=trash.moved_upto).order_by("pk")
    return rest.select_related("job__project")[:AT_ONCE]


def _moved(trash: Trash, row: SyncFile, move: Callable[[SyncFile, Place], None]) -> bool:
    """Move a file, unless what was wished of its deletion has changed meanwhile."""
    place = Place.of(row.job, row.name, row.shelf)
    as_seen = trash.files.filter(pk=row.pk, trash__state=trash.state)
    try:
        with storage.locked(place):
            if as_seen.exists():
                move(row, place)
    except PlaceTaken as exc:
        logger.warning("the trash: %s stays there: %s", row, exc)
        restoring = Trash.objects.filter(pk=trash.pk, state=TrashState.RESTORING)
        restoring.update(state=TrashState.FILLING, moved_upto=0)
        wake.ask_tidy()
        return False
    except Refused as exc:
        logger.warning("the trash: %s stays where it is for now: %s", row, exc)
        return False
    return True


def _lay_away(row: SyncFile, place: Place) -> None:
    if row.displaced or storage.is_beneath_a_file(place):
        return  # what lies there is another file's
    storage.lay_away(place, row.pk, versions=row.may_have_earlier)


def _remove(row: SyncFile, place: Place) -> None:
    _lay_away(row, place)  # where it was not in the trash yet
    storage.throw_away(row.pk)


def _put_back(row: SyncFile, place: Place) -> None:
    row.check_place_free()
    if storage.is_folder(place):
        storage.remove_empty(place)
    storage.put_back(place, row.pk)
    try:
        displacing.restore(row)
    except PlaceTaken:
        storage.lay_away(place, row.pk, versions=row.may_have_earlier)
        raise


_MOVES = {
    TrashState.FILLING: (_lay_away, TrashState.KEPT),
    TrashState.EMPTYING: (_remove, TrashState.EMPTIED),
    TrashState.RESTORING: (_put_back, TrashState.RESTORED),
}


def _conclude(trash: Trash, state: TrashState, then: TrashState) -> bool:
    """All its files are where they belong."""
    if then == TrashState.RESTORED:
        _take_tombstones_away(trash)
    if not Trash.objects.filter(pk=trash.pk, state=state).update(state=then):
        return False
    trash.state = then
    wake.publish_on_commit("project", trash.project_id)
    return True


def _take_tombstones_away(trash: Trash) -> None:
    while jobs := list(trash.jobs.exclude(deleted_at=None)[:JOBS_AT_ONCE]):
        with change():
            for job in jobs:
                job.restore_run(by=trash.changed_by)
        time.sleep(PAUSE_SECONDS)


def tidy(now: datetime, deadline: float) -> bool:
    """Do what is left to do with the trash. Returns whether that was all."""
    collect(now)
    expire(now)
    done = True
    for trash in Trash.objects.moving().select_related("project", "changed_by"):
        done = settle(trash, deadline) and done
        seen = Trash.objects.filter(pk=trash.pk, state=trash.state)
        seen.update(moved_upto=trash.moved_upto)
    return done
