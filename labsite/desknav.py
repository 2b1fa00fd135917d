"""The desk's sidebar: its tables by what one comes for, and not by the app that has them."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from devices.models import GPU, Device, EnrollmentCode, EnrollmentUse, GPUEvent
from experiments.models import (
    Attempt,
    GPUClaim,
    Job,
    JobEvent,
    Member,
    Project,
    Sweep,
    UnixAccount,
)
from people.models import ApiToken, AuditEntry, Invite
from sync.models import SyncFile, Trash, Upload

#: The tables of each group, those that are opened most first.
GROUPS: list[tuple[Any, list[type[Model]]]] = [
    (_("GPU servers"), [Device, GPU, GPUEvent, EnrollmentCode, EnrollmentUse]),
    (_("Runs"), [Job, Attempt, GPUClaim, Sweep, JobEvent]),
    (_("Projects and files"), [Project, Member, SyncFile, Upload, Trash]),
    (_("People"), [User, Group, UnixAccount, Invite, ApiToken, AuditEntry]),
]


def groups(request: HttpRequest) -> list[dict[str, Any]]:
    """unfold's SIDEBAR["navigation"]; of each group what this person may open."""
    return [
        {"title": title, "items": [_item(model) for model in models if _may_open(request, model)]}
        for title, models in GROUPS
    ]


def _may_open(request: HttpRequest, model: type[Model]) -> bool:
    return admin.site._registry[model].has_view_permission(request)


def _item(model: type[Model]) -> dict[str, str]:
    about = model._meta
    link = reverse(f"admin:{about.app_label}_{about.model_name}_changelist")
    return {"title": capfirst(str(about.verbose_name_plural)), "link": link}
