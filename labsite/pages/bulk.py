"""What is done to the runs that are ticked in a table: one verb, each run for itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext, ngettext_lazy
from django.views.decorators.http import require_POST

from experiments.deciding import changed_by
from experiments.models import Job
from experiments.table.tags import checked, tags_of
from labsite.clock import database_now
from labsite.errors import Refused
from labsite.pages.access import back_of, may_change, posted

MOST_RUNS = 500
#: So many refusals are told one by one.
TOLD = 10

Do = Callable[[Job, HttpRequest], Any]


@dataclass(frozen=True)
class Verb:
    do: Do
    done: Promise  # of so many runs
    question: str | Promise = ""  # asked before, where it is not easily taken back
    yes: str | Promise = ""
    is_of_live: bool = False  # what has ended is left as it is


def _add_tags(job: Job, request: HttpRequest) -> None:
    more = tags_of(posted(request, "tags"))
    if not more:
        raise Refused(_("Write the tags, with commas between."))
    job.edit(tags=checked([*job.tags, *more]), by=request.user)


def _take_tags(job: Job, request: HttpRequest) -> None:
    gone = set(tags_of(posted(request, "tags")))
    if not gone:
        raise Refused(_("Write the tags, with commas between."))
    job.edit(tags=[tag for tag in job.tags if tag not in gone], by=request.user)


VERBS = {
    "tag": Verb(_add_tags, ngettext_lazy("%(n)d run was tagged.", "%(n)d runs were tagged.", "n")),
    "untag": Verb(
        _take_tags,
        ngettext_lazy("A tag was taken off %(n)d run.", "Tags were taken off %(n)d runs.", "n"),
    ),
    "cancel": Verb(
        lambda job, request: job.cancel(by=request.user),
        ngettext_lazy("%(n)d run is being cancelled.", "%(n)d runs are being cancelled.", "n"),
        gettext_lazy("Cancel these runs? What runs is stopped; what has arrived is kept."),
        gettext_lazy("Yes, cancel them"),
        is_of_live=True,
    ),
    "requeue": Verb(
        lambda job, request: job.requeue(by=request.user),
        ngettext_lazy(
            "%(n)d run goes back into the queue.", "%(n)d runs go back into the queue.", "n"
        ),
        gettext_lazy(
            "Stop these runs and put them back into the queue? They go on from their newest "
            "checkpoint, or from the beginning."
        ),
        gettext_lazy("Yes, requeue them"),
    ),
    "delete": Verb(
        lambda job, request: job.delete_run(database_now(), by=request.user),
        ngettext_lazy("%(n)d run was deleted.", "%(n)d runs were deleted.", "n"),
        gettext_lazy(
            "Delete these runs with all their files? They go to the trash of their project, from "
            "where they can be restored for a while."
        ),
        gettext_lazy("Yes, delete them"),
    ),
}


@dataclass
class Outcome:
    done: list[Job] = field(default_factory=list)
    refused: list[tuple[Job, str]] = field(default_factory=list)


@login_required
@require_POST
def act(request: HttpRequest) -> HttpResponse:
    """`verb` is one of VERBS, or `compare`; `run` the identifiers."""
    back = back_of(request, reverse("runs"))
    uids = list(dict.fromkeys(filter(None, map(_slug, request.POST.getlist("run")))))[:MOST_RUNS]
    name = request.POST.get("verb", "")
    if name == "compare" and uids:
        return redirect(f"{reverse('compare')}?runs={','.join(uids)}")
    visible = Job.objects.visible_to(request.user).present().select_related("project")
    jobs = list(visible.filter(uid__in=uids).order_by("pk"))
    verb = VERBS.get(name)
    if verb is None or not jobs:
        messages.error(request, _("Tick the runs, then choose what to do with them."))
        return redirect(back)
    if verb.question and "sure" not in request.POST:
        return _ask(request, name, verb, jobs, back)
    _tell(request, verb, _do_all(request, name, jobs))
    return redirect(back)


def _slug(uid: str) -> str:
    """The identifier in what a form says; nothing else of it gets into an address or a query."""
    return "".join(sign for sign in uid if sign.isalnum() or sign == "_")[:32]


def _ask(
    request: HttpRequest, name: str, verb: Verb, jobs: Sequence[Job], back: str
) -> HttpResponse:
    ours = [job for job in jobs if may_change(request.user, job)]
    ended = [job for job in ours if verb.is_of_live and job.has_ended]
    context = {
        "question": verb.question, "yes": verb.yes, "verb": name, "back": back, "ended": ended,
        "jobs": [job for job in ours if job not in ended],
        "others": [job for job in jobs if job not in ours],
    }  # fmt: skip
    return render(request, "pages/sure_runs.html", context)


def _do_all(request: HttpRequest, name: str, jobs: Sequence[Job]) -> Outcome:
    outcome, verb = Outcome(), VERBS[name]
    for job in jobs:
        if not may_change(request.user, job):
            outcome.refused.append((job, _("it is somebody else's")))
            continue
        try:
            with changed_by(request.user, job, name):
                verb.do(job, request)
        except Refused as refused:
            outcome.refused.append((job, str(refused)))
        else:
            outcome.done.append(job)
    return outcome


def _tell(request: HttpRequest, verb: Verb, outcome: Outcome) -> None:
    if outcome.done:
        messages.success(request, verb.done % {"n": len(outcome.done)})
    for job, words in outcome.refused[:TOLD]:
        messages.error(request, words if str(job) in words else f"{job}: {words}")
    more = len(outcome.refused) - TOLD
    if more > 0:
        words = ngettext("%(n)d more run was refused.", "%(n)d more runs were refused.", more)
        messages.error(request, words % {"n": more})
