"""Whose bytes these are, and where they belong (protocol §6, "Who may write")."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from django.core.cache import cache as recent
from django.db import connection
from django.utils.translation import gettext, gettext_lazy

from devices.models import Device
from experiments.errors import LostRace, NotYours
from experiments.models import Attempt, Job
from experiments.states import Outcome
from labsite.errors import NotFound
from sync.errors import Deleted
from sync.storage import Place

RECENT_SECONDS = 1.0
DELETED = gettext_lazy("This run was deleted; its files are not wanted any more.")
NOT_YOURS = gettext_lazy("There is no such run, or this GPU server has no try of it.")


@dataclass(frozen=True)
class Target:
    """A file of a run, as one attempt of it may write it."""

    job: Job
    attempt: Attempt | None  # None: the run is imported, and its files are a person's
    name: str
    shelf: int  # 0: a result; else the attempt's number: evidence beside the results

    @property
    def number(self) -> int:
        """Of the attempt; 0: there was none."""
        return self.attempt.number if self.attempt else 0

    @property
    def place(self) -> Place:
        return Place.of(self.job, self.name, self.shelf)


def attempt_of(device: Device, experiment_uid: str, number: int | None) -> Attempt:
    """The attempt that a device writes for: the one it names, else its newest of the job.

    Raises:
        NotFound: no such job, or no such attempt of this device.
        Deleted: the job was deleted.
    """
    mine = Attempt.objects.filter(device=device, job__uid=experiment_uid)
    if number is not None:
        mine = mine.filter(number=number)
    attempt = mine.select_related("job__project").order_by("-number").first()
    if attempt is None:
        raise NotFound(NOT_YOURS)
    check_present(attempt.job)
    return attempt


def check_present(job: Job) -> None:
    if job.deleted_at:
        raise Deleted(DELETED)


def target(device: Device, experiment_uid: str, name: str, number: int | None) -> Target:
    """Where this device's bytes for `name` belong.

    A run's files belong to the job's newest attempt, also after it ended, unless it was given up
    as lost; what others still send is kept beside them, so that results do not change.

    Raises:
        WrongName: the run has no file of that name.
    """
    attempt = _recent(device, experiment_uid, number)
    found = Target(attempt.job, attempt, name, 0 if owns_results(attempt) else attempt.number)
    found.place  # noqa: B018 - checks the name
    return found


def _recent(device: Device, experiment_uid: str, number: int | None) -> Attempt:
    """attempt_of(), as it was at most RECENT_SECONDS ago: which project and run it is of does not
    change. Each caller has one of its own."""
    key = f"attempt:{device.pk}:{experiment_uid}:{number}"
    attempt = None if number is None else recent.get(key)
    if attempt is None:
        attempt = attempt_of(device, experiment_uid, number)
        recent.set(key, attempt, RECENT_SECONDS)
    return attempt


def of_imported(by: Any, experiment_uid: str, name: str) -> Target:
    """Where a person's bytes for `name` belong, of a run that they imported.

    Raises:
        NotFound: they see no such run, or it was not imported.
        Deleted: it was deleted.
        NotYours: somebody else imported it.
        ProjectArchived: nothing of it is changed meanwhile.
        WrongName: the run has no file of that name.
    """
    seen = Job.objects.visible_to(by).filter(imported_at__isnull=False)
    job = seen.select_related("project", "imported").filter(uid=experiment_uid).first()
    if job is None:
        raise NotFound(gettext("There is no such run, or it was not imported."))
    check_present(job)
    if not job.may_be_changed_by(by):
        raise NotYours(gettext("Somebody else imported this run; its files are theirs to send."))
    job.project.check_writable()
    found = Target(job, None, name, 0)
    found.place  # noqa: B018 - checks the name
    return found


def check_still(target: Target) -> None:
    """That these bytes still belong where they did when they began to come in.

    Raises:
        LostRace: another attempt was begun meanwhile, or this one was given up.
        Deleted: the job was deleted meanwhile.
    """
    if target.attempt is None:
        check_present(Job.objects.only("deleted_at").get(pk=target.job.pk))
    elif owns_results(target.attempt) != (target.shelf == 0):
        raise LostRace(f"{target.name} belongs to another try by now; send it again.")


def owns_results(attempt: Attempt) -> bool:
    """As the database has it now: whether it is its job's newest attempt, and was not given up.

    Raises:
        Deleted: the job was deleted.
    """
    with connection.cursor() as cursor:
        cursor.execute(_newest(connection.vendor), [attempt.job_id])
        number, outcome, deleted_at = cursor.fetchone()
    if deleted_at:
        raise Deleted(DELETED)
    return number == attempt.number and outcome != Outcome.LOST


@cache
def _newest(vendor: str) -> str:
    """How a job's newest attempt is asked for: compiled once, since it is asked twice a delta."""
    newest_first = Attempt.objects.filter(job_id=0).order_by("-number")
    asked = newest_first.values_list("number", "outcome", "job__deleted_at")[:1]
    return asked.query.sql_with_params()[0]
