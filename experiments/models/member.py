"""Who belongs to a project, and as what."""

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


class MemberRole(models.TextChoices):
    """Each may all that those before it may. In a project of the whole lab everybody works."""

    LOOK = "look", _("looks")
    WORK = "work", _("works")
    LEAD = "lead", _("leads")


WORKS = (MemberRole.WORK, MemberRole.LEAD)
LEADS = (MemberRole.LEAD,)


class Member(models.Model):
    """A person's place in a project. Its maker leads it without a row."""

    project = models.ForeignKey(
        "experiments.Project", models.CASCADE, related_name="members", editable=False
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="memberships", editable=False,
        verbose_name=_("user"),
    )  # fmt: skip
    role = models.CharField(
        _("role"), max_length=8, choices=MemberRole, default=MemberRole.WORK, editable=False
    )

    AUDITED = ("role",)

    class Meta:
        verbose_name = _("member")
        verbose_name_plural = _("members")
        ordering = ["user__username"]
        constraints = [
            models.UniqueConstraint(fields=["project", "user"], name="member_once"),
            models.CheckConstraint(
                condition=Q(role__in=MemberRole.values), name="member_role_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.project}"

    @classmethod
    def put(cls, project: Any, user: Any, role: MemberRole) -> "Member":
        """Give `user` that place in the project, whatever they had."""
        return cls.objects.update_or_create(project=project, user=user, defaults={"role": role})[0]
