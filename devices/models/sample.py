"""What GPU servers and their cards were like, minute by minute and then more and more coarsely.

A row tells of `span` minutes from `minute` on. Rows of one minute are taken from what stands in
the tables of devices and cards (experiments.sampling), those of ten and of sixty from them.
"""

from datetime import UTC, datetime

from django.db import models
from django.utils.translation import gettext_lazy as _

from devices.models.device import Device
from devices.models.gpu import GPU

MIB = 2**20


class Span(models.IntegerChoices):
    """Of how many minutes a row tells."""

    MINUTE = 1
    TEN = 10
    HOUR = 60


def minute_of(moment: datetime) -> int:
    """Whole minutes since 1970, as samples are told apart by."""
    return int(moment.timestamp()) // 60


def moment_of(minute: int) -> datetime:
    return datetime.fromtimestamp(60 * minute, UTC)


class GPUSample(models.Model):
    """A card in a span of time. None: the driver would not say.

    Of a span above a minute, min and max are those of the minutes, and the mean is theirs.
    """

    gpu = models.ForeignKey(GPU, models.CASCADE, related_name="samples")
    span = models.PositiveSmallIntegerField(choices=Span, default=Span.MINUTE)
    minute = models.IntegerField()
    utilization_percent_min = models.SmallIntegerField(null=True)
    utilization_percent_mean = models.SmallIntegerField(null=True)
    utilization_percent_max = models.SmallIntegerField(null=True)
    memory_mib_mean = models.IntegerField(null=True)
    memory_mib_max = models.IntegerField(null=True)
    temperature_celsius_mean = models.SmallIntegerField(null=True)
    temperature_celsius_max = models.SmallIntegerField(null=True)
    power_watts_mean = models.IntegerField(null=True)
    power_watts_max = models.IntegerField(null=True)
    #: In how many of its minutes a job held it, and it was used outside the queue.
    job_minutes = models.PositiveSmallIntegerField(default=0)
    outside_minutes = models.PositiveSmallIntegerField(default=0)
    #: The key of the job that held it, the newest where there were several; its try is the one
    #: of that time. A number and no relation: jobs are no business of this app.
    held_by = models.BigIntegerField(null=True)
    outside_users = models.CharField(max_length=255, blank=True)

    class Meta:
        verbose_name = _("sample of a GPU")
        verbose_name_plural = _("samples of GPUs")
        constraints = [
            models.UniqueConstraint(fields=["gpu", "span", "minute"], name="one_sample_of_gpu")
        ]
        indexes = [models.Index(fields=["span", "minute"], name="gpu_sample_age")]

    def __str__(self) -> str:
        return f"{self.gpu_id} {moment_of(self.minute):%Y-%m-%d %H:%M} + {self.span}"


class DeviceSample(models.Model):
    """The host itself in a span of time."""

    device = models.ForeignKey(Device, models.CASCADE, related_name="samples")
    span = models.PositiveSmallIntegerField(choices=Span, default=Span.MINUTE)
    minute = models.IntegerField()
    cpu_percent_mean = models.SmallIntegerField(null=True)
    cpu_percent_max = models.SmallIntegerField(null=True)
    memory_mib_mean = models.IntegerField(null=True)
    memory_mib_max = models.IntegerField(null=True)
    disk_free_mib_min = models.BigIntegerField(null=True)

    class Meta:
        verbose_name = _("sample of a GPU server")
        verbose_name_plural = _("samples of GPU servers")
        constraints = [
            models.UniqueConstraint(
                fields=["device", "span", "minute"], name="one_sample_of_device"
            )
        ]
        indexes = [models.Index(fields=["span", "minute"], name="device_sample_age")]

    def __str__(self) -> str:
        return f"{self.device_id} {moment_of(self.minute):%Y-%m-%d %H:%M} + {self.span}"
