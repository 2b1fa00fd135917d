"""Which Unix user a person is on GPU servers that run each job as its submitter."""

import re
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from agent import wire
from devices.models import Device
from experiments.errors import LostRace
from labsite import wake


def check_unix_name(name: str) -> None:
    """Whatever door it is set by: agents take it for an account, and for a folder's name."""
    if name == "root" or not re.fullmatch(wire.UNIX_USER_PATTERN, name):
        raise ValidationError(
            gettext("Write the name of a person's Unix account, such as kim; never root.")
        )


class UnixAccount(models.Model):
    """A person's Unix name. A manager sets it, never the person: it is a right, not a wish.

    Two people may share one. Without one, no job of theirs is given to a GPU server that runs
    jobs as their submitters.
    """

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="unix_account",
        verbose_name=_("user"),
    )  # fmt: skip
    name = models.CharField(
        _("Unix name"), max_length=64, validators=[check_unix_name],
        help_text=_(
            "The account on the GPU servers that this person's jobs run as, where a GPU server "
            "runs jobs as their submitters."
        ),
    )  # fmt: skip

    AUDITED = ("user__username", "name")

    class Meta:
        verbose_name = _("Unix account")
        verbose_name_plural = _("Unix accounts")
        ordering = ["user"]
        constraints = [
            models.CheckConstraint(condition=~Q(name__in=["", "root"]), name="unix_name_of_person")
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        super().save(*args, **kwargs)
        wake.ask_dispatch()  # a job of theirs may have waited for it


def unix_user(device: Device, user_id: int | None) -> str:
    """As whom a job of that user runs there; empty: nobody can tell, or nobody may."""
    if device.run_as == wire.JobUser.AGENT:
        return device.unix_user
    return UnixAccount.objects.filter(user=user_id).values_list("name", flat=True).first() or ""


def unix_user_for(user: Any, device: Device) -> str:
    """The same, for a job that is about to go there.

    Raises:
        LostRace: there is none any more, and it would run as nobody.
    """
    name = unix_user(device, user.pk if user else None)
    if not name and device.run_as == wire.JobUser.SUBMITTER:
        words = gettext("%(user)s has no Unix name, and would run as nobody on %(device)s.")
        raise LostRace(words % {"user": user, "device": device})
    return name
