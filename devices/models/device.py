"""A machine on which an agent runs."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from agent import wire
from devices.errors import EnrollmentRefused
from labsite import wake

#: A device whose agent has not polled for so long is not offered work: nobody would take it.
POLL_SILENCE = timedelta(seconds=60)

#: When a device was heard, by the server's clock; and by how much that may come after a look.
HEARD = ("last_heartbeat_at", "last_poll_at", "goodbye_at")
BEHIND = timedelta(seconds=5)

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class DeviceState(models.TextChoices):
    """Derived from the age of the last heartbeat, and nowhere stored."""

    HEALTHY = "healthy", _("healthy")
    STALE = "stale", _("stale")
    DISCONNECTED = "disconnected", _("disconnected")


class RunAs(models.TextChoices):
    """Which Unix user runs its jobs. Root chose it on the machine; no door here can."""

    AGENT = wire.JobUser.AGENT.value, _("the agent's user")
    SUBMITTER = wire.JobUser.SUBMITTER.value, _("whoever submitted them")


def allowance(interval_seconds: float) -> float:
    """How much longer than usual a device with this heartbeat interval may be silent.

    At the default of one beat a second this is 1, and a device is healthy for 3 s exactly;
    a slower one gets in proportion, or it would flicker (protocol §2).
    """
    return max(1.0, 2.5 * interval_seconds / 3)


class DeviceQuerySet(models.QuerySet):
    def enrolled(self) -> "DeviceQuerySet":
        return self.filter(revoked_at=None)

    def real(self) -> "DeviceQuerySet":
        """Those that there are: jobs are given to no other."""
        return self.enrolled().filter(is_demo=False)

    def set_back(self, now: datetime) -> None:
        """Nobody was heard later than now: where it says so, the server's clock was set back.

        A host that died would else be healthy, and its successor refused, until that time comes.
        """
        late = {field: Q((f"{field}__gt", now + BEHIND)) for field in HEARD}
        if self.filter(reduce(or_, late.values())).exists():
            for field, is_late in late.items():
                self.filter(is_late).update(**{field: now})

    def blind(self) -> "DeviceQuerySet":
        """Those that have GPUs and a driver that does not answer."""
        return self.enrolled().filter(driver_answers=False, gpus__isnull=False).distinct()


class Device(models.Model):
    """A machine on which an agent runs. Written by its heartbeats, its polls, and managers."""

    host_id = models.CharField(_("name"), max_length=128, unique=True)
    machine_id = models.CharField(max_length=64, editable=False)
    is_local = models.BooleanField(
        default=False, editable=False, help_text=_("Started by this server on its own host.")
    )
    is_demo = models.BooleanField(
        default=False, editable=False,
        help_text=_("Made up by manage.py demo_data: there is no such machine."),
    )  # fmt: skip
    created_at = models.DateTimeField(auto_now_add=True)

    # Credentials: digests only. `next_` is a rotation that has not been used yet.
    token_sha256 = models.CharField(max_length=64, unique=True, null=True, editable=False)
    next_token_sha256 = models.CharField(max_length=64, unique=True, null=True, editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)

    # What managers set. A job's own value wins over its project's, and that over these.
    draining = models.BooleanField(_("stop new jobs"), default=False)
    max_jobs = models.PositiveSmallIntegerField(
        _("most jobs at once"), null=True, blank=True,
        help_text=_("Empty: as many as there are GPUs for. 1: one job at a time."),
    )  # fmt: skip
    cpu_slots = models.PositiveSmallIntegerField(_("jobs without a GPU at once"), default=1)
    labels = models.JSONField(_("labels"), default=dict, blank=True)
    environment = models.JSONField(_("environment of jobs"), default=dict, blank=True)
    python = models.CharField(_("Python (venv or conda)"), max_length=1024, blank=True)
    working_directory = models.CharField(_("working directory"), max_length=1024, blank=True)

    # The heartbeat's.
    instance_id = models.CharField(max_length=64, blank=True, editable=False)
    boot_id = models.CharField(max_length=64, blank=True, editable=False)
    heartbeat_seq = models.BigIntegerField(default=0, editable=False)
    heartbeat_interval_seconds = models.FloatField(default=1.0, editable=False)
    last_heartbeat_at = models.DateTimeField(null=True, editable=False)
    goodbye_at = models.DateTimeField(null=True, editable=False)
    cpu_percent = models.FloatField(null=True, editable=False)
    cpu_count = models.PositiveIntegerField(null=True, editable=False)
    memory_used_bytes = models.BigIntegerField(null=True, editable=False)
    memory_total_bytes = models.BigIntegerField(null=True, editable=False)
    disk_free_bytes = models.BigIntegerField(null=True, editable=False)
    disk_total_bytes = models.BigIntegerField(null=True, editable=False)
    versions = models.JSONField(
        default=dict, editable=False, help_text="agent, driver, cuda, torch, python"
    )
    driver_answers = models.BooleanField(
        null=True, editable=False,
        help_text=_("No: its GPU driver does not answer, and its GPUs get no new jobs."),
    )  # fmt: skip
    unix_user = models.CharField(max_length=255, blank=True, editable=False)  # the agent's own
    run_as = models.CharField(
        _("jobs run as"), max_length=16, choices=RunAs, default=RunAs.AGENT, editable=False
    )
    source_directory = models.CharField(max_length=4000, blank=True, editable=False)
    source = models.JSONField(null=True, editable=False)
    #: What jobs required and it has not, as it last looked: dicts as agent.wire.Lack.
    lacks = models.JSONField(default=list, editable=False)

    #: The end of its last long silence, and the last beat before it; empty: there was none.
    silent_since = models.DateTimeField(null=True, editable=False)
    back_at = models.DateTimeField(null=True, editable=False)

    # The poll's (experiments.leases writes them by Device.polled).
    poll_seq = models.BigIntegerField(default=-1, editable=False)
    last_poll_at = models.DateTimeField(null=True, editable=False)
    runs_ended_attempt = models.BooleanField(
        default=False, editable=False,
        help_text=_("The newest poll named an attempt alive that has ended here."),
    )  # fmt: skip

    #: What the newest poll named alive and this server knows nothing of (an older backup, another
    #: database for a while): [{"id", "pid", "started_at", "since"}]. It runs on.
    unknown_attempts = models.JSONField(default=list, editable=False)

    expects_word = models.BooleanField(
        default=False, editable=False,
        help_text=_("An attempt ended here while it was away: what became of it is not known."),
    )  # fmt: skip

    # Guards of `max_jobs` and `cpu_slots`: moved only by take_slot() and give_slot().
    open_attempts = models.PositiveIntegerField(default=0, editable=False)
    open_cpu_attempts = models.PositiveIntegerField(default=0, editable=False)

    objects = DeviceQuerySet.as_manager()

    AUDITED = (
        "draining", "revoked_at", "max_jobs", "cpu_slots", "labels", "environment", "python",
        "working_directory",
    )  # fmt: skip

    class Meta:
        verbose_name = _("GPU server")
        verbose_name_plural = _("GPU servers")
        ordering = ["host_id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(open_cpu_attempts__lte=F("open_attempts")), name="device_slots"
            ),
        ]

    def __str__(self) -> str:
        return self.host_id

    def clean(self) -> None:
        """Whatever door managers set it by: dispatch and agents rely on its form."""
        wrong = {
            name: gettext("Write names and texts, as in {“room”: “b12”}.")
            for name in ("labels", "environment")
            if not _is_text_pairs(getattr(self, name))
        }
        if "environment" not in wrong and not all(map(_VARIABLE.fullmatch, self.environment)):
            wrong["environment"] = gettext("A variable's name has letters, digits and _ only.")
        if wrong:
            raise ValidationError(wrong)

    @property
    def origin(self) -> str:
        """`server_origin` of the founding document."""
        return "local" if self.is_local else f"remote-{self.host_id}"

    def state(self, now: datetime) -> DeviceState:
        """The one place that says how a device is; pages, admin, API and dispatch ask here."""
        if self.last_heartbeat_at is None or self.has_said_goodbye or self.revoked_at:
            return DeviceState.DISCONNECTED
        if self.is_demo:
            now = self.created_at  # nobody speaks for it: it stays as it was made
        age = (now - self.last_heartbeat_at).total_seconds()
        patience = allowance(self.heartbeat_interval_seconds)
        if age <= settings.LAB_HEALTHY_SECONDS * patience:
            return DeviceState.HEALTHY
        if age <= settings.LAB_STALE_SECONDS * patience:
            return DeviceState.STALE
        return DeviceState.DISCONNECTED

    @property
    def has_said_goodbye(self) -> bool:
        if self.goodbye_at is None or self.last_heartbeat_at is None:
            return False
        return self.goodbye_at >= self.last_heartbeat_at

    def is_polling(self, now: datetime) -> bool:
        return self.last_poll_at is not None and now - self.last_poll_at <= POLL_SILENCE

    def can_be_told(self, now: datetime) -> bool:
        """Whether its agent hears of a wish: it is heard of, and it asks. One whose disk hangs may
        beat on and never poll again."""
        return self.state(now) != DeviceState.DISCONNECTED and self.is_polling(now)

    # --- verbs ----------------------------------------------------------------------------

    def lock(self) -> None:
        """Let nobody else change it before this transaction ends. PostgreSQL locks rows: whoever
        needs several takes a job's first, then its device's, then its attempt's."""
        Device.objects.select_for_update(no_key=True).values_list("pk").get(pk=self.pk)

    def take_slot(self, *, with_gpu: bool) -> bool:
        """Count one more open attempt, unless the device is full or stopped. Say which."""
        room = Q(max_jobs=None) | Q(max_jobs__gt=F("open_attempts"))
        if not with_gpu:
            room &= Q(cpu_slots__gt=F("open_cpu_attempts"))
        accepting = Q(pk=self.pk, draining=False, revoked_at=None, runs_ended_attempt=False)
        return bool(
            Device.objects.filter(accepting & room).update(
                open_attempts=F("open_attempts") + 1,
                open_cpu_attempts=F("open_cpu_attempts") + (0 if with_gpu else 1),
            )
        )

    def give_slot(self, *, with_gpu: bool) -> None:
        Device.objects.filter(pk=self.pk).update(
            open_attempts=F("open_attempts") - 1,
            open_cpu_attempts=F("open_cpu_attempts") - (0 if with_gpu else 1),
        )

    def drain(self) -> None:
        """Give it no new jobs; those that run go on."""
        self._set(draining=True)

    def resume(self) -> None:
        self._set(draining=False)
        wake.ask_dispatch()

    def revoke(self, now: datetime) -> None:
        """Its token is worth nothing from now on. The agent starts nothing and keeps its jobs."""
        self._set(revoked_at=now, token_sha256=None, next_token_sha256=None)

    def say_goodbye(self, instance_id: str, now: datetime) -> None:
        """The agent stops in order: not healthy at once, and not a fault."""
        Device.objects.filter(pk=self.pk, instance_id=instance_id).update(goodbye_at=now)
        wake.publish_on_commit("device", self.pk)

    def rotate_token(self, token_sha256: str) -> None:
        """Accept another token too; the old one lives until the new one is first used.

        Raises:
            EnrollmentRefused: it is another device's.
        """
        check_unused(token_sha256, self)
        self._set(next_token_sha256=token_sha256)

    def polled(
        self, seq: int, now: datetime, *, runs_ended_attempt: bool, unknown: list[dict[str, Any]]
    ) -> bool:
        """Note a poll, unless a newer one was seen. Say whether it was noted."""
        noted = Device.objects.filter(pk=self.pk, poll_seq__lt=seq).update(
            poll_seq=seq,
            last_poll_at=now,
            runs_ended_attempt=runs_ended_attempt,
            unknown_attempts=unknown,
        )
        if noted and unknown != self.unknown_attempts:
            wake.publish_on_commit("device", self.pk)
        return bool(noted)

    def expect_word(self) -> None:
        """Its next polls are asked what became of an attempt that ended without its word."""
        Device.objects.filter(pk=self.pk).update(expects_word=True)

    def has_given_word(self) -> None:
        Device.objects.filter(pk=self.pk).update(expects_word=False)

    def set_options(self, values: dict[str, Any]) -> None:
        """What managers set of it, after clean(). It holds for what starts from now on."""
        self._set(**values)

    def note_lacks(self, lacks: list[dict[str, str]]) -> None:
        """An agent could not start a job for it. Its heartbeats tell from then on. Call it with
        the row locked."""
        known = Device.objects.values_list("lacks", flat=True).get(pk=self.pk)
        self._set(lacks=[*known, *(one for one in lacks if one not in known)])

    def came_back(self, silent_since: datetime, now: datetime) -> None:
        """It is heard of again after a silence in which it counted as disconnected."""
        self._set(silent_since=silent_since, back_at=now)

    def _set(self, **fields: object) -> None:
        Device.objects.filter(pk=self.pk).update(**fields)
        for name, value in fields.items():
            setattr(self, name, value)
        wake.publish_on_commit("device", self.pk)


def _is_text_pairs(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(text, str) and "\0" not in text for pair in value.items() for text in pair
    )


def check_unused(token_sha256: str, device: Device) -> None:
    """A token tells who speaks: were it two devices', neither could."""
    held = Q(token_sha256=token_sha256) | Q(next_token_sha256=token_sha256)
    if Device.objects.filter(held).exclude(pk=device.pk).exists():
        raise EnrollmentRefused(
            gettext("This token is another device's. Make a new one on this host.")
        )


def devices_with(token_sha256s: Sequence[str]) -> models.QuerySet:
    """The enrolled devices that hold one of these tokens, now or by a pending rotation."""
    held = Q(token_sha256__in=token_sha256s) | Q(next_token_sha256__in=token_sha256s)
    return Device.objects.enrolled().filter(held)
