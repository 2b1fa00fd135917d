"""How new devices are let in: by a code that a manager makes."""

import secrets
from datetime import datetime, timedelta

from django.conf import settings
from django.db import models, transaction
from django.db.models import F
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from agent import wire
from devices.errors import EnrollmentRefused
from devices.models.device import Device, check_unused
from devices.models.identity import digest

CODE_LIFE = timedelta(minutes=10)
#: A lost answer to an enrollment costs nothing: the same digest may ask again for so long.
REPEAT = timedelta(minutes=10)


class EnrollmentCode(models.Model):
    """Lets new devices in. Only its digest is kept; the code itself is shown once."""

    code_sha256 = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, editable=False
    )
    expires_at = models.DateTimeField(editable=False)
    uses_left = models.PositiveSmallIntegerField(default=1, editable=False)
    device = models.ForeignKey(
        Device, models.CASCADE, null=True, blank=True,
        help_text=_("Only for this device, which gets a new token. Empty: for a new one."),
    )  # fmt: skip
    is_local = models.BooleanField(default=False, editable=False)

    AUDITED = ("expires_at", "uses_left", "device__host_id")

    class Meta:
        verbose_name = _("enrollment code")
        verbose_name_plural = _("enrollment codes")
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return gettext("code %(digest)s…") % {"digest": self.code_sha256[:8]}

    @classmethod
    def make(
        cls, now: datetime, *, by=None, uses: int = 1, life: timedelta = CODE_LIFE, **fields
    ) -> tuple["EnrollmentCode", str]:
        """A new code of 128 bits: the row, and the text that is shown once."""
        text = secrets.token_hex(16)
        code = cls.objects.create(
            code_sha256=digest(text),
            expires_at=now + life,
            uses_left=uses,
            created_by=by,
            **fields,
        )
        return code, text

    def end(self) -> None:
        """Let nobody in by it any more."""
        EnrollmentCode.objects.filter(pk=self.pk).update(uses_left=0)
        self.uses_left = 0

    def enroll(self, request: wire.Enroll, now: datetime) -> Device:
        """Let the device in, or answer again what was answered before.

        Raises:
            EnrollmentRefused: the code is used up or expired, or names another device, or the
                name belongs to a machine that this code may not replace.
        """
        with transaction.atomic():
            if again := self._enrolled_before(request, now):
                return again
            self._spend(now)
            device = self._device_for(request)
            check_unused(request.token_sha256, device)
            Device.objects.filter(pk=device.pk).update(
                token_sha256=request.token_sha256,
                next_token_sha256=None,
                revoked_at=None,
                machine_id=request.machine_id,
            )
            EnrollmentUse.objects.create(
                code=self, device=device, token_sha256=request.token_sha256, at=now
            )
            device.refresh_from_db()
        return device

    def _enrolled_before(self, request: wire.Enroll, now: datetime) -> Device | None:
        use = (
            self.uses.filter(token_sha256=request.token_sha256, at__gte=now - REPEAT)
            .select_related("device")
            .first()
        )
        return use.device if use and use.device.host_id == request.host_id else None

    def _spend(self, now: datetime) -> None:
        spent = EnrollmentCode.objects.filter(
            pk=self.pk, uses_left__gt=0, expires_at__gt=now
        ).update(uses_left=F("uses_left") - 1)
        if not spent:
            raise EnrollmentRefused(
                "This enrollment code has been used or has expired. "
                "Ask a manager for a new one (Devices → Add a GPU server)."
            )

    def _device_for(self, request: wire.Enroll) -> Device:
        if self.device is not None:
            if self.device.host_id != request.host_id:
                raise EnrollmentRefused(
                    f"This code is for {self.device.host_id}, not for {request.host_id}. "
                    f"Use --host-id {self.device.host_id}, or ask for a code for a new device."
                )
            return self.device
        known = Device.objects.filter(host_id=request.host_id).first()
        if known is None:
            return Device.objects.create(host_id=request.host_id, is_local=self.is_local)
        if known.machine_id != request.machine_id and known.revoked_at is None:
            raise EnrollmentRefused(
                f"{request.host_id} is the name of another machine. Choose another name with "
                "--host-id, or ask a manager for a code for that device."
            )
        return known


class EnrollmentUse(models.Model):
    """Who came in by a code: so that a repeated request gets its first answer."""

    code = models.ForeignKey(EnrollmentCode, models.CASCADE, related_name="uses")
    device = models.ForeignKey(Device, models.CASCADE, related_name="enrollments")
    token_sha256 = models.CharField(max_length=64)
    at = models.DateTimeField()

    class Meta:
        verbose_name = _("enrollment")
        verbose_name_plural = _("enrollments")

    def __str__(self) -> str:
        return f"{self.device} ({self.at:%Y-%m-%d %H:%M})"
