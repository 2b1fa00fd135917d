"""A card of a device."""

from datetime import datetime

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from devices.models.device import Device
from labsite import wake


class GPUQuerySet(models.QuerySet):
    def present(self) -> "GPUQuerySet":
        return self.filter(present=True)


class GPU(models.Model):
    """One card, known by its NVML UUID. Written by its device's heartbeats."""

    uuid = models.CharField(max_length=96, unique=True)
    device = models.ForeignKey(Device, models.CASCADE, related_name="gpus")
    index = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=255)
    present = models.BooleanField(default=True, help_text=_("In the last heartbeat."))
    simulated = models.BooleanField(default=False)
    memory_total_bytes = models.BigIntegerField(null=True)
    memory_used_bytes = models.BigIntegerField(null=True)
    utilization_percent = models.FloatField(null=True)
    temperature_celsius = models.FloatField(null=True)
    power_watts = models.FloatField(null=True)
    power_limit_watts = models.FloatField(null=True)
    xid_errors = models.JSONField(default=list)
    ecc_errors = models.BigIntegerField(null=True)
    processes = models.JSONField(default=list)
    quarantined_at = models.DateTimeField(null=True, blank=True, editable=False)
    quarantine_reason = models.CharField(max_length=255, blank=True, editable=False)

    objects = GPUQuerySet.as_manager()

    class Meta:
        verbose_name = "GPU"
        verbose_name_plural = "GPUs"
        ordering = ["device", "index"]

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

    def quarantine(self, reason: str, now: datetime) -> None:
        """Give it to nobody until a manager says otherwise."""
        GPU.objects.filter(pk=self.pk).update(quarantined_at=now, quarantine_reason=reason)
        self.quarantined_at, self.quarantine_reason = now, reason
        wake.publish_on_commit("device", self.device_id)

    def release(self) -> None:
        GPU.objects.filter(pk=self.pk).update(quarantined_at=None, quarantine_reason="")
        self.quarantined_at, self.quarantine_reason = None, ""
        wake.ask_dispatch()
