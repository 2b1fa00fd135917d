"""Keys for people's scripts. Only a digest is kept; the key itself is shown once."""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

#: Public, so that a leaked token is recognised.
PREFIX = "labp_"
#: What is shown of one later, to tell it from others.
SHOWN_CHARACTERS = 4
#: The time of use is written no more often than that.
USE_NOTED_EVERY = timedelta(minutes=1)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class ApiTokenQuerySet(models.QuerySet):
    def valid(self, now: datetime) -> "ApiTokenQuerySet":
        unended = Q(expires_at=None) | Q(expires_at__gt=now)
        return self.filter(unended, revoked_at=None)


class ApiToken(models.Model):
    """Lets a script do what its person may. Several a person, each with a name."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_tokens", editable=False
    )
    name = models.CharField(_("name"), max_length=64)
    sha256 = models.CharField(max_length=64, unique=True, editable=False)
    ending = models.CharField(max_length=8, editable=False)
    created_at = models.DateTimeField(editable=False)
    expires_at = models.DateTimeField(_("expires"), null=True, editable=False)
    last_used_at = models.DateTimeField(_("last used"), null=True, editable=False)
    revoked_at = models.DateTimeField(_("revoked"), null=True, editable=False)

    objects = ApiTokenQuerySet.as_manager()

    AUDITED = ("name", "expires_at", "revoked_at")

    class Meta:
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.name} (…{self.ending})"

    @classmethod
    def make(
        cls, user: Any, name: str, now: datetime, life: timedelta | None = None
    ) -> tuple["ApiToken", str]:
        """A new one of 160 bits: the row, and the key that is shown once.

        Args:
            life: how long it holds; None: until it is revoked.
        """
        key = PREFIX + secrets.token_hex(20)
        token = cls.objects.create(
            user=user,
            name=name,
            sha256=digest(key),
            ending=key[-SHOWN_CHARACTERS:],
            created_at=now,
            expires_at=now + life if life else None,
        )
        return token, key

    def revoke(self, now: datetime) -> None:
        """Make it worthless, from the next request on. Twice is once."""
        ApiToken.objects.filter(pk=self.pk, revoked_at=None).update(revoked_at=now)
        self.refresh_from_db(fields=["revoked_at"])

    def note_use(self, now: datetime) -> None:
        unnoted = Q(last_used_at=None) | Q(last_used_at__lte=now - USE_NOTED_EVERY)
        if self.last_used_at is None or self.last_used_at <= now - USE_NOTED_EVERY:
            ApiToken.objects.filter(unnoted, pk=self.pk).update(last_used_at=now)

    def is_valid(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)
