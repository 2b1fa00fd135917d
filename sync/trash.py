"""The trash: what was deleted is kept for a while, and comes back as it was.

A deletion is rows first (models.Trash): from their commit on sync refuses the files, since every
write is an UPDATE of a row that is not deleted, and no page shows them. The bytes follow, file
by file under its lock, by renames within the one disk; what is moved twice is moved once. So a
crash at any point leaves what the next call of tidy() brings to its end. Whoever deletes a run in
a lower app writes Job.deleted_at only; collect() makes the deletion of it.
"""

import logging
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models import Exists, OuterRef
from django.utils.translation import gettext as _

from experiments.models import Job, Project
from experiments.models.event import change
from experiments.states import EventKind
from labsite import wake
from labsite.errors import Refused
from sync import storage
from sync.errors import PlanChanged
from sync.models import SyncFile, Trash, TrashState, What
from sync.storage import Place

logger = logging.getLogger(__name__)

#: So many keys go into one statement.
AT_ONCE = 500


def put_away(
    project: Project,
    what: What,
    files: Iterable[int],
    jobs: Iterable[Job],
    now: datetime,
    *,
    by: Any = None,
    older_than_days: int = 0,
) -> Trash:
    """Delete these files (by their keys), and these jobs as a whole, in one transaction.

    Raises:
        PlanChanged: one of the files was deleted meanwhile, or is being sent anew; nothing was
            done.
    """
    jobs, files = list(jobs), list(files)
    with change():
        trash = Trash.objects.create(
            project=project, what=what, by=by, made_at=now, changed_at=now,
            older_than_days=older_than_days,
        )  # fmt: skip
        for job in jobs:
            job.leave_tombstone(now, by=by)
        trash.jobs.set(jobs)
        if _marked(trash, files) != len(files):
            raise PlanChanged(_("Some of these files have changed meanwhile; look again."))
        _count(trash, len(jobs))
    wake.publish_on_commit("project", project.pk)
    wake.ask_tidy()
    return trash


def _marked(trash: Trash, files: list[int]) -> int:
    """Say of each file that it is in the trash; of how many that was news, and right."""
    slices = (files[start : start + AT_ONCE] for start in range(0, len(files), AT_ONCE))
    present = SyncFile.objects.present()
    if trash.what not in (What.RUN, What.ALL):
        present = present.filter(complete=True)
    return sum(present.filter(pk__in=keys).update(trash=trash) for keys in slices)


def _count(trash: Trash, jobs: int) -> None:
    """Note how much it is, and take it from what the project uses."""
    trash.size = trash.files.taken_bytes()
    trash.file_count = trash.files.count()
    runs = trash.files.order_by().values("job").distinct().count()
    trash.runs = max(jobs, runs)
    trash.save(update_fields=["size", "file_count", "runs"])
    trash.project.note_used(-trash.size)


def collect(now: datetime) -> None:
    """Make a deletion of each job that was deleted by itself; and of files of a deleted job that
    came in at that moment."""
    deleted = Job.objects.exclude(deleted_at=None)
    elsewhere = Trash.objects.exclude(state=TrashState.RESTORED)
    alone = deleted.exclude(trash__in=elsewhere)
    late = deleted.exclude(trash__state=TrashState.RESTORING)
    late = late.filter(Exists(SyncFile.objects.present().filter(job=OuterRef("pk"))))
    for job in (alone | late).distinct().select_related("project")[:AT_ONCE]:
        files = job.files.present().values_list("pk", flat=True)
        put_away(job.project, What.RUN, files, [job], now, by=_deleter(job))


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
    except Refused as exc:
        logger.warning("the trash: %s stays where it is for now: %s", row, exc)
        return False
    return True


def _lay_away(row: SyncFile, place: Place) -> None:
    storage.lay_away(place, row.pk, versions=row.may_have_earlier)


def _remove(row: SyncFile, place: Place) -> None:
    _lay_away(row, place)  # where it was not in the trash yet
    storage.throw_away(row.pk)


def _put_back(row: SyncFile, place: Place) -> None:
    storage.put_back(place, row.pk)
    with transaction.atomic():
        if SyncFile.objects.filter(pk=row.pk, trash=row.trash_id).update(trash=None):
            row.job.project.note_used(row.size + row.aside_bytes)


_MOVES = {
    TrashState.FILLING: (_lay_away, TrashState.KEPT),
    TrashState.EMPTYING: (_remove, TrashState.EMPTIED),
    TrashState.RESTORING: (_put_back, TrashState.RESTORED),
}


def _conclude(trash: Trash, state: TrashState, then: TrashState) -> bool:
    """All its files are where they belong."""
    with change():
        if not Trash.objects.filter(pk=trash.pk, state=state).update(state=then):
            return False
        if then == TrashState.RESTORED:
            for job in trash.jobs.select_related("project"):
                job.restore_run(by=trash.changed_by)
    trash.state = then
    wake.publish_on_commit("project", trash.project_id)
    return True


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
