"""What a researcher queued, and where it stands."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models import Q
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from agent import wire
from devices.models import GPU, Device
from experiments import reasons, sealing
from experiments.errors import AttemptEnded, IllegalTransition, LostRace, NotSubmitted
from experiments.metrics import values_of
from experiments.models.account import unix_user_for
from experiments.models.attempt import Attempt, GPUClaim
from experiments.models.cell import Cell
from experiments.models.event import change, record
from experiments.models.project import Project
from experiments.models.queue import JobManager, check_may_call, named_in
from experiments.models.secret import GivenSecret, Vault
from experiments.models.snapshot import Snapshot
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
from people.roles import may_manage, may_submit

MAX_ATTEMPTS = 3
#: What people may write of a job at any time.
BY_HAND = ("name", "tags", "notes")
#: A reboot costs no try, but a job that brings its hosts down must end some day.
MAX_REBOOTS = 10
#: A device on which a start failed is avoided for so long, twice as long each further time: up to
#: about an hour, since whatever was wrong there is mended some day.
AVOID = timedelta(minutes=1)
MOST_DOUBLINGS = 6
#: One whose GPU another lab server had, or that lacks something: a few heartbeats, which say how
#: it is with that.
AVOID_TAKEN = timedelta(seconds=5)
#: A `python` that is a command, which makes the environment.
UV = "uv"


def run_name(number: int) -> str:
    return f"run_{number:03d}"


def needed_commands(requires: dict[str, Any], python: str, device: Device) -> list[str]:
    """What must be on the PATH of jobs of that wish there; uv, where that brings its Python."""
    by_uv = (python or device.python) == UV
    return [*requires.get("commands", []), *([UV] if by_uv else [])]


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
    sweep = models.ForeignKey(
        "experiments.Sweep", models.SET_NULL, null=True, related_name="jobs", editable=False
    )
    swept = models.JSONField(default=dict, editable=False)  # {dotted key: its value here, as
    #: it may be shown (experiments.discreet)}

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
    outputs = models.JSONField(default=list, editable=False)
    ignore = models.JSONField(default=list, editable=False)
    sync = models.JSONField(default=dict, editable=False)  # as agent.wire.SyncPolicy
    #: The code that it runs in, as lab.source has it; null: what lies on the GPU server.
    source = models.JSONField(null=True, editable=False)
    snapshot = models.ForeignKey(
        Snapshot, models.SET_NULL, null=True, related_name="jobs", editable=False
    )
    links = models.JSONField(default=dict, editable=False)  # laid into it: {path: target}
    secrets = models.JSONField(default=list, editable=False)  # names only
    requires = models.JSONField(default=dict, editable=False)  # as agent.wire.Requires
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
    #: When it was brought in from files; null: it was submitted, and ran here.
    imported_at = models.DateTimeField(null=True, editable=False)
    #: Its place among its submitter's jobs of its priority, smaller first (queue.rank_of, unless
    #: moved); and where a manager has laid it before all others of its priority.
    rank = models.BigIntegerField(default=0, editable=False)
    placed = models.PositiveIntegerField(null=True, editable=False)
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

    AUDITED = (
        "state", "priority", "held", "name", "tags", "notes", "cancel_requested_at",
        "requeue_requested_at", "deleted_at",
    )  # fmt: skip

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
                fields=["-priority", "rank", "id"], name="job_in_line", condition=Q(state="queued")
            ),
            models.Index(fields=["state", "-id"], name="job_state"),
            models.Index(  # what ended last
                fields=["-finished_at"],
                name="job_finished",
                condition=Q(finished_at__isnull=False),
            ),
            # All that lists filter and sort by: on SQLite what stands behind a row's JSON would
            # be read through all of it.
            models.Index(
                fields=[
                    "deleted_at",
                    "project",
                    "user",
                    "state",
                    "submitted_at",
                    "started_at",
                    "finished_at",
                    "run_number",
                    "name",
                    "uid",
                ],
                name="job_list",
            ),
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

    def may_be_changed_by(self, user: Any) -> bool:
        """Whose it is, as long as they may submit; and managers."""
        return may_manage(user) or (may_submit(user) and self.user_id == user.pk)

    @property
    def can_be_resumed(self) -> bool:
        """Whether it has ended and left a whole checkpoint to go on from."""
        return self.has_ended and not self.deleted_at and bool(self.resume_point.get("resume"))

    def handed_on(self, run_number: int) -> dict[str, Any]:
        """Its resume point, for a job whose run has that number: the files named for that run.

        Raises:
            NotSubmitted: there is nothing to go on from.
        """
        if not self.can_be_resumed or self._names_what_is_deleted():
            words = gettext(
                "%(job)s cannot be resumed: it has not ended, or left no whole checkpoint "
                "(%(run)s.pt). Rerun it instead."
            )
            raise NotSubmitted(words % {"job": self, "run": self.run_name})
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
                raise IllegalTransition.of(self, gettext("%(job)s is in the queue already."))
            attempt = self._ask("requeue_requested_at", EventKind.REQUEUE_REQUESTED, now, by)
            if attempt and (attempt.accepted_at is None or attempt.device.is_demo):
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
                raise IllegalTransition.of(self, gettext("%(job)s does not run anywhere."))
            if attempt.device.can_be_told(now):
                words = gettext("%(device)s can be reached: cancel or requeue %(job)s instead.")
                raise IllegalTransition.of(self, words, device=attempt.device)
            then = JobState.QUEUED if requeue else JobState.FAILED
            attempt.end(Outcome.LOST, now, unconfirmed=True, by=by, then=then)

    def hold(self, held: bool, *, by=None) -> None:
        """Keep it queued, whatever is free; or let it go again."""
        self._edit_queued(EventKind.HELD if held else EventKind.UNHELD, by, held=held)

    def edit(self, *, by=None, **fields: Any) -> None:
        """Write its name, tags or notes; nothing else of a job is written by hand."""
        fields = {name: value for name, value in fields.items() if name in BY_HAND}
        if not fields:
            return
        with change():
            Job.objects.filter(pk=self.pk).update(**fields)
            record(self, EventKind.EDITED, by=by, fields=sorted(fields))
        for name, value in fields.items():
            setattr(self, name, value)

    def set_priority(self, priority: Priority, *, by=None) -> None:
        """
        Raises:
            NotAllowed: only a manager calls it urgent.
            IllegalTransition: it does not wait.
        """
        check_may_call(priority, by)
        self._edit_queued(EventKind.PRIORITY, by, priority=priority)
        Job.objects.filter(pk=self.pk).update(placed=None)  # it was among others

    def delete_run(self, now: datetime, *, by=None) -> None:
        """Leave a tombstone: the row stays, so that its number is never given again; its files are
        gone for people and for sync (410), which lays them into the trash (sync.trash).

        Raises:
            IllegalTransition: an attempt is open, or another job is to go on from its files.
        """
        if not self.has_ended:
            raise IllegalTransition.of(self, gettext("%(job)s is %(state)s: cancel it first."))
        with change():
            self.project.lock()  # whoever queues a job that goes on from this one holds it
            if self.uid in Job.objects.needed():
                words = gettext("A run that waits or runs goes on from the checkpoint of %(job)s.")
                raise IllegalTransition.of(self, words)
            self.leave_tombstone(now, by=by)
        wake.ask_tidy()

    def leave_tombstone(self, now: datetime, *, by=None) -> None:
        """What delete_run() does to one that may be deleted. Twice is once."""
        with change():
            present = Job.objects.present().ended().filter(pk=self.pk)
            if present.update(deleted_at=now):
                record(self, EventKind.DELETED, by=by)
        self.deleted_at = now

    def restore_run(self, *, by=None) -> None:
        """Take the tombstone away: its files are where they were."""
        with change():
            deleted = Job.objects.filter(pk=self.pk, deleted_at__isnull=False)
            if deleted.update(deleted_at=None):
                record(self, EventKind.RESTORED, by=by)
        self.deleted_at = None

    # --- what dispatch and attempts do --------------------------------------------------------

    def assign(self, device: Device, gpus: Sequence[GPU], now: datetime) -> Attempt:
        """Lease this job and `gpus` to `device`.

        Raises:
            LostRace: somebody else had the job, a GPU, the device's last slot or its sweep's
                last place first, or kept it queued, or took away the name that it is to run as or
                a secret of its.
                The database may also say so with an IntegrityError.
        """
        with change():
            self._move(JobState.ASSIGNED, None, if_still={"held": False}, waiting={}, placed=None)
            if self.sweep_id:
                self.sweep.take_place()
            if not device.take_slot(with_gpu=bool(gpus)):
                words = gettext("%(device)s takes no further job now.")
                raise LostRace(words % {"device": device})
            attempt = Attempt.objects.create(
                job=self,
                number=self.attempts.count() + 1,
                device=device,
                source=None if self.source else device.source,
                host_variables=device.environment,
                unix_user=unix_user_for(self.user, device),
                gpu_uuids=[gpu.uuid for gpu in gpus],
                on_device_lost=self.on_device_lost,
                resume=self.resume_point.get("resume"),
                created_at=now,
            )
            GPUClaim.objects.bulk_create(GPUClaim(gpu=gpu, attempt=attempt) for gpu in gpus)
            self._give_secrets(attempt)
            states = {"from_state": JobState.QUEUED, "to_state": JobState.ASSIGNED}
            record(self, EventKind.ASSIGNED, attempt=attempt, **states)
        wake.publish_on_commit("device", device.pk)
        return attempt

    def _give_secrets(self, attempt: Attempt) -> None:
        """Sealed as they are; they are opened when the device asks for its order."""
        if not self.secrets:
            return
        sealing.hold_keys()
        given = Vault([self]).given(self)
        if given.keys() != set(self.secrets):
            raise LostRace(gettext("A secret that %(job)s needs is gone.") % {"job": self})
        GivenSecret.objects.bulk_create(
            GivenSecret(attempt=attempt, name=name, sealed=sealed)
            for name, sealed in given.items()
        )

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

    # --- what imports write ----------------------------------------------------------------------

    def note_config(self, config: bytes, keys: dict[str, Any]) -> None:
        """The config of an imported run, which was another when it was brought in."""
        with transaction.atomic():
            Job.objects.filter(pk=self.pk).update(config=config, keys=keys)
            self.config, self.keys = config, keys
            Cell.objects.note_keys_anew(self)

    def note_times(self, started_at: datetime, finished_at: datetime) -> None:
        """When an imported run began, and when it wrote last."""
        times = {"started_at": started_at, "finished_at": finished_at}
        Job.objects.filter(pk=self.pk, imported_at__isnull=False).update(**times)
        self.started_at, self.finished_at = started_at, finished_at

    # --- what sync writes -----------------------------------------------------------------------

    def note_summary(self, summary: dict[str, Any]) -> None:
        """The last and best values of its metrics."""
        before, now = values_of(self.summary), values_of(summary)
        with transaction.atomic():
            Job.objects.filter(pk=self.pk).update(summary=summary)
            Cell.objects.note_metrics(self, before, now)
        self.summary = summary

    def note_resume_point(self, point: dict[str, Any]) -> None:
        """What a next attempt may go on from: {"point": …, "resume": wire.Resume as JSON}."""
        Job.objects.filter(pk=self.pk).update(resume_point=point)
        self.resume_point = point

    # --- inside ----------------------------------------------------------------------------

    def _names_what_is_deleted(self) -> bool:
        """Whether its resume point is of another job, whose files are gone."""
        named = Job.objects.filter(uid__in=named_in(self.resume_point))
        return named.exclude(deleted_at=None).exists()

    def _ended(self, *outcomes: Outcome) -> int:
        """How many of its attempts have ended so."""
        return self.attempts.filter(outcome__in=outcomes).count()

    def _avoiding(self, attempt: Attempt, now: datetime) -> dict[str, str]:
        avoids = {
            device: until for device, until in self.avoids.items() if until > now.isoformat()
        }
        if attempt.outcome in (Outcome.START_FAILED, Outcome.NOT_ACCEPTED):
            for_how_long = AVOID * 2 ** min(self._ended(*COUNTED), MOST_DOUBLINGS)
            avoids[str(attempt.device_id)] = (now + for_how_long).isoformat()
        elif attempt.outcome in (Outcome.GPU_TAKEN, Outcome.LACKING):
            avoids[str(attempt.device_id)] = (now + AVOID_TAKEN).isoformat()
        return avoids

    def _ask(self, wish: str, kind: EventKind, now: datetime, by) -> Attempt | None:
        """Note a wish, once; return the open attempt that has to hear of it."""
        if self.has_ended:
            words = gettext("%(job)s has ended (%(state)s); rerun it instead.")
            raise IllegalTransition.of(self, words)
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
        gone = not attempt.device.can_be_told(now)
        if attempt.accepted_at is None or gone or attempt.device.is_demo:
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
                raise IllegalTransition.of(self, gettext("%(job)s does not wait any more."))
            record(self, kind, by=by, **fields)
        for name, value in fields.items():
            setattr(self, name, value)
        wake.ask_dispatch()

    def _move(
        self,
        to: JobState,
        kind: EventKind | None,
        *,
        attempt=None,
        by=None,
        if_still: dict[str, Any] | None = None,
        **also: Any,
    ) -> None:
        if to not in TRANSITIONS.get(self.state, ()):
            words = gettext("%(job)s is %(state)s and cannot become %(next)s.")
            raise IllegalTransition.of(self, words, next=JobState(to).label)
        was = self.state
        still = Job.objects.filter(pk=self.pk, state=was, **(if_still or {}))
        if not still.update(state=to, **also):
            words = gettext("%(job)s is no longer %(state)s.")
            raise LostRace(words % {"job": self, "state": JobState(was).label})
        self.state = to
        for field, value in also.items():
            setattr(self, field, value)
        if kind:
            record(self, kind, attempt=attempt, by=by, from_state=was, to_state=to)
