"""One try of a job on one device, and the GPUs that it holds."""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from agent import wire
from devices.models import GPU, Device
from experiments.errors import AttemptEnded
from experiments.models.event import change, record
from experiments.models.packages import PackageSet
from experiments.states import EventKind, OnDeviceLost, Outcome
from labsite import wake


class Found(models.TextChoices):
    """What a device that could be reached again had of an attempt that was ended without it."""

    RUNNING = "running"  # and is stopped now
    ENDED = "ended"
    GONE = "gone"  # it knows nothing of it any more


class AttemptQuerySet(models.QuerySet):
    def open(self) -> "AttemptQuerySet":
        return self.filter(ended_at=None)

    def real(self) -> "AttemptQuerySet":
        """Without those of a demo, of which no agent ever says anything."""
        return self.filter(device__is_demo=False)

    def unsettled(self) -> "AttemptQuerySet":
        """Ended while their device could not be reached, and not known to be over there."""
        lives = Q(found__isnull=True) | Q(found__what=Found.RUNNING)
        return self.filter(lives, unconfirmed=True)


class Attempt(models.Model):
    """One try of a job on a device, under a lease. Its id is the lease's token.

    Whatever a device reports goes through its attempt, never straight to the job: each verb is
    one conditional UPDATE of an open attempt, which keeps out a device whose job somebody else
    has by now.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    job = models.ForeignKey("experiments.Job", models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField(editable=False)
    device = models.ForeignKey(Device, models.PROTECT, related_name="attempts", editable=False)
    #: As whom it runs there, as it was when assigned; empty: as the agent does, unknown to us.
    unix_user = models.CharField(max_length=255, blank=True, editable=False)
    #: What it was given, also after it gave it back.
    gpu_uuids = models.JSONField(default=list, editable=False)
    on_device_lost = models.CharField(max_length=8, choices=OnDeviceLost, editable=False)
    resume = models.JSONField(null=True, editable=False)  # wire.Resume, as it was when assigned

    #: The code there when it was assigned, as agent.wire.Source; null: not known, or it runs in
    #: code that was laid down for it (Job.source).
    source = models.JSONField(null=True, editable=False)

    #: The variables that its device gave it, as they were when it was assigned; null: not noted.
    host_variables = models.JSONField(null=True, editable=False)

    #: What it ran in, as agent.wire.Environment without the packages; empty: not told.
    environment = models.JSONField(default=dict, editable=False)
    packages = models.ForeignKey(
        "experiments.PackageSet", models.PROTECT, null=True, related_name="+", editable=False
    )

    created_at = models.DateTimeField(editable=False)
    accepted_at = models.DateTimeField(null=True, editable=False)
    started_at = models.DateTimeField(null=True, editable=False)
    #: When a poll last named it: its lease runs from here (and from created_at until then).
    renewed_at = models.DateTimeField(null=True, editable=False)
    ended_at = models.DateTimeField(null=True, editable=False)

    pid = models.BigIntegerField(null=True, editable=False)
    outcome = models.CharField(max_length=16, blank=True, choices=Outcome, editable=False)
    exit_code = models.IntegerField(null=True, editable=False)
    message = models.CharField(max_length=4000, blank=True, editable=False)
    #: Ended by the server while its device could not be reached: the process may live on.
    unconfirmed = models.BooleanField(default=False, editable=False)

    #: Of an unconfirmed one: what its device had of it when it was reached again:
    #: {"what": running, ended or gone, "at", and of an end "exit_code", "cause", "ended_at"}.
    found = models.JSONField(null=True, editable=False)

    #: What the agent has of its files: {name: {generation, size_bytes, acked_bytes}}.
    files_advertised = models.JSONField(default=dict, editable=False)
    #: What its agent does not send, and why: dicts as agent.wire.LeftOut.
    files_left_out = models.JSONField(default=list, editable=False)
    files_advertised_at = models.DateTimeField(null=True, editable=False)
    #: Whether its agent has yet to say that all of them have arrived; null: an older one, which
    #: never says.
    files_to_come = models.BooleanField(null=True, editable=False)

    objects = AttemptQuerySet.as_manager()

    class Meta:
        verbose_name = _("try")
        verbose_name_plural = _("tries")
        ordering = ["job", "number"]
        constraints = [
            models.UniqueConstraint(
                fields=["job"], condition=Q(ended_at=None), name="one_open_attempt_per_job"
            ),
            models.UniqueConstraint(fields=["job", "number"], name="attempt_number"),
            models.CheckConstraint(
                condition=Q(ended_at=None, outcome="") | ~Q(ended_at=None) & ~Q(outcome=""),
                name="attempt_outcome",
            ),
            models.CheckConstraint(
                condition=Q(started_at=None) | ~Q(accepted_at=None), name="attempt_accepted"
            ),
        ]
        indexes = [
            models.Index(fields=["device"], condition=Q(ended_at=None), name="attempt_open"),
            models.Index(
                fields=["device"], condition=Q(files_to_come=True), name="attempt_files_to_come"
            ),
        ]

    def __str__(self) -> str:
        return gettext("%(job)s try %(n)d") % {"job": self.job, "n": self.number}

    @property
    def is_open(self) -> bool:
        return self.ended_at is None

    @property
    def lease_ends_at(self) -> datetime:
        return (self.renewed_at or self.created_at) + timedelta(seconds=wire.LEASE_SECONDS)

    # --- verbs ----------------------------------------------------------------------------

    def accept(self, now: datetime) -> bool:
        """The agent has it in its journal. Say whether this was news; an ended one stays so."""
        with change():
            accepted = Attempt.objects.open().filter(pk=self.pk, accepted_at=None)
            if not accepted.update(accepted_at=now, renewed_at=now):
                return False
            self.accepted_at = self.renewed_at = now
            record(self.job, EventKind.ACCEPTED, attempt=self)
        return True

    def start(self, now: datetime, pid: int | None = None) -> None:
        """The command runs.

        Raises:
            AttemptEnded: it was given up before.
            IllegalTransition: it has started already.
        """
        with change():
            self._update_open(
                {},
                started_at=now,
                pid=pid,
                accepted_at=self.accepted_at or now,
                renewed_at=self.renewed_at or now,  # or its lease would never run out
            )
            self.job.note_started(self)

    def end(
        self,
        outcome: Outcome,
        now: datetime,
        *,
        exit_code: int | None = None,
        message: str = "",
        unconfirmed: bool = False,
        by: Any = None,
        then: str | None = None,
        if_still: dict[str, Any] | None = None,
    ) -> None:
        """Close the lease, and bring the job to what follows from it.

        The GPUs stay claimed until they are seen free; an attempt that nobody accepted has no
        process, so its GPUs are free at once.

        Args:
            outcome: as the device or the server sees it; a wish of a person (cancel, requeue)
                comes first, whatever the exit code.
            exit_code: negative when killed by that signal.
            then: the job's next state, where the caller decides it (a person who gives up).
            if_still: values that the row must still have, for an end by time.

        Raises:
            AttemptEnded: it has ended already, or is not as `if_still` says.
        """
        with change():
            self.job.lock()
            self.device.lock()
            outcome, state = self.job.after(outcome, self, then)
            self._update_open(
                if_still or {},
                ended_at=now,
                outcome=outcome,
                exit_code=exit_code,
                message=message[:4000],
                unconfirmed=unconfirmed,
            )
            self.device.give_slot(with_gpu=bool(self.gpu_uuids))
            if unconfirmed:
                self.device.expect_word()
            self.job.conclude(self, state, now, by=by)
            if self.accepted_at is None:
                self.release()
        wake.publish_on_commit("device", self.device_id)
        wake.ask_dispatch()

    def release(self, gpu_uuids: Collection[str] | None = None) -> int:
        """Give GPUs back; None: all that it holds. Return how many it held."""
        with change():
            held = GPUClaim.objects.filter(attempt=self)
            if gpu_uuids is not None:
                held = held.filter(gpu__uuid__in=gpu_uuids)
            released, _by_model = held.delete()
            if released:
                record(self.job, EventKind.RELEASED, attempt=self, gpus=released)
        if released:
            wake.ask_dispatch()
        return released

    @property
    def awaits_files(self) -> bool:
        """Whether its agent may yet tell of files; nobody waits for one whose token is revoked."""
        return bool(self.files_to_come) and self.device.revoked_at is None

    @property
    def awaited_files(self) -> dict[str, Any]:
        """Of what its agent told: what is not here yet and may come. After its last word nothing
        does."""
        is_over = self.ended_at is not None and self.files_to_come is False
        return {} if is_over else self.files_advertised

    def note_found(self, what: Found, now: datetime, **facts: Any) -> None:
        """Note what its device had of it. Changes no state and no result: those are settled."""
        unknown_yet = Q(found__isnull=True)
        if what != Found.RUNNING:  # it may be over by now
            unknown_yet |= Q(found__what=Found.RUNNING)
        if what == Found.ENDED:  # whoever knows how it ended knows better than a silence
            unknown_yet |= Q(found__what=Found.GONE)
        unconfirmed = Attempt.objects.filter(pk=self.pk, unconfirmed=True)
        with change():
            was_running = unconfirmed.filter(found__what=Found.RUNNING).exists()
            found = {"what": what, "at": now.isoformat(), "was_running": was_running, **facts}
            if unconfirmed.filter(unknown_yet).update(found=found):
                record(self.job, EventKind.FOUND, attempt=self, **found)

    def note_environment(self, seen: wire.Environment | None) -> None:
        """What it was started in, as its agent tells; None: it told nothing."""
        if seen is None:
            return
        environment = asdict(seen)
        packages = PackageSet.of(environment.pop("packages"))
        fields = {"environment": environment, "packages": packages}
        if (environment, packages and packages.pk) != (self.environment, self.packages_id):
            Attempt.objects.filter(pk=self.pk).update(**fields)
            self.environment, self.packages = environment, packages

    def advertise(
        self,
        files: dict[str, Any],
        now: datetime,
        left_out: Sequence[dict[str, Any]] = (),
        *,
        to_come: bool | None = None,
    ) -> None:
        """Note what the agent has of its files, for the sync state, and what it does not send."""
        was_to_come = self.files_to_come
        self.files_advertised, self.files_left_out = files, list(left_out)
        self.files_advertised_at, self.files_to_come = now, to_come
        self._write("files_advertised", "files_left_out", "files_advertised_at", "files_to_come")
        if was_to_come and not to_come:
            wake.publish_on_commit("arrived", self.job_id)

    def note_arrived(self) -> None:
        """All of its files are here, or will never be."""
        self.files_to_come = False
        self._write("files_to_come")
        wake.publish_on_commit("arrived", self.job_id)

    def _write(self, *names: str) -> None:
        fields = {name: getattr(self, name) for name in names}
        Attempt.objects.filter(pk=self.pk).update(**fields)

    def _update_open(self, if_still: dict[str, Any], **fields: Any) -> None:
        if not Attempt.objects.open().filter(pk=self.pk, **if_still).update(**fields):
            words = gettext("%(attempt)s has ended; what it did since then changes nothing.")
            raise AttemptEnded(words % {"attempt": self})
        for name, value in fields.items():
            setattr(self, name, value)


class GPUClaim(models.Model):
    """A GPU in use, by an attempt or by a person who borrowed it. The row exists while the GPU is
    held, so no GPU can be held twice."""

    gpu = models.OneToOneField(GPU, models.PROTECT, primary_key=True, related_name="claim")
    attempt = models.ForeignKey(Attempt, models.CASCADE, null=True, related_name="gpu_claims")
    borrow = models.ForeignKey(
        "experiments.Borrow", models.CASCADE, null=True, related_name="gpu_claims"
    )

    class Meta:
        verbose_name = _("GPU in use")
        verbose_name_plural = _("GPUs in use")
        constraints = [
            models.CheckConstraint(
                condition=Q(attempt=None) & ~Q(borrow=None) | ~Q(attempt=None) & Q(borrow=None),
                name="claim_has_one_holder",
            )
        ]

    @property
    def holder(self) -> Any:
        """The attempt, or the borrow."""
        return self.attempt or self.borrow

    def __str__(self) -> str:
        return gettext("%(gpu)s held by %(attempt)s") % {"gpu": self.gpu, "attempt": self.holder}


class ReceivedEvent(models.Model):
    """An event that a device sent, with its first answer: a repeated one gets it again."""

    event_id = models.UUIDField(primary_key=True)
    attempt = models.ForeignKey(Attempt, models.CASCADE, related_name="received")
    type = models.CharField(max_length=16)
    answer = models.JSONField()
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = _("received event")
        verbose_name_plural = _("received events")

    def __str__(self) -> str:
        return f"{self.type} of {self.attempt}"
