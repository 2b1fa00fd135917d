"""Who may do what on the pages: everybody signed in looks, owners and managers change."""

from collections.abc import Callable, Iterable
from functools import cached_property, wraps
from typing import Any, TypeVar

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db.models import Prefetch
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _

from experiments.models import Attempt, Job, Project
from labsite.errors import Refused
from people.roles import check_may_submit, may_manage, may_submit

View = Callable[..., HttpResponse]
Tried = TypeVar("Tried")  # an Attempt, or what was read of one


def managers_only(view: View) -> View:
    @login_required
    @wraps(view)
    def guarded(request: HttpRequest, *args, **kwargs) -> HttpResponse:
        if not may_manage(request.user):
            raise PermissionDenied(_("Only a manager may do this."))
        return view(request, *args, **kwargs)

    return guarded


def submitters_only(view: View) -> View:
    @login_required
    @wraps(view)
    def guarded(request: HttpRequest, *args, **kwargs) -> HttpResponse:
        try:
            check_may_submit(request.user)
        except Refused as refused:
            raise PermissionDenied(str(refused)) from refused
        return view(request, *args, **kwargs)

    return guarded


def visible_run(request: HttpRequest, uid: str) -> Job:
    """A run that the reader may see, with its tries (`job.tries`), the newest first. Else 404."""
    tries = Attempt.objects.select_related("device").order_by("-number")
    jobs = Job.objects.visible_to(request.user).present()
    jobs = jobs.select_related("project", "user", "sweep", "snapshot", "imported")
    return get_object_or_404(
        jobs.prefetch_related(Prefetch("attempts", tries, to_attr="tries")), uid=uid
    )


def may_change(user, job: Job) -> bool:
    return job.may_be_changed_by(user)


def require_change(user, job: Job) -> None:
    """Raises: PermissionDenied, with the sentence to show."""
    if not may_change(user, job):
        raise PermissionDenied(
            _("This run is somebody else's; its owner or a manager may do this.")
        )


class Sight:
    """What one reader may be told of runs that hold a GPU or wait for one, whoever's they are:
    of a private project's only whose it is. One query at most, however many runs."""

    def __init__(self, user: Any) -> None:
        self._user = user

    @property
    def may_submit(self) -> bool:
        return may_submit(self._user)

    @property
    def may_manage(self) -> bool:
        return may_manage(self._user)

    @cached_property
    def hidden(self) -> frozenset[int]:
        """The keys of the projects that they do not see."""
        if self.may_manage:
            return frozenset()
        return frozenset(Project.hidden_from(self._user).values_list("pk", flat=True))

    def sees(self, job: Job) -> bool:
        return job.user_id == self._user.pk or job.project_id not in self.hidden


def asked(request: HttpRequest, name: str) -> str:
    """A word of the address; without NUL, which neither files nor PostgreSQL know."""
    return request.GET.get(name, "").replace("\x00", "").strip()


def posted(request: HttpRequest, name: str) -> str:
    """A field of the form, as asked()."""
    return request.POST.get(name, "").replace("\x00", "").strip()


def visible(attempts: Iterable[Tried], user) -> list[Tried]:
    """Those whose runs this user may see. Asked of their keys: within a query for the attempts
    themselves the question costs a look at every job that there is."""
    found = list(attempts)
    jobs = Job.objects.visible_to(user).filter(pk__in={one.job_id for one in found})
    shown = set(jobs.order_by().values_list("pk", flat=True))
    return [one for one in found if one.job_id in shown]


def back_of(request: HttpRequest, otherwise: str) -> str:
    """The page of ours that a button stood on (`back`)."""
    back = request.POST.get("back") or request.GET.get("back", "")
    ours = url_has_allowed_host_and_scheme(back, {request.get_host()}, request.is_secure())
    return back if ours and back.startswith("/") else otherwise  # else it may name a view
