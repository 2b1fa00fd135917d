"""Who may change what by the API. Looking is a matter of querysets: `visible_to`."""

from django.utils.translation import gettext_lazy as _
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request

from experiments.models import (
    Borrow,
    Job,
    Project,
)
from people.auth import MayWrite


class OwnersChange(MayWrite):
    """A job is changed by who submitted it, and by managers."""

    message = _("This run is somebody else's; its owner or a manager may do this.")

    def has_object_permission(self, request: Request, view, job: Job) -> bool:
        return request.method in SAFE_METHODS or job.may_be_changed_by(request.user)


class LeadsChange(MayWrite):
    message = _("Only its maker or a manager may change this.")

    def has_object_permission(self, request: Request, view, project: Project) -> bool:
        return request.method in SAFE_METHODS or project.may_be_changed_by(request.user)


class BorrowersEnd(MayWrite):
    message = _("Somebody else borrowed it; they or a manager may return it.")

    def has_object_permission(self, request: Request, view, borrow: Borrow) -> bool:
        return request.method in SAFE_METHODS or borrow.may_be_ended_by(request.user)
