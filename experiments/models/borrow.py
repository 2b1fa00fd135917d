"""GPUs that a person has for a while without a job: to try something by hand."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models import F, Q
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from devices.models import GPU, Device
from experiments.models.attempt import GPUClaim
from labsite import wake
from people.roles import may_manage


class BorrowQuerySet(models.QuerySet):
    def open(self) -> "BorrowQuerySet":
        return self.filter(ended_at=None)

    def end_due(self, now: datetime) -> int:
        """End those whose time is over. May be called at any time, twice, or by two processes."""
        return sum(one.end(one.until) for one in self.open().filter(until__lte=now))


class BorrowManager(models.Manager.from_queryset(BorrowQuerySet)):
    @transaction.atomic
    def begin(
        self, by: Any, device: Device, gpus: Sequence[GPU], now: datetime, until: datetime
    ) -> "Borrow":
        """
        Raises:
            IntegrityError: somebody else had one of the GPUs first.
        """
        uuids = [gpu.uuid for gpu in gpus]
        made = self.create(user=by, device=device, gpu_uuids=uuids, made_at=now, until=until)
        GPUClaim.objects.bulk_create(GPUClaim(gpu=gpu, borrow=made) for gpu in gpus)
        wake.publish_on_commit("device", device.pk)
        return made


class Borrow(models.Model):
    """Claims without an attempt: no process is started or stopped for it, and no lease is asked.

    It ends by its time, by its person or by a manager; who still computes there then is outside
    the queue, and the card is offered again when that is over.
    """

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="borrows", editable=False
    )
    device = models.ForeignKey(Device, models.PROTECT, related_name="borrows", editable=False)
    gpu_uuids = models.JSONField(editable=False)  # also after they were given back
    made_at = models.DateTimeField(editable=False)
    until = models.DateTimeField(editable=False)
    ended_at = models.DateTimeField(null=True, editable=False)

    AUDITED = ("ended_at",)

    objects = BorrowManager()

    class Meta:
        verbose_name = _("borrowed GPUs")
        verbose_name_plural = _("borrowed GPUs")
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(until__gt=F("made_at")), name="borrow_until"),
        ]
        indexes = [
            models.Index(fields=["until"], name="borrow_open", condition=Q(ended_at=None)),
        ]

    def __str__(self) -> str:
        about = {"who": self.user.get_username(), "device": self.device}
        return gettext("GPUs of %(device)s, borrowed by %(who)s") % about

    def may_be_ended_by(self, user: Any) -> bool:
        return may_manage(user) or self.user_id == user.pk

    def end(self, now: datetime) -> bool:
        """Give its GPUs back. Whether it was open; twice is once."""
        with transaction.atomic():
            if not Borrow.objects.open().filter(pk=self.pk).update(ended_at=now):
                return False
            GPUClaim.objects.filter(borrow=self).delete()
        self.ended_at = now
        wake.publish_on_commit("device", self.device_id)
        wake.ask_dispatch()
        return True
