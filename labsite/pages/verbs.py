"""The buttons: one POST, one verb of Job, and back to where the reader was."""

from collections.abc import Callable

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST

from experiments import submission
from experiments.models import Job
from experiments.states import Priority
from labsite.errors import Refused
from labsite.pages.access import require_change

Verb = Callable[[Job, HttpRequest], None]


def _set_priority(job: Job, request: HttpRequest) -> None:
    name = request.POST.get("priority", "").upper()
    if name not in Priority.__members__:
        raise Refused(_("Choose one of the priorities."))
    if name == "URGENT" and not request.user.is_staff:
        raise Refused(_("Only a manager may call a run urgent."))
    job.set_priority(Priority[name], by=request.user)


#: name in the address: what to do, and the sentence that says it was done.
VERBS: dict[str, tuple[Verb, str]] = {
    "cancel": (
        lambda job, request: job.cancel(by=request.user),
        gettext_lazy("%(run)s is being cancelled; it ends when its process has stopped."),
    ),
    "requeue": (
        lambda job, request: job.requeue(by=request.user),
        gettext_lazy("%(run)s is stopped and goes back into the queue."),
    ),
    "hold": (
        lambda job, request: job.hold(True, by=request.user),
        gettext_lazy("%(run)s is kept queued until it is let go."),
    ),
    "unhold": (
        lambda job, request: job.hold(False, by=request.user),
        gettext_lazy("%(run)s starts when it is its turn."),
    ),
    "priority": (_set_priority, gettext_lazy("The priority of %(run)s was changed.")),
    "elsewhere": (
        lambda job, request: job.give_up(requeue=True, by=request.user),
        gettext_lazy(
            "%(run)s was given up there and is queued again; what it still writes there is not "
            "mixed into the new try."
        ),
    ),
    "give-up": (
        lambda job, request: job.give_up(requeue=False, by=request.user),
        gettext_lazy("%(run)s was given up; what had arrived of it is kept."),
    ),
}
DONE_AT_ONCE = gettext_lazy("%(run)s was cancelled.")


@login_required
@require_POST
def act(request: HttpRequest, uid: str, verb: str) -> HttpResponse:
    job = get_object_or_404(Job.objects.present().select_related("project"), uid=uid)
    require_change(request.user, job)
    do, done = VERBS[verb]
    try:
        do(job, request)
    except Refused as refused:
        messages.error(request, str(refused))
    else:
        sentence = DONE_AT_ONCE if verb == "cancel" and job.has_ended else done
        messages.success(request, sentence % {"run": job})
    return redirect(_back(request, job))


@login_required
@require_POST
def rerun(request: HttpRequest, uid: str, *, resume: bool = False) -> HttpResponse:
    """Queue the same once more; anybody's run may be rerun or resumed as one's own."""
    job = get_object_or_404(Job.objects.present().select_related("project"), uid=uid)
    try:
        again = submission.rerun(job, by=request.user, resume=resume)
    except Refused as refused:
        messages.error(request, str(refused))
        return redirect(_back(request, job))
    messages.success(request, _("%(run)s is queued.") % {"run": again})
    return redirect("run", uid=again.uid)


def _back(request: HttpRequest, job: Job) -> str:
    """The page that the button stood on; the run's own where that is not ours."""
    back = request.POST.get("back", "")
    ours = url_has_allowed_host_and_scheme(back, {request.get_host()}, request.is_secure())
    return back if ours else f"/runs/{job.uid}/"
