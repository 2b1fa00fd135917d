"""The desk's sidebar: its tables by what one comes for, and not by the app that has them."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.db.models import Model
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from devices.models import GPU, Device, EnrollmentCode, EnrollmentUse, GPUEvent
from experiments.models import (
    Attempt,
    Borrow,
    Channel,
    GivenSecret,
    GPUClaim,
    Imported,
    Job,
    JobEvent,
    Member,
    PackageSet,
    Project,
    Secret,
    Snapshot,
    Sweep,
    UnixAccount,
)
from people.models import ApiToken, AuditEntry, Invite
from sync.models import SyncFile, Trash, Upload

#: The tables of each group, those that are opened most first.
GROUPS: list[tuple[Any, list[type[Model]]]] = [
    (_("GPU servers"), [Device, GPU, GPUEvent, EnrollmentCode, EnrollmentUse]),
    (_("Runs"), [Job, Attempt, GPUClaim, Borrow, Sweep, Imported, PackageSet, JobEvent]),
    (_("Projects and files"), [Project, Member, SyncFile, Snapshot, Upload, Trash]),
    (_("Secrets and notifications"), [Secret, GivenSecret, Channel]),
    (_("People"), [User, Group, UnixAccount, Invite, ApiToken, AuditEntry]),
]


def groups(request: HttpRequest) -> list[dict[str, Any]]:
    """unfold's SIDEBAR["navigation"]: what this person may open, each table in one group."""
    left = {
        table["model"]: {"title": table["name"], "link": table["admin_url"]}
        for app in admin.site.get_app_list(request)
        for table in app["models"]
    }
    found = [
        {"title": title, "items": [left.pop(model) for model in models if model in left]}
        for title, models in GROUPS
    ]
    return [*found, {"title": _("Others"), "items": list(left.values())}]
