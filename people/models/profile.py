"""A person beside their account: their role where Django has no word for it, and their wishes."""

import zoneinfo
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from people.errors import NotDone
from people.roles import Role, may_give, role_of


class Theme(models.TextChoices):
    SYSTEM = "system", _("System")
    LIGHT = "light", _("Light")
    DARK = "dark", _("Dark")


def check_zone(name: str) -> None:
    if name not in zoneinfo.available_timezones():
        raise ValidationError(gettext("This is no time zone. Write one such as Asia/Seoul."))


class Profile(models.Model):
    """Made when there is something to say; who has none is a researcher without wishes."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="profile",
        verbose_name=_("user"),
    )  # fmt: skip
    looks_only = models.BooleanField(_("looks only"), default=False, editable=False)
    #: Of the pages; empty: as the browser says.
    language = models.CharField(
        _("language"), max_length=8, blank=True, choices=settings.LANGUAGES
    )
    theme = models.CharField(_("theme"), max_length=8, choices=Theme, default=Theme.SYSTEM)
    time_zone = models.CharField(
        _("time zone"), max_length=64, blank=True, validators=[check_zone]
    )

    class Meta:
        verbose_name = _("profile")
        verbose_name_plural = _("profiles")
        ordering = ["user"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(theme__in=Theme.values), name="profile_theme_known"
            )
        ]

    def __str__(self) -> str:
        return str(self.user)

    @classmethod
    def of(cls, user: Any) -> "Profile":
        """Theirs, or one that is not stored yet."""
        return getattr(user, "profile", None) or cls(user=user)

    @classmethod
    def wish(cls, user: Any, **wishes: str) -> "Profile":
        """How they want the pages: `language`, `theme`, `time_zone`."""
        return cls.objects.update_or_create(user=user, defaults=wishes)[0]

    @staticmethod
    def set_role(user: Any, role: Role, *, by: Any = None) -> None:
        """Make them a `role`. `by` None: the server itself.

        Raises:
            NotDone: `by` may not, or the lab would be left without an administrator.
        """
        with transaction.atomic():
            check_may_change(user, by=by)
            if by is not None and not may_give(by, role):
                raise NotDone(
                    gettext("Only an administrator may make somebody a manager or administrator.")
                )
            if role != Role.ADMINISTRATOR:
                check_another_administrator(user)
            people = type(user)._default_manager.filter(pk=user.pk)
            user.is_superuser = role == Role.ADMINISTRATOR
            user.is_staff = role in (Role.MANAGER, Role.ADMINISTRATOR)
            people.update(is_superuser=user.is_superuser, is_staff=user.is_staff)
            Profile.objects.update_or_create(
                user=user, defaults={"looks_only": role == Role.VIEWER}
            )
            user.refresh_from_db()

    @staticmethod
    def set_active(user: Any, active: bool, *, by: Any = None) -> None:
        """Let them sign in, or not any more; what is theirs stays, and their jobs go on.

        Raises:
            NotDone: `by` may not, it is `by`, or the lab would be left without an administrator.
        """
        with transaction.atomic():
            check_may_change(user, by=by)
            if not active:
                check_another_administrator(user)
            type(user)._default_manager.filter(pk=user.pk).update(is_active=active)
            user.is_active = active


def check_may_change(user: Any, *, by: Any = None) -> None:
    """Whether `by` may decide about the account: not about one's own, nor one of higher rank.

    Raises:
        NotDone: with the sentence to show.
    """
    if by is None:
        return
    if user.pk == by.pk:
        raise NotDone(gettext("This is your own account; somebody else has to do that."))
    if not may_give(by, role_of(user)):
        raise NotDone(
            gettext("Only an administrator may change a manager's or an administrator's account.")
        )


def check_another_administrator(user: Any) -> None:
    people = type(user)._default_manager.select_for_update(no_key=True)
    left = people.filter(is_superuser=True, is_active=True).exclude(pk=user.pk)
    if user.is_superuser and not left.exists():
        raise NotDone(
            gettext("%(user)s is the only administrator: make another one first.") % {"user": user}
        )
