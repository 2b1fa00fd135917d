"""What a researcher queued, and where it stands."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from agent import wire
from devices.models import GPU, Device, DeviceState
from experiments import reasons
from experiments.errors import AttemptEnded, IllegalTransition, LostRace, NotSubmitted
from experiments.models.attempt import Attempt, GPUClaim
from experiments.models.event import change, record
from experiments.models.project import Project
from experiments.models.queue import JobManager
from experiments.states import (
    COUNTED,
    ENDED,
    LIVE,
    TRANSITIONS,
    EventKind,
    JobState,
    OnDeviceLost,
    Outcome,
    Priority,
)
from labsite import wake
from labsite.clock import database_now

MAX_ATTEMPTS = 3
#: A reboot costs no try, but a job that brings its hosts down must end some day.
MAX_REBOOTS = 10
#: A device on which a start failed is avoided for so long, twice as long each further time.
AVOID = timedelta(minutes=1)


def run_name(number: int) -> str:
    return f"run_{number:03d}"


class Job(models.Model):
    """A config (or a bare command) to be brought to its end once, on one device.

    `state` is written only by the verbs below, never by assignment and save(). Each is one
    conditional UPDATE, so of two processes that race for a transition one wins and the other
    gets LostRace; each leaves a JobEvent.
    """

    uid = models.CharField("experiment_uid", max_length=32, unique=True, editable=False)
    project = models.ForeignKey(Project, models.PROTECT, related_name="jobs", editable=False)
    run_number = models.PositiveIntegerField(editable=False)
    name = models.CharField(_("name"), max_length=255, blank=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="jobs", editable=False
    )
    parent = models.ForeignKey(
        "self", models.SET_NULL, null=True, related_name="children", editable=False
    )

    # What was asked for; never changed after the submit, but for priority.
    config = models.BinaryField(editable=False, default=b"")  # byte for byte; empty: none
    keys = models.JSONField(default=dict, editable=False)  # the experiment's own, for tables
    command = models.JSONField(editable=False)
    environment = models.JSONField(default=dict, editable=False)
    python = models.CharField(max_length=1024, blank=True, editable=False)
    working_directory = models.CharField(max_length=1024, blank=True, editable=False)
    gpus = models.PositiveSmallIntegerField("GPUs", default=1, editable=False)
    gpu_memory_bytes = models.BigIntegerField(null=True, editable=False)
    gpu_type = models.CharField(max_length=255, blank=True, editable=False)
    labels = models.JSONField(default=dict, editable=False)
    priority = models.SmallIntegerField(
        _("priority"), choices=Priority, default=Priority.NORMAL, editable=False
    )
    time_limit_seconds = models.FloatField(null=True, editable=False)
    stop_grace_seconds = models.FloatField(default=wire.STOP_GRACE_SECONDS, editable=False)
    max_attempts = models.PositiveSmallIntegerField(default=MAX_ATTEMPTS, editable=False)
    on_device_lost = models.CharField(
        max_length=8, choices=OnDeviceLost, default=OnDeviceLost.WAIT, editable=False
    )
    tags = models.JSONField(default=list, blank=True)
    notes = models.TextField(_("notes"), blank=True)

    # Where it stands.
    state = models.CharField(
        max_length=16, choices=JobState, default=JobState.QUEUED, editable=False
    )
    submitted_at = models.DateTimeField(editable=False)
    started_at = models.DateTimeField(null=True, editable=False)  # of its newest attempt
    finished_at = models.DateTimeField(null=True, editable=False)
    deleted_at = models.DateTimeField(null=True, editable=False)
    held = models.BooleanField(_("keep queued"), default=False, editable=False)
    #: Why it waits: {"code": …, facts}; experiments.reasons makes a sentence of it.
    waiting = models.JSONField(default=dict, editable=False)
    #: {device id: time until which it is avoided}, after starts that failed there.
    avoids = models.JSONField(default=dict, editable=False)

    # Wishes: fulfilled when the attempt ends, cancel first.
    cancel_requested_at = models.DateTimeField(null=True, editable=False)
    requeue_requested_at = models.DateTimeField(null=True, editable=False)
    preempt_requested_at = models.DateTimeField(null=True, editable=False)

    # Written by sync, through note_summary() and note_resume_point().
    summary = models.JSONField(default=dict, editable=False)
    resume_point = models.JSONField(default=dict, editable=False)

    objects = JobManager()

    class Meta:
        verbose_name = _("job")
        verbose_name_plural = _("jobs")
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=JobState.values), name="job_state_known"),
            models.CheckConstraint(
                condition=Q(priority__in=Priority.values), name="job_priority_known"
            ),
            models.CheckConstraint(condition=Q(gpus__lte=64), name="job_gpus"),
            models.CheckConstraint(
                condition=Q(state__in=ENDED, finished_at__isnull=False)
                | ~Q(state__in=ENDED) & Q(finished_at=None),
                name="job_finished_at",
            ),
            models.UniqueConstraint(fields=["project", "run_number"], name="run_number"),
        ]
        indexes = [
            models.Index(  # queued(), which dispatch asks every few seconds
                fields=["-priority", "id"], name="job_queue", condition=Q(state="queued")
            ),
            models.Index(fields=["state", "-id"], name="job_state"),
        ]

    def __str__(self) -> str:
        return f"{self.project.name}/{self.run_name}"

    @property
    def run_name(self) -> str:
        return run_name(self.run_number)

    def get_priority_name(self) -> str:
        """As people write it: "urgent", "high", "normal", "low"."""
        return Priority(self.priority).name.lower()

    @property
    def is_live(self) -> bool:
        return self.state in LIVE

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def waiting_reason(self) -> str:
        """Why it waits, in one sentence in the reader's language; empty when it does not."""
        return reasons.sentence(self.waiting) if self.state == JobState.QUEUED else ""

    @property
    def stop_reason(self) -> str:
        """Why its process should stop now; empty: it should not."""
        if self.cancel_requested_at:
            return "cancelled"
        if self.requeue_requested_at:
            return "requeued"
        return "preempted" if self.preempt_requested_at else ""

    @property
    def can_be_resumed(self) -> bool:
        """Whether it has ended and left a whole checkpoint to go on from."""
        return self.has_ended and not self.deleted_at and bool(self.resume_point.get("resume"))

    def handed_on(self, run_number: int) -> dict[str, Any]:
        """Its resume point, for a job whose run has that number: the files named for that run.

        Raises:
            NotSubmitted: there is nothing to go on from.
        """
        if not self.can_be_resumed:
            raise NotSubmitted(
                f"{self} cannot be resumed: it has not ended, or left no whole checkpoint "
                f"({self.run_name}.pt). Rerun it instead."
            )
        resume = self.resume_point["resume"]
        name = run_name(run_number)

        def renamed(file_name: str) -> str:
            return file_name.replace(self.run_name, name, 1)

        files = [{**file, "lay_as": renamed(file["lay_as"])} for file in resume["files"]]
        checkpoint = renamed(resume["checkpoint"])
        return {"resume": {**resume, "files": files, "checkpoint": checkpoint}}

    def newest_attempt(self) -> Attempt | None:
        return self.attempts.select_related("device").order_by("-number").first()

    def open_attempt(self) -> Attempt | None:
        attempt = self.attempts.open().select_related("device").first()
        if attempt:
            attempt.job = self
        return attempt

    # --- what people wish -------------------------------------------------------------------

    def cancel(self, *, by=None) -> None:
        """End it: at once if nothing runs, else when its process has stopped.

        Raises:
            IllegalTransition: it has ended already.
        """
        now = database_now()
        with change():
            self.lock()
            attempt = self._ask("cancel_requested_at", EventKind.CANCEL_REQUESTED, now, by)
            if attempt is None:
                self._move(JobState.CANCELLED, EventKind.CANCELLED, by=by, finished_at=now)
            else:
                self._end_unreachable(attempt, Outcome.CANCELLED, now, by)

    def requeue(self, *, by=None) -> None:
        """Stop what runs and put it back into the queue, at its old place.

        Raises:
            IllegalTransition: it waits already, or has ended (rerun it instead).
        """
        now = database_now()
        with change():
            self.lock()
            if self.state == JobState.QUEUED:
                raise IllegalTransition(f"{self} is in the queue already.", state=self.state)
            attempt = self._ask("requeue_requested_at", EventKind.REQUEUE_REQUESTED, now, by)
            if attempt and attempt.accepted_at is None:
                self._end_at_once(attempt, Outcome.PREEMPTED, now, by)

    def give_up(self, *, requeue: bool, by=None) -> None:
        """Give up the attempt on a device that cannot be reached, by a person's decision.

        Its GPUs stay held, since the process may live on; when the device comes back, the agent
        is told to stop it.

        Raises:
            IllegalTransition: nothing runs, or the device can be reached (cancel or requeue).
        """
        now = database_now()
        with change():
            self.lock()
            attempt = self.open_attempt()
            if attempt is None:
                raise IllegalTransition(f"{self} does not run anywhere.", state=self.state)
            if attempt.device.state(now) != DeviceState.DISCONNECTED:
                raise IllegalTransition(
                    f"{attempt.device} can be reached: cancel or requeue {self} instead.",
                    state=self.state,
                )
            then = JobState.QUEUED if requeue else JobState.FAILED
            attempt.end(Outcome.LOST, now, unconfirmed=True, by=by, then=then)

    def hold(self, held: bool, *, by=None) -> None:
        """Keep it queued, whatever is free; or let it go again."""
        self._edit_queued(EventKind.HELD if held else EventKind.UNHELD, by, held=held)

    def set_priority(self, priority: Priority, *, by=None) -> None:
        self._edit_queued(EventKind.PRIORITY, by, priority=priority)

    def delete_run(self, now: datetime) -> None:
        """Leave a tombstone: the row stays, its files are gone for people and for sync (410).

        Raises:
            IllegalTransition: an attempt is open; cancel it first.
        """
        if not self.has_ended:
            raise IllegalTransition(f"{self} is {self.state}: cancel it first.", state=self.state)
        with change():
            Job.objects.filter(pk=self.pk, state__in=ENDED).update(deleted_at=now)
            record(self, EventKind.EDITED, deleted=True)
        self.deleted_at = now

    # --- what dispatch and attempts do --------------------------------------------------------

    def assign(self, device: Device, gpus: Sequence[GPU], now: datetime) -> Attempt:
        """Lease this job and `gpus` to `device`.

        Raises:
            LostRace: somebody else had the job, a GPU or the device's last slot first. The
                database may also say so with an IntegrityError.
        """
        with change():
            self._move(JobState.ASSIGNED, None, waiting={})
            if not device.take_slot(with_gpu=bool(gpus)):
                raise LostRace(f"{device} takes no further job now.")
            attempt = Attempt.objects.create(
                job=self,
                number=self.attempts.count() + 1,
                device=device,
                gpu_uuids=[gpu.uuid for gpu in gpus],
                on_device_lost=self.on_device_lost,
                resume=self.resume_point.get("resume"),
                created_at=now,
            )
            GPUClaim.objects.bulk_create(GPUClaim(gpu=gpu, attempt=attempt) for gpu in gpus)
            record(
                self,
                EventKind.ASSIGNED,
                attempt=attempt,
                from_state=JobState.QUEUED,
                to_state=JobState.ASSIGNED,
            )
        wake.publish_on_commit("device", device.pk)
        return attempt

    def note_started(self, attempt: Attempt) -> None:
        self._move(
            JobState.RUNNING, EventKind.STARTED, attempt=attempt, started_at=attempt.started_at
        )

    def after(
        self, outcome: Outcome, attempt: Attempt, then: str | None = None
    ) -> tuple[Outcome, JobState]:
        """What the attempt's outcome is in the light of people's wishes, and the job's next state.

        Pure, on a locked job. Cancel comes first, whatever the exit code.
        """
        if self.cancel_requested_at:
            return Outcome.CANCELLED, JobState.CANCELLED
        if then:
            return outcome, JobState(then)
        if self.requeue_requested_at or self.preempt_requested_at:
            return Outcome.PREEMPTED, JobState.QUEUED
        if outcome == Outcome.SUCCEEDED:
            return outcome, JobState.SUCCEEDED
        final = self._is_final(outcome, attempt)
        return outcome, JobState.FAILED if final else JobState.QUEUED

    def _is_final(self, outcome: Outcome, attempt: Attempt) -> bool:
        """Whether an attempt that did not succeed was the job's last."""
        if outcome in COUNTED:
            return self._ended(*COUNTED) + 1 >= self.max_attempts
        if outcome == Outcome.HOST_REBOOTED:
            return self._ended(outcome) + 1 >= MAX_REBOOTS
        if outcome == Outcome.LOST:
            return attempt.on_device_lost == OnDeviceLost.WAIT
        return outcome in (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED)

    def conclude(self, attempt: Attempt, state: JobState, now: datetime, *, by=None) -> None:
        """Go on to what follows the end of `attempt`."""
        more: dict[str, Any] = {"finished_at": now}
        if state == JobState.QUEUED:
            more = {
                "requeue_requested_at": None,
                "preempt_requested_at": None,
                "started_at": None,
                "waiting": reasons.NOT_SEEN_YET,
                "avoids": self._avoiding(attempt, now),
            }
        self._move(state, EventKind.ENDED, attempt=attempt, by=by, **more)

    def lock(self) -> None:
        """Read it again, and let nobody change it before this transaction ends."""
        fresh = Job.objects.select_for_update(no_key=True).get(pk=self.pk)
        for field in self._meta.concrete_fields:
            setattr(self, field.attname, getattr(fresh, field.attname))

    # --- what sync writes -----------------------------------------------------------------------

    def note_summary(self, summary: dict[str, Any]) -> None:
        """The last and best values of its metrics."""
        Job.objects.filter(pk=self.pk).update(summary=summary)
        self.summary = summary

    def note_resume_point(self, point: dict[str, Any]) -> None:
        """What a next attempt may go on from: {"point": …, "resume": wire.Resume as JSON}."""
        Job.objects.filter(pk=self.pk).update(resume_point=point)
        self.resume_point = point

    # --- inside ----------------------------------------------------------------------------

    def _ended(self, *outcomes: Outcome) -> int:
        """How many of its attempts have ended so."""
        return self.attempts.filter(outcome__in=outcomes).count()

    def _avoiding(self, attempt: Attempt, now: datetime) -> dict[str, str]:
        avoids = {
            device: until for device, until in self.avoids.items() if until > now.isoformat()
        }
        if attempt.outcome in (Outcome.START_FAILED, Outcome.NOT_ACCEPTED):
            for_how_long = AVOID * 2 ** self._ended(*COUNTED)
            avoids[str(attempt.device_id)] = (now + for_how_long).isoformat()
        return avoids

    def _ask(self, wish: str, kind: EventKind, now: datetime, by) -> Attempt | None:
        """Note a wish, once; return the open attempt that has to hear of it."""
        if self.has_ended:
            raise IllegalTransition(
                f"{self} has ended ({self.get_state_display()}); rerun it instead.",
                state=self.state,
            )
        if getattr(self, wish) is None:
            Job.objects.filter(pk=self.pk, state=self.state).update(**{wish: now})
            setattr(self, wish, now)
            record(self, kind, by=by)
        attempt = self.open_attempt()
        if attempt:
            wake.publish_on_commit("device", attempt.device_id)
        return attempt

    def _end_unreachable(self, attempt: Attempt, outcome: Outcome, now: datetime, by) -> None:
        """End at once an attempt that has no process yet, or whose device cannot be asked."""
        gone = attempt.device.state(now) == DeviceState.DISCONNECTED
        if attempt.accepted_at is None or gone:
            self._end_at_once(attempt, outcome, now, by)

    def _end_at_once(self, attempt: Attempt, outcome: Outcome, now: datetime, by) -> None:
        """Unless it is accepted, or ends, at this moment: then the wish takes its usual way."""
        accepted_at = attempt.accepted_at
        with suppress(AttemptEnded):
            attempt.end(
                outcome,
                now,
                unconfirmed=accepted_at is not None,
                by=by,
                if_still={"accepted_at": accepted_at},
            )

    def _edit_queued(self, kind: EventKind, by, **fields: Any) -> None:
        with change():
            if not Job.objects.filter(pk=self.pk, state=JobState.QUEUED).update(**fields):
                raise IllegalTransition(f"{self} does not wait any more.", state=self.state)
            record(self, kind, by=by, **fields)
        for name, value in fields.items():
            setattr(self, name, value)
        wake.ask_dispatch()

    def _move(
        self, to: JobState, kind: EventKind | None, *, attempt=None, by=None, **also: Any
    ) -> None:
        if to not in TRANSITIONS.get(self.state, ()):
            raise IllegalTransition(
                f"{self} is {self.state} and cannot become {to}.", state=self.state
            )
        was = self.state
        if not Job.objects.filter(pk=self.pk, state=was).update(state=to, **also):
            raise LostRace(f"{self} is no longer {was}.")
        self.state = to
        for field, value in also.items():
            setattr(self, field, value)
        if kind:
            record(self, kind, attempt=attempt, by=by, from_state=was, to_state=to)
