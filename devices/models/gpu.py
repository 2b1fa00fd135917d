"""A card of a device."""

from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from devices.models.device import Device
from devices.models.fault import Fault, sentence
from labsite import wake


class Use(models.TextChoices):
    """What a card does now, decided in one place for pages, dispatch's readers and samples."""

    FAULTY = "faulty", _("faulty")
    MISSING = "missing", _("missing")
    JOB = "job", _("busy")
    ELSEWHERE = "elsewhere", _("used by another lab server")
    OUTSIDE = "outside", _("outside the queue")
    STOPPED = "stopped", _("no new jobs")
    FREE = "free", _("free")


class GPUQuerySet(models.QuerySet):
    def present(self) -> "GPUQuerySet":
        return self.filter(present=True)

    def note_used_elsewhere(self) -> int:
        """An agent found them taken; its next heartbeat says whether they still are."""
        return self.update(used_elsewhere=True)

    def usable(self) -> "GPUQuerySet":
        return self.present().filter(quarantined_at=None)

    def faulty(self) -> "GPUQuerySet":
        return self.filter(quarantined_at__isnull=False, device__revoked_at=None)


class GPU(models.Model):
    """One card, known by its NVML UUID. Written by its device's heartbeats."""

    uuid = models.CharField(max_length=96, unique=True)
    device = models.ForeignKey(Device, models.CASCADE, related_name="gpus")
    index = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=255)
    present = models.BooleanField(default=True, help_text=_("In the last heartbeat."))
    missing_since = models.DateTimeField(
        null=True, editable=False,
        help_text=_("Of a card that no heartbeat names, until it counts as off the bus."),
    )  # fmt: skip
    simulated = models.BooleanField(default=False)
    memory_total_bytes = models.BigIntegerField(null=True)
    memory_used_bytes = models.BigIntegerField(null=True)
    utilization_percent = models.FloatField(null=True)
    temperature_celsius = models.FloatField(null=True)
    power_watts = models.FloatField(null=True)
    power_limit_watts = models.FloatField(null=True)
    graphics_clock_mhz = models.PositiveIntegerField(null=True)
    memory_clock_mhz = models.PositiveIntegerField(null=True)
    throttle_reasons = models.JSONField(default=list)
    xid_errors = models.JSONField(default=list)
    ecc_errors = models.BigIntegerField(null=True)
    ecc_errors_lifetime = models.BigIntegerField(null=True)
    remap_pending = models.BooleanField(null=True)
    processes = models.JSONField(default=list)
    used_elsewhere = models.BooleanField(
        default=False, help_text=_("Another lab server, or another agent, on its host has it.")
    )
    #: Which of its errors were judged already (devices.readings).
    errors_judged = models.JSONField(default=dict, editable=False)
    quarantined_at = models.DateTimeField(null=True, blank=True, editable=False)
    fault = models.CharField(max_length=16, blank=True, choices=Fault, editable=False)
    fault_facts = models.JSONField(default=dict, editable=False)

    objects = GPUQuerySet.as_manager()

    AUDITED = ("quarantined_at", "fault", "fault_facts")

    class Meta:
        verbose_name = "GPU"
        verbose_name_plural = _("GPUs")
        ordering = ["device", "index"]
        constraints = [
            models.CheckConstraint(
                condition=Q(quarantined_at=None, fault="")
                | ~Q(quarantined_at=None) & ~Q(fault=""),
                name="gpu_fault",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.device.host_id} GPU {self.index}"

    @property
    def foreign_processes(self) -> list[dict]:
        """Processes that no attempt accounts for: somebody works outside the queue."""
        return [process for process in self.processes if process["attempt_id"] is None]

    def used_outside(self, *, claimed: bool) -> bool:
        """Whether somebody works on this card outside the queue, so that it is not offered.

        Where NVML does not show who it is (another container, an old driver), memory and
        utilisation of a card that nobody holds count as somebody's.
        """
        memory = sum(process["memory_bytes"] or 0 for process in self.foreign_processes)
        busy = bool(self.foreign_processes)
        if not claimed:
            memory = max(memory, self.memory_used_bytes or 0)
            busy = True
        if memory > settings.LAB_FOREIGN_MEMORY_BYTES:
            return True
        utilization = self.utilization_percent or 0
        return busy and utilization > settings.LAB_FOREIGN_UTILIZATION_PERCENT and not claimed

    def use(self, *, claimed: bool) -> Use:
        """`claimed`: a job of this lab holds it. Its device is to be at hand."""
        if self.quarantined_at:
            return Use.FAULTY
        if not self.present:
            return Use.MISSING
        if claimed:
            return Use.JOB
        if self.used_elsewhere:
            return Use.ELSEWHERE
        if self.used_outside(claimed=False):
            return Use.OUTSIDE
        return Use.STOPPED if self.device.draining else Use.FREE

    @property
    def quarantine_reason(self) -> str:
        """Why it is faulty, in the reader's language; empty when it is not."""
        return sentence(self.fault, self.fault_facts)

    @property
    def foreign_users(self) -> list[str]:
        return sorted({process["user"] for process in self.foreign_processes})

    # --- verbs ----------------------------------------------------------------------------

    def quarantine(self, reason: str, now: datetime, by: Any = None) -> None:
        """Give it to nobody until a manager says otherwise."""
        self._set_aside(GPU.objects.filter(pk=self.pk), Fault.BY_HAND, {"text": reason}, now, by)

    def fail(self, fault: Fault, facts: dict[str, Any], now: datetime) -> bool:
        """Quarantine it for what was seen of it. Say whether that was news.

        A fault that it has keeps its reason, but for memory that was not given back: that one
        ends by itself, and would take the other with it.
        """
        replaced = Q(quarantined_at=None)
        if fault != Fault.HELD:
            replaced |= Q(fault=Fault.HELD)
        return self._set_aside(GPU.objects.filter(replaced, pk=self.pk), fault, facts, now)

    def release(self, by: Any = None) -> None:
        """Use it again. `by` None: its fault has ended by itself."""
        with transaction.atomic():
            rows = GPU.objects.filter(pk=self.pk, quarantined_at__isnull=False)
            if rows.update(quarantined_at=None, fault="", fault_facts={}):
                self.events.create(kind=GPUEvent.Kind.RELEASED, by=by)
        self.quarantined_at, self.fault, self.fault_facts = None, "", {}
        wake.publish_on_commit("device", self.device_id)
        wake.ask_dispatch()

    def was_held_by(self, attempt_id: str) -> bool:
        """Whether it was set aside for that attempt's memory before: once is enough, or a manager
        could never use it again."""
        told = self.events.filter(kind=GPUEvent.Kind.QUARANTINED, fault=Fault.HELD)
        return told.filter(facts__attempt=attempt_id).exists()

    def _set_aside(
        self, rows: GPUQuerySet, fault: Fault, facts: dict[str, Any], now: datetime, by: Any = None
    ) -> bool:
        with transaction.atomic():
            if not rows.update(quarantined_at=now, fault=fault, fault_facts=facts):
                return False
            self.events.create(kind=GPUEvent.Kind.QUARANTINED, fault=fault, facts=facts, by=by)
        self.quarantined_at, self.fault, self.fault_facts = now, fault, facts
        wake.publish_on_commit("device", self.device_id)
        return True


class GPUEvent(models.Model):
    """What happened to a card. Written by the verbs of GPU only, and never changed."""

    class Kind(models.TextChoices):
        QUARANTINED = "quarantined", _("marked as faulty")
        RELEASED = "released", _("used again")

    gpu = models.ForeignKey(GPU, models.CASCADE, related_name="events")
    kind = models.CharField(max_length=16, choices=Kind)
    at = models.DateTimeField(auto_now_add=True)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True)
    fault = models.CharField(max_length=16, blank=True, choices=Fault)
    facts = models.JSONField(default=dict)

    class Meta:
        verbose_name = _("event of a GPU")
        verbose_name_plural = _("events of GPUs")
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.gpu} {self.kind}"

    @property
    def reason(self) -> str:
        return sentence(self.fault, self.facts)
