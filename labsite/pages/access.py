"""Who may do what on the pages: everybody signed in looks, owners and managers change."""

from collections.abc import Callable
from functools import wraps

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from experiments.models import Job

View = Callable[..., HttpResponse]


def managers_only(view: View) -> View:
    @login_required
    @wraps(view)
    def guarded(request: HttpRequest, *args, **kwargs) -> HttpResponse:
        if not request.user.is_staff:
            raise PermissionDenied(_("Only a manager may do this."))
        return view(request, *args, **kwargs)

    return guarded


def may_change(user, job: Job) -> bool:
    return user.is_staff or (user.pk is not None and job.user_id == user.pk)


def require_change(user, job: Job) -> None:
    """Raises: PermissionDenied, with the sentence to show."""
    if not may_change(user, job):
        raise PermissionDenied(
            _("This run is somebody else's; its owner or a manager may do this.")
        )


def asked(request: HttpRequest, name: str) -> str:
    """A word of the address; without NUL, which neither files nor PostgreSQL know."""
    return request.GET.get(name, "").replace("\x00", "").strip()
