"""How busy the lab was, minute by minute."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class LabSample(models.Model):
    """The lab in one minute: how its cards were used, and how long its queue was."""

    minute = models.IntegerField(primary_key=True)  # since 1970, as of devices' samples
    gpus = models.PositiveIntegerField()  # all that are not taken out
    busy = models.PositiveIntegerField()  # held by jobs
    outside = models.PositiveIntegerField()  # used outside the queue, or by another lab server
    faulty = models.PositiveIntegerField()
    unreachable = models.PositiveIntegerField()  # on hosts that are not heard of
    utilization_percent = models.SmallIntegerField(null=True)  # mean of those that are busy
    running = models.PositiveIntegerField()
    waiting = models.PositiveIntegerField()
    is_demo = models.BooleanField(default=False)

    class Meta:
        verbose_name = _("sample of the lab")
        verbose_name_plural = _("samples of the lab")
        ordering = ["minute"]

    def __str__(self) -> str:
        return str(self.minute)
