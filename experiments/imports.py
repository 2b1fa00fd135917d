"""Runs from files that a lab already has: made once, known again, brought up to date.

A run is known by its marks, digests of how its files begin (docs/adr/0038): of a file that grew
since, the marks of before are among those of now. The project's row is held meanwhile, so of two
that import the same files at once the second one finds what the first has made. The files
themselves come afterwards (sync.imports).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _

from experiments import config as configs
from experiments import discreet
from experiments.errors import NotYours
from experiments.models import Imported, Job, Project
from experiments.models.event import change, record
from experiments.models.job import run_name
from experiments.states import EventKind, JobState
from experiments.yamltree import ConfigInvalid
from labsite.errors import Refused

NEW, THERE, RAN, DELETED, REFUSED = "new", "there", "ran", "deleted", "refused"
#: A larger one is a date or a hash, from which no project counts on.
MAX_KEPT_NUMBER = 99_999
_NUMBERED = re.compile(r"run_0*([1-9][0-9]{0,4})")


@dataclass(frozen=True)
class Found:
    """A run as whoever imports it found it."""

    project: str
    run: str  # what it is called there: run_003, version_0
    marks: list[str]  # at least one; the last tells most
    uid: str = ""  # the experiment_uid that its metadata names, if any

    @property
    def number(self) -> int | None:
        """Of its name, where that is one of ours."""
        named = _NUMBERED.fullmatch(self.run)
        return int(named[1]) if named else None


@dataclass(frozen=True)
class Facts:
    """What is kept of it besides."""

    host: str
    folder: str
    started_at: datetime
    finished_at: datetime
    file_count: int
    size_bytes: int
    name: str = ""
    tags: list[str] = field(default_factory=list)
    config: bytes = b""


@dataclass(frozen=True)
class Taken:
    """`job` is None of one that was deleted here, and is left so; it is another's if it ran."""

    status: str
    job: Job | None
    config_problem: str = ""  # why the config is kept as a file only


@dataclass(frozen=True)
class Foreseen:
    status: str
    run_name: str = ""
    uid: str = ""
    words: str = ""  # why it is refused


def take_in(found: Found, facts: Facts, *, by: Any, again: bool = False) -> Taken:
    """Make the run, or find that which was made of these files and bring it up to date.

    Args:
        again: make it once more, if it was made and deleted.

    Raises:
        NotSubmitted, NotAllowed, ProjectArchived: as a submit.
        NotYours: somebody else imported it.
    """
    if ran := _ran_here(found, by):
        return Taken(RAN, ran)
    keys, problem = _keys_of(facts.config)
    with change():
        project = Project.named(found.project, by=by)
        project.check_submit(by)
        project.check_writable()
        project.lock()
        known = Imported.objects.known(project, found.marks)
        if known is None:
            return Taken(NEW, _made(project, found, facts, keys, by), problem)
        if not known.job.deleted_at:
            _bring_up_to_date(known, facts, keys, by)
            return Taken(THERE, known.job, problem)
        if not again:
            return Taken(DELETED, None)
        known.forget()
        return Taken(NEW, _made(project, found, facts, keys, by), problem)


def _ran_here(found: Found, by: Any) -> Job | None:
    """The run whose files these are, as an agent of this server's lays them on its host."""
    if not found.uid:
        return None
    seen = Job.objects.visible_to(by).filter(imported_at=None, uid=found.uid)
    return seen.select_related("project").first()


def _keys_of(config: bytes) -> tuple[dict[str, Any] | None, str]:
    """The experiment's keys as they may be shown; None, and why: it is no config."""
    try:
        return discreet.masked(configs.keys_of(config)), ""
    except ConfigInvalid as exc:
        return None, exc.mistakes[0].message


def _made(project: Project, found: Found, facts: Facts, keys: Any, by: Any) -> Job:
    number = project.number_for(_kept(found))
    job = Job.objects.lay_in(
        project=project,
        by=by,
        run_number=number,
        name=facts.name or ("" if number == found.number else found.run),
        tags=facts.tags,
        started_at=facts.started_at,
        finished_at=facts.finished_at,
        config=b"" if keys is None else facts.config,
        keys=keys or {},
    )
    mark = found.marks[-1]
    Imported.objects.create(job=job, project=project, mark=mark, name=found.run, **_where(facts))
    place = {"host": facts.host, "folder": facts.folder}
    record(job, EventKind.IMPORTED, by=by, to_state=JobState.SUCCEEDED, **place)
    return job


def _kept(found: Found) -> int | None:
    number = found.number
    return number if number is None or number <= MAX_KEPT_NUMBER else None


def _where(facts: Facts) -> dict[str, Any]:
    names = ("host", "folder", "file_count", "size_bytes")
    return {name: getattr(facts, name) for name in names}


def _bring_up_to_date(known: Imported, facts: Facts, keys: Any, by: Any) -> None:
    """What grew there since; nothing that people wrote of it here. Of a copy that did not grow,
    where it lies and the times of its files tell nothing new."""
    job = known.job
    _check_own(job, by)
    if facts.size_bytes <= known.size_bytes:
        return
    known.say(**_where(facts))
    if facts.finished_at > job.finished_at:
        job.note_times(min(job.started_at, facts.started_at), facts.finished_at)
    if facts.config and keys is not None and bytes(job.config) != facts.config:
        job.note_config(facts.config, keys)


def _check_own(job: Job, by: Any) -> None:
    if not job.may_be_changed_by(by):
        words = _("%(who)s imported this run already, as %(job)s.")
        raise NotYours(words % {"who": job.user or "–", "job": job}, uid=job.uid)


# --- before anything is made --------------------------------------------------------------------


def foresee(runs: Iterable[Found], *, by: Any) -> list[Foreseen]:
    """What would become of each if they were imported now, in this order; makes nothing."""
    plans: dict[str, _Plan] = {}
    foreseen = []
    for found in runs:
        if found.project not in plans:
            plans[found.project] = _Plan.of(found.project, by)
        foreseen.append(plans[found.project].foresee(found, by))
    return foreseen


class _Plan:
    """Of one project: its numbers as they would be taken."""

    def __init__(self, project: Project | None, refused: str) -> None:
        self._project = project
        self._refused = refused
        self._last = project.last_run if project else 0
        numbers = project.jobs.values_list("run_number", flat=True) if project else ()
        self._taken = set(numbers)

    @classmethod
    def of(cls, name: str, by: Any) -> "_Plan":
        known = Project.objects.filter(name=name).first()
        try:
            Project.check_name(name)
            project = known or Project(name=name, created_by=by)
            project.check_submit(by)
            project.check_writable()
        except Refused as refused:
            return cls(None, str(refused))
        return cls(known, "")

    def foresee(self, found: Found, by: Any) -> Foreseen:
        if self._refused:
            return Foreseen(REFUSED, words=self._refused)
        if ran := _ran_here(found, by):
            words = _("It ran here, as %(job)s.")
            return Foreseen(RAN, ran.run_name, ran.uid, words % {"job": ran})
        known = Imported.objects.known(self._project, found.marks) if self._project else None
        if known is None:
            return Foreseen(NEW, run_name(self._number(found)))
        job = known.job
        if job.deleted_at:
            return Foreseen(DELETED, job.run_name)
        try:
            _check_own(job, by)
        except NotYours as refused:
            return Foreseen(REFUSED, job.run_name, job.uid, str(refused))
        return Foreseen(THERE, job.run_name, job.uid)

    def _number(self, found: Found) -> int:
        number = _kept(found)
        if number is None or number in self._taken:
            number = self._last + 1
        self._last = max(self._last, number)
        self._taken.add(number)
        return number
