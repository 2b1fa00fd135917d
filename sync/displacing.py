"""A file where a folder was, or a folder where a file was: `run_001/ckpt`, `run_001/ckpt/w.bin`.

No disk holds both, so of such names the newer one stays, and what was there goes to the trash.
They share one order (protocol §6.1, rule 4): only a version above all that is in the way takes
its place, so a late request of an older one cannot. A request that names no version is refused.

What is in the way gets a second name in the trash first, on the disk; then one transaction says
of all of it that it is there, and makes the row of what comes; and then the first names go, each
under its file's lock. A crash before the transaction leaves all as it was, one after it leaves
names of which no row tells, and the next request takes them away.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from operator import attrgetter

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import Exists, F, OuterRef

from experiments.errors import LostRace
from experiments.models import Job
from labsite import wake
from labsite.clock import database_now
from sync import resume, storage, summary
from sync.curves.sources import is_source
from sync.errors import NameTaken, StaleGeneration
from sync.models import SyncFile, Trash, TrashState, What
from sync.ownership import Target, check_still
from sync.storage import Place

logger = logging.getLogger(__name__)

_LOCK = "names-"
#: So many rows are marked by one UPDATE.
_AT_ONCE = 500
_SEEN = ("pk", "attempt", "generation", "size", "aside_bytes")
_as_seen = attrgetter(*_SEEN)
#: The trash holds, or is about to hold, what is marked so.
_HOLDING = (TrashState.GATHERING, TrashState.FILLING, TrashState.KEPT, TrashState.RESTORING)


def in_the_way(target: Target) -> list[SyncFile]:
    """The files of the run beside which this one cannot be: as a rule none."""
    job, shelf, name = target.job, target.shelf, target.name
    above = ["/".join(name.split("/")[:count]) for count in range(1, name.count("/") + 1)]
    if not above:
        return []
    with connection.cursor() as cursor:
        beneath = [job.pk, shelf, f"{name}/", f"{name}0"]
        cursor.execute(_asked(connection.vendor, len(above)), [job.pk, shelf, *above, *beneath])
        if cursor.fetchone() is None:
            return []
    return list(SyncFile.objects.in_the_way_of(job, shelf, name).order_by("pk"))


@cache
def _asked(vendor: str, depth: int) -> str:
    """in_the_way_of(), for a name with so many parts above its last: to compose it for each file
    that begins would take longer than the answer. `vendor`: of the database, which it is for."""
    name = "/".join("a" * (depth + 1))
    asked = SyncFile.objects.in_the_way_of(Job(pk=0), 0, name).order_by().values_list("pk")[:1]
    return asked.query.sql_with_params()[0]


def check(target: Target, row: SyncFile | None, generation: int | None) -> list[SyncFile]:
    """Whether such a version may take the place of what is in the way; returns that.

    Args:
        row: of the file itself, if it has one.

    Raises:
        NameTaken: it says no version, as if nothing were there.
        StaleGeneration: what is in the way is as new, or newer.
    """
    if row is not None and row.size:
        return []
    found = in_the_way(target)
    if not found:
        return []
    newest = max(found, key=lambda one: one.version)
    facts = {"attempt": newest.attempt, "generation": newest.generation}
    if generation is None:
        raise NameTaken(
            f"{newest.name} is a file of this run, and {target.name} cannot be beside it. Send it "
            "under another name; or, to take that file's place, with X-Sync-Generation "
            f"{newest.generation + 1}.",
            file_name=newest.name,
            **facts,
        )
    if (target.number, generation) <= newest.version:
        raise StaleGeneration(
            f"{newest.name}, beside which {target.name} cannot be, is of this version or a newer "
            "one.",
            **facts,
        )
    return found


def make_way(
    target: Target,
    row: SyncFile | None,
    generation: int | None,
    found: list[SyncFile] | None = None,
) -> None:
    """Let nothing of the run be in the way of a file whose first bytes are about to be stored.
    Before its lock is taken: those of other files are.

    Args:
        found: what check() has answered to this request. What is in the way only since then
            new_row() finds.

    Raises:
        NameTaken, StaleGeneration: see check().
        LostRace: another request was there first, or another attempt was begun; send it again.
        FileBusy, DiskFull: some of it may have gone; the same request may come again.
    """
    if row is not None and row.size:
        return
    if found is None:
        found = check(target, row, generation)
    if found:
        assert generation is not None
        _displace(target, row, found, generation)
    _clear(target, found)


def new_row(target: Target, generation: int) -> SyncFile:
    """
    Raises:
        LostRace: another request began it, or one that cannot be beside it.
    """
    with _names_of(target.job), transaction.atomic():
        if in_the_way(target):
            raise LostRace(f"Another file took the place of {target.name}; send it again.")
        return _created(target, generation)


def _created(target: Target, generation: int) -> SyncFile:
    try:
        return SyncFile.objects.create(
            job=target.job,
            shelf=target.shelf,
            name=target.name,
            attempt=target.number,
            generation=generation,
            synced_at=database_now(),
        )
    except IntegrityError as exc:
        raise LostRace(f"{target.name} was begun by another request; send it again.") from exc


@contextmanager
def _names_of(job: Job) -> Iterator[None]:
    """Nobody else begins a file of this run meanwhile. Two writers of `ckpt` and `ckpt/w.bin` hold
    different locks; within this one no other is taken."""
    with storage.locked(Place((job.project.name,), job.run_name), kind=_LOCK):
        yield


def _displace(
    target: Target, row: SyncFile | None, found: Sequence[SyncFile], generation: int
) -> None:
    for one in found:
        place = _place(target, one.name)
        with storage.locked(place):
            storage.lay_beside(place, one.pk, versions=one.may_have_earlier)
    with _names_of(target.job), transaction.atomic():
        check_still(target)
        _mark(target, found)
        if row is None:
            _created(target, generation)
        if not target.shelf and any(resume.is_checkpoint(one.name) for one in found):
            resume.note_files(target.job)  # at once: no attempt is to go on from what is gone
    logger.info(
        "%s takes the place of %s and of %d more", target.place.path, found[0], len(found) - 1
    )


def _mark(target: Target, found: Sequence[SyncFile]) -> None:
    """That all of it lies in the trash, as it was seen."""
    now = database_now()
    size = sum(one.size + one.aside_bytes for one in found)
    trash = Trash.objects.create(
        project=target.job.project, what=What.REPLACED, state=TrashState.KEPT, runs=1,
        file_count=len(found), size=size, made_at=now, changed_at=now,
    )  # fmt: skip
    for start in range(0, len(found), _AT_ONCE):
        some = found[start : start + _AT_ONCE]
        rows = SyncFile.objects.filter(pk__in=[one.pk for one in some])
        by_key = (
            rows.present().order_by("pk").select_for_update()
        )  # nobody moves them from here on
        there = set(by_key.values_list(*_SEEN))
        for one in some:
            if _as_seen(one) not in there:
                raise LostRace(f"{one.name} was changed by another request; send it again.")
        rows.update(trash=trash, displaced=F("id"))
    if in_the_way(target):
        raise LostRace(f"Another file took the place of {target.name}; send it again.")
    _let_older_go(target, trash)
    target.job.project.note_used(-size)
    wake.publish_on_commit("project", target.job.project_id)


def _let_older_go(target: Target, trash: Trash) -> None:
    """Of one run so many are kept as of a file's earlier versions: a script that saves now one and
    now the other would else leave all that it ever saved."""
    of_the_run = SyncFile.objects.filter(trash=OuterRef("pk"), job=target.job)
    replaced = Trash.objects.kept().filter(project=trash.project_id, what=What.REPLACED)
    newest_first = replaced.filter(Exists(of_the_run)).order_by("-pk").values_list("pk", flat=True)
    older = Trash.objects.kept().filter(pk__in=list(newest_first)[settings.LAB_KEEP_VERSIONS :])
    if older.update(
        state=TrashState.EMPTYING, changed_at=trash.changed_at, changed_by=None, moved_upto=0
    ):
        wake.ask_tidy()


# --- what no row tells of any more ---------------------------------------------------------------


def _clear(target: Target, found: Sequence[SyncFile]) -> None:
    """Take away what has lost its place and still lies there, in this request (`found`) or in one
    that was cut off. What was never this run's stays: the write itself is refused."""
    names = list(_lying_there(target))
    _forget_curves(target, {*names, *(one.name for one in found)})
    for name in names:
        _take_away(target, name)
    if storage.is_folder(target.place):
        storage.remove_empty(target.place)


def _lying_there(target: Target) -> Iterator[str]:
    parts = target.name.split("/")
    for count in range(2, len(parts)):
        name = "/".join(parts[:count])
        if storage.is_regular(_place(target, name)):
            yield name
    if storage.is_folder(target.place):
        for path in storage.files_beneath(target.place):
            yield f"{target.name}/{path}"


def _forget_curves(target: Target, names: set[str]) -> None:
    """Before the names go, which tell a request that comes again that it is to be done."""
    sources = sorted(name for name in names if is_source(name))[:_AT_ONCE]
    if sources and not target.shelf:
        gone = SyncFile.objects.filter(job=target.job, shelf=0, name__in=sources, displaced__gt=0)
        row = gone.order_by("-pk").first()
        if row is not None:
            summary.update_others(target.job, row)


def _take_away(target: Target, name: str) -> None:
    place = _place(target, name)
    with storage.locked(place):
        rows = SyncFile.objects.filter(job=target.job, shelf=target.shelf, name=name)
        if rows.present().exists():
            raise LostRace(f"{name} took the place of {target.name}; send it again.")
        marked = list(rows.select_related("trash").order_by("-pk"))
        holding = [row for row in marked if row.trash and row.trash.state in _HOLDING]
        for row in holding:
            if not storage.is_in_trash(place, row.pk):
                storage.lay_away(place, row.pk, versions=row.may_have_earlier)
                break
        if marked:
            storage.forget(place, versions=any(row.may_have_earlier for row in marked))


def _place(target: Target, name: str) -> Place:
    return Place.of(target.job, name, target.shelf)


# --- coming back from the trash ------------------------------------------------------------------


def restore(row: SyncFile) -> None:
    """Have it be a file of the run again, where it lies by now.

    Raises:
        PlaceTaken: another file was there first.
    """
    with _names_of(row.job), transaction.atomic():
        row.check_place_free()
        if SyncFile.objects.filter(pk=row.pk, trash=row.trash_id).update(trash=None, displaced=0):
            row.job.project.note_used(row.size + row.aside_bytes)
