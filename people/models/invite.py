"""How new people are let in: by a link that a manager makes."""

import secrets
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import models, transaction
from django.db.models import F
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from people.errors import NotDone, WrongInvite
from people.models.profile import Profile
from people.models.token import digest
from people.roles import Role, may_give

LIFE = timedelta(days=7)
MOST_USES = 200
WORTHLESS = _("This invitation does not hold any more. Ask your lab manager for a new one.")


class InviteQuerySet(models.QuerySet):
    def open(self, now: datetime) -> "InviteQuerySet":
        """Those by which somebody can still come in."""
        return self.filter(uses_left__gt=0, expires_at__gt=now)


class Invite(models.Model):
    """Lets new people in, as one role. Only its digest is kept; the code is shown once."""

    code_sha256 = models.CharField(max_length=64, unique=True, editable=False)
    role = models.CharField(_("role"), max_length=16, choices=Role, editable=False)
    note = models.CharField(_("for whom"), max_length=128, blank=True, editable=False)
    created_at = models.DateTimeField(editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="invites",
        editable=False,
    )  # fmt: skip
    expires_at = models.DateTimeField(_("expires"), editable=False)
    uses_left = models.PositiveSmallIntegerField(_("uses left"), default=1, editable=False)

    objects = InviteQuerySet.as_manager()

    AUDITED = ("role", "note", "expires_at", "uses_left")

    class Meta:
        verbose_name = _("invitation")
        verbose_name_plural = _("invitations")
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(role__in=[Role.VIEWER, Role.RESEARCHER, Role.MANAGER]),
                name="invite_role",
            )
        ]

    def __str__(self) -> str:
        return self.note or gettext("invitation %(digest)s…") % {"digest": self.code_sha256[:8]}

    @classmethod
    def make(
        cls, role: Role, now: datetime, *, by: Any, uses: int = 1, note: str = ""
    ) -> tuple["Invite", str]:
        """A new code of 128 bits: the row, and the text that is shown once.

        Raises:
            NotDone: `by` may not make anybody that role, or nobody may by a link.
        """
        if role == Role.ADMINISTRATOR or not may_give(by, role):
            raise NotDone(gettext("You may not invite anybody with this role."))
        code = secrets.token_urlsafe(16)
        invite = cls.objects.create(
            code_sha256=digest(code), role=role, note=note, created_at=now, created_by=by,
            expires_at=now + LIFE, uses_left=uses,
        )  # fmt: skip
        return invite, code

    @classmethod
    def of(cls, code: str, now: datetime) -> "Invite":
        """
        Raises:
            WrongInvite: unknown, used up, ended or expired.
        """
        found = cls.objects.open(now).filter(code_sha256=digest(code)).first()
        if found is None:
            raise WrongInvite(str(WORTHLESS))
        return found

    def end(self) -> None:
        """Let nobody in by it any more."""
        Invite.objects.filter(pk=self.pk).update(uses_left=0)
        self.uses_left = 0

    def join(self, name: str, password: str, full_name: str, now: datetime) -> Any:
        """Make the account of somebody who came by it, and return it.

        Raises:
            WrongInvite: somebody else used it up meanwhile.
        """
        with transaction.atomic():
            spent = Invite.objects.open(now).filter(pk=self.pk)
            if not spent.update(uses_left=F("uses_left") - 1):
                raise WrongInvite(str(WORTHLESS))
            user = get_user_model().objects.create_user(
                name, password=password, last_name=full_name
            )
            Profile.set_role(user, Role(self.role))
        return user
