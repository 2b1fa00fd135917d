"""What a person is in the lab, and what follows from it: asked here, and nowhere else.

Manager and administrator are Django's own `is_staff` and `is_superuser`, which its admin goes by;
that somebody only looks stands in their profile. A user without a profile is a researcher.
"""

from typing import Any

from django.db import models
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from people.errors import NotAllowed


class Role(models.TextChoices):
    """Each may all that those before it may."""

    VIEWER = "viewer", gettext_lazy("viewer")
    RESEARCHER = "researcher", gettext_lazy("researcher")
    MANAGER = "manager", gettext_lazy("manager")
    ADMINISTRATOR = "administrator", gettext_lazy("administrator")


#: Lowest first.
RANKS = list(Role)


def role_of(user: Any) -> Role:
    """Of somebody signed in; for an agent or nobody, which have no account, the lowest."""
    if user.pk is None:
        return Role.VIEWER
    if user.is_superuser:
        return Role.ADMINISTRATOR
    if user.is_staff:
        return Role.MANAGER
    profile = getattr(user, "profile", None)
    return Role.VIEWER if profile is not None and profile.looks_only else Role.RESEARCHER


def may_submit(user: Any) -> bool:
    """Whether they queue jobs, and change what is theirs."""
    return user.pk is not None and role_of(user) != Role.VIEWER


def may_manage(user: Any) -> bool:
    """Whether they change everybody's jobs, GPU servers and people."""
    return user.pk is not None and (user.is_staff or user.is_superuser)


def may_give(giver: Any, role: Role) -> bool:
    """Whether `giver` may make somebody a `role`: an administrator any, a manager what is below.

    Else a manager could make an account for an administrator, and sign in as it.
    """
    own = RANKS.index(role_of(giver))
    return may_manage(giver) and (giver.is_superuser or RANKS.index(role) < own)


def check_may_submit(user: Any) -> None:
    """
    Raises:
        NotAllowed: with the sentence to show.
    """
    if not may_submit(user):
        raise NotAllowed(
            _(
                "You are a viewer here: you see what runs, and start nothing. A manager can "
                "change that."
            )
        )
