"""The buttons: one POST, one verb of Job, and back to where the reader was."""

from collections.abc import Callable

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST

from experiments import moving, submission
from experiments.deciding import changed_by
from experiments.models import Job
from experiments.moving import Move
from experiments.states import Priority
from labsite.clock import database_now
from labsite.errors import Refused
from labsite.pages.access import back_of, posted, require_change, submitters_only

Verb = Callable[[Job, HttpRequest], None]


def _set_priority(job: Job, request: HttpRequest) -> None:
    name = request.POST.get("priority", "").upper()
    if name not in Priority.__members__:
        raise Refused(_("Choose one of the priorities."))
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
    "delete": (
        lambda job, request: job.delete_run(database_now(), by=request.user),
        gettext_lazy("%(run)s was deleted. It can be restored from the trash here for a while."),
    ),
}
#: What is asked before, on a page of its own, since it is not easily taken back: the question,
#: and the words of yes and no.
_GIVE_UP = gettext_lazy("Yes, give it up"), gettext_lazy("No, wait for the host")
QUESTIONS = {
    "elsewhere": (
        gettext_lazy(
            "Give up this try of %(run)s and run it elsewhere? It goes on there from its newest "
            "checkpoint, or from the beginning. If the host comes back, what runs on it is "
            "stopped."
        ),
        *_GIVE_UP,
    ),
    "give-up": (
        gettext_lazy(
            "Give up %(run)s for good? It counts as failed; what had arrived of it is kept. If "
            "the host comes back, what runs on it is stopped."
        ),
        *_GIVE_UP,
    ),
    "delete": (
        gettext_lazy(
            "Delete %(run)s with all its files? It goes to the trash of its project, from where "
            "it can be restored for a while. Its number is not given again; files of it that have "
            "not arrived yet stay on the GPU server and are not sent any more."
        ),
        gettext_lazy("Yes, delete it"),
        gettext_lazy("No, keep it"),
    ),
}
DONE_AT_ONCE = gettext_lazy("%(run)s was cancelled.")


@login_required
@require_POST
def act(request: HttpRequest, uid: str, verb: str) -> HttpResponse:
    job = _job(request, uid)
    require_change(request.user, job)
    if verb in QUESTIONS and "sure" not in request.POST:
        question, yes, no = QUESTIONS[verb]
        context = {
            "question": question % {"run": job}, "yes": yes, "no": no, "action": request.path,
            "back": _back(request, job),
        }  # fmt: skip
        return render(request, "pages/sure.html", context)
    do, done = VERBS[verb]
    try:
        with changed_by(request.user, job, verb):
            do(job, request)
    except Refused as refused:
        messages.error(request, str(refused))
    else:
        sentence = DONE_AT_ONCE if verb == "cancel" and job.has_ended else done
        messages.success(request, sentence % {"run": job})
    return redirect(_back(request, job))


@submitters_only
@require_POST
def move(request: HttpRequest, uid: str) -> HttpResponse:
    """Its place in the queue: `before` or `after` another (its uid), or `to` up, down, turn."""
    jobs = Job.objects.visible_to(request.user).present().select_related("project")
    job = get_object_or_404(jobs, uid=uid)
    require_change(request.user, job)
    try:
        moving.move(job, _wish(request), by=request.user)
    except Refused as refused:
        messages.error(request, str(refused))
    return redirect(f"{_back(request, job)}#w-{job.uid}")


def _wish(request: HttpRequest) -> Move:
    to = posted(request, "to")
    to = to if to in (moving.UP, moving.DOWN, moving.TURN) else ""
    return Move(before=posted(request, "before"), after=posted(request, "after"), to=to)


@submitters_only
@require_POST
def rerun(request: HttpRequest, uid: str, *, resume: bool = False) -> HttpResponse:
    """Queue the same once more; anybody's run may be rerun or resumed as one's own."""
    job = _job(request, uid)
    try:
        again = submission.rerun(job, by=request.user, resume=resume)
    except Refused as refused:
        messages.error(request, str(refused))
        return redirect(_back(request, job))
    messages.success(request, _("%(run)s is queued.") % {"run": again})
    return redirect("run", uid=again.uid)


def _job(request: HttpRequest, uid: str) -> Job:
    seen = Job.objects.visible_to(request.user).present()
    return get_object_or_404(seen.select_related("project"), uid=uid)


def _back(request: HttpRequest, job: Job) -> str:
    """The run's own page where the button stood on none; its project's when it is deleted."""
    if job.deleted_at:
        return reverse("project", args=[job.project.name])
    return back_of(request, reverse("run", args=[job.uid]))
