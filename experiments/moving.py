"""What people ask of the queue's line about one job, by the page or by the API."""

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from experiments import line
from experiments.deciding import changed_by
from experiments.dispatch import held_gpus
from experiments.errors import IllegalTransition, NotYours
from experiments.models import Job
from labsite.clock import database_now
from people.roles import may_manage

UP, DOWN, TURN = "up", "down", "turn"


@dataclass(frozen=True)
class Move:
    """Where to: one of these is said."""

    before: str = ""  # another's uid
    after: str = ""
    to: str = ""  # UP or DOWN by one, among what is theirs to order; TURN: back to fair share


def move(job: Job, wish: Move, *, by: Any) -> None:
    """
    Raises:
        NotYours: only a manager lets a job wait for its turn again.
        IllegalTransition: it stands as far as it can, or does not wait; or that takes a manager.
    """
    if wish.to == TURN:
        if not may_manage(by):
            words = _("A manager has laid out this part of the queue; ask one to change it.")
            raise NotYours(words)
        with changed_by(by, job, "move"):
            line.give_back(job, by=by)
        return
    held = held_gpus()
    after = wish.to == DOWN or bool(wish.after)
    other = _neighbour(job, wish, held, by) if wish.to else _named(job, wish, by)
    if other is None or other.pk == job.pk:
        raise IllegalTransition.of(job, _("%(job)s stands as far as it can there."))
    with changed_by(by, job, "move"):
        line.move(job, other, after=after, held_gpus=held, by=by)


def _named(job: Job, wish: Move, by: Any) -> Job:
    uid = wish.after or wish.before
    waiting = Job.objects.visible_to(by).queued().select_related("project")
    other = waiting.filter(uid=uid).first()
    if other is None:
        words = _("No run with the identifier “%(uid)s” waits beside %(job)s.")
        raise IllegalTransition.of(job, words, uid=uid[:40])
    return other


def _neighbour(job: Job, wish: Move, held: Any, by: Any) -> Job | None:
    """Among all for a manager; among their own for others."""
    waiting = Job.objects.visible_to(by).queued().filter(priority=job.priority)
    jobs = sorted(waiting.select_related("project"), key=line.turn(held, database_now()))
    return line.neighbour(
        job, jobs, step=1 if wish.to == DOWN else -1,
        among=lambda one: may_manage(by) or one.user_id == job.user_id,
    )  # fmt: skip
