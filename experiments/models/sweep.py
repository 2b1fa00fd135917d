"""Runs that came from one config and a grid."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Count, Exists, OuterRef, Q
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from experiments import reasons
from experiments.errors import IllegalTransition, LostRace, SweepNotEnded
from experiments.grid import MAX_RUNNING
from experiments.models.event import change, record
from experiments.models.job import Job
from experiments.models.project import Project
from experiments.models.queue import check_may_call
from experiments.states import EventKind, JobState, Priority
from labsite import wake
from labsite.clock import database_now
from people.roles import may_manage, may_submit


class SweepQuerySet(models.QuerySet):
    def visible_to(self, user: Any) -> "SweepQuerySet":
        """What this user may see: the sweeps of the projects that they may see."""
        return self.filter(project__in=Project.objects.visible_to(user))

    def present(self) -> "SweepQuerySet":
        """Those with a run that is not deleted."""
        return self.filter(Exists(Job.objects.present().filter(sweep=OuterRef("pk"))))


class SweepManager(models.Manager.from_queryset(SweepQuerySet)):
    def submit(self, spec, points: Sequence[Any], *, given: Any = None, by=None) -> "Sweep":
        """Queue all of its runs in one transaction, numbered one after the other.

        Args:
            spec: experiments.config.JobSpec, with the project's defaults laid beneath it.
            points: experiments.sweeps.Point of each run.
            given: what was said besides the config, in the words of the `lab:` block.

        Raises:
            NotSubmitted: the project's name cannot be one.
            ProjectArchived: it takes no new runs.
        """
        with change():
            into = Project.named(spec.project, by=by)
            into.check_submit(by)
            sweep = self.create(
                project=into,
                user=by,
                name=spec.name or "",
                config=spec.config,
                given=given or {},
                keys=spec.sweep.keys,
                max_running=spec.sweep.max_running,
                submitted_at=database_now(),
            )
            Job.objects.submit_all(points, project=into, by=by, sweep=sweep)
        wake.ask_dispatch()
        return sweep


class Sweep(models.Model):
    """A config with a grid, and how many of its runs may run at a time.

    What each run is to do stands in the run itself; a sweep has no state of its own.
    """

    project = models.ForeignKey(Project, models.PROTECT, related_name="sweeps", editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="sweeps", editable=False
    )
    name = models.CharField(_("name"), max_length=255, blank=True)
    config = models.BinaryField(editable=False, default=b"")  # as it came, with its grid
    given = models.JSONField(default=dict, editable=False)  # what was said besides it
    keys = models.JSONField(default=list, editable=False)  # the swept ones, in their order
    max_running = models.PositiveSmallIntegerField(
        _("at a time"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(MAX_RUNNING)],
    )
    submitted_at = models.DateTimeField(editable=False)

    #: What the audit log tells of.
    AUDITED = ("name", "max_running")

    objects = SweepManager()

    class Meta:
        verbose_name = _("sweep")
        verbose_name_plural = _("sweeps")
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(max_running=None) | Q(max_running__gte=1), name="sweep_max_running"
            ),
        ]

    def __str__(self) -> str:
        return gettext("sweep %(n)s") % {"n": self.pk}

    def may_be_changed_by(self, user: Any) -> bool:
        """Whose it is, as long as they may submit; and managers."""
        return may_manage(user) or (may_submit(user) and self.user_id == user.pk)

    def rename(self, name: str) -> None:
        Sweep.objects.filter(pk=self.pk).update(name=name)
        self.name = name
        wake.publish_on_commit("sweep", self.pk)

    def newest_runs(self) -> Any:
        """Its runs, of one that was run again only the newest."""
        return _newest(self.jobs.present())

    def counts(self) -> dict[str, int]:
        """As counts_of()."""
        return counts_of([self])[self.pk]

    # --- what people wish -----------------------------------------------------------------------

    def cancel(self, *, by=None, told: AbstractContextManager[Any] | None = None) -> int:
        """End all that waits or runs, and return how many that concerns. Not in a transaction: of
        what lives each is told in one of its own, for which only its own rows are locked.

        Args:
            told: entered around what is done at once, such as what writes the audit log.
        """
        now = database_now()
        with told or nullcontext(), change():
            waiting = self._lock_queued()
            ended = {"state": JobState.CANCELLED, "cancel_requested_at": now, "finished_at": now}
            Job.objects.filter(pk__in=[job.pk for job in waiting]).update(**ended)
            states = {"from_state": JobState.QUEUED, "to_state": JobState.CANCELLED}
            for job in waiting:
                record(job, EventKind.CANCELLED, by=by, **states)
        return len(waiting) + self._cancel_live(by)

    def hold(self, held: bool, *, by=None) -> int:
        """Keep all that waits queued, or let it go again."""
        return self._edit_queued(EventKind.HELD if held else EventKind.UNHELD, by, held=held)

    def set_priority(self, priority: Priority, *, by=None) -> int:
        """As Job.set_priority(), of all that wait."""
        check_may_call(priority, by)
        return self._edit_queued(EventKind.PRIORITY, by, priority=priority)

    def set_max_running(self, most: int | None) -> None:
        """How many may run at a time from now on; None: as many as fit. What runs goes on."""
        Sweep.objects.filter(pk=self.pk).update(max_running=most)
        self.max_running = most
        wake.publish_on_commit("sweep", self.pk)
        wake.ask_dispatch()

    def rerun_failed(self, *, by=None) -> int:
        """Queue those that failed once more, as runs of their own.

        Raises:
            IllegalTransition: none did.
            NotAllowed: `by` does not work in the project any more.
        """
        with change():
            self.project.lock()
            self.project.check_submit(by)
            failed = list(self.newest_runs().filter(state=JobState.FAILED).order_by("pk"))
            if not failed:
                raise IllegalTransition(gettext("No run of %(sweep)s failed.") % {"sweep": self})
            Job.objects.submit_again(failed, project=self.project, by=by)
        wake.ask_dispatch()
        return len(failed)

    def delete_runs(self, now: datetime, *, by=None) -> int:
        """Leave a tombstone for each of its runs; they lie in the trash for a while.

        Raises:
            SweepNotEnded: one waits or runs, or another run is to go on from its files.
        """
        with change():
            self.project.lock()
            runs = list(self.jobs.present().only("uid", "state", "sweep"))
            if any(not job.has_ended for job in runs):
                words = gettext("Runs of %(sweep)s wait or run: cancel it first.")
                raise SweepNotEnded(words % {"sweep": self})
            needed = Job.objects.needed() & {job.uid for job in runs}
            if needed:
                words = gettext("A run that waits or runs goes on from a checkpoint of %(sweep)s.")
                raise SweepNotEnded(words % {"sweep": self})
            self.jobs.leave_tombstones(runs, now, by=by)
        wake.ask_tidy()
        return len(runs)

    # --- what dispatch does ---------------------------------------------------------------------

    def take_place(self) -> None:
        """In the transaction of an assignment, after the job has become one that lives.

        Raises:
            LostRace: as many of its runs live already as may.
        """
        most = Sweep.objects.select_for_update(no_key=True).get(pk=self.pk).max_running
        if most is not None and self.jobs.live().count() > most:
            words = gettext("%(sweep)s already runs %(n)d of at most %(n)d.")
            raise LostRace(words % {"sweep": self, "n": most})

    # --- inside ---------------------------------------------------------------------------------

    def _cancel_live(self, by) -> int:
        """Each by itself: a process has to be told, or is given up with its host. Events come last
        in a transaction: who has written some waits for no row that others hold."""
        live = list(self.jobs.present().live().filter(cancel_requested_at=None))
        done = 0
        for job in live:
            try:
                job.cancel(by=by)
            except IllegalTransition:  # it ended meanwhile
                continue
            done += 1
        return done

    def _lock_queued(self) -> list[Job]:
        return list(self.jobs.queued().select_for_update(no_key=True).order_by("pk"))

    def _edit_queued(self, kind: EventKind, by, **fields: Any) -> int:
        with change():
            jobs = self._lock_queued()
            if not jobs:
                raise IllegalTransition(gettext("No run of %(sweep)s waits.") % {"sweep": self})
            changed = {**fields, "waiting": reasons.NOT_SEEN_YET}
            Job.objects.filter(pk__in=[job.pk for job in jobs]).update(**changed)
            for job in jobs:
                record(job, kind, by=by, **fields)
        wake.ask_dispatch()
        return len(jobs)


def counts_of(sweeps: Sequence[Sweep]) -> dict[int, dict[str, int]]:
    """By the sweep's id: how many of its newest runs are in each state, in one query.

    Those that are kept queued by hand are counted as `held`.
    """
    held = Q(state=JobState.QUEUED, held=True)
    jobs = _newest(Job.objects.present().filter(sweep__in=sweeps))
    by_state = jobs.order_by("sweep_id", "state").values("sweep_id", "state")
    found: dict[int, dict[str, int]] = {sweep.pk: {} for sweep in sweeps}
    for row in by_state.annotate(n=Count("pk"), held=Count("pk", held)):
        counts = {row["state"]: row["n"] - row["held"], "held": row["held"]}
        found[row["sweep_id"]] |= {state: n for state, n in counts.items() if n}
    return found


def _newest(jobs: Any) -> Any:
    again = Job.objects.present().filter(parent=OuterRef("pk"), sweep=OuterRef("sweep"))
    return jobs.exclude(Exists(again))
