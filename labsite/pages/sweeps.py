"""Sweeps: how one stands, which of its runs is the best, and what is done to all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_POST, require_safe

from experiments.deciding import changed_by
from experiments.grid import MAX_RUNNING
from experiments.models import Job, Sweep, counts_of
from experiments.states import ENDED, JobState, Priority
from labsite.clock import database_now
from labsite.errors import Refused
from labsite.pages import differing
from labsite.pages.access import asked, back_of, may_change, require_change
from labsite.pages.queue import Line, lines, priorities
from labsite.pages.ranking import Scores, heat_of, scores_of
from labsite.pages.states import Badge, state_badge
from sync.curves import together
from sync.models import SyncFile

PAGE = 100
LISTED = 50
#: So many curves can be told apart at a glance, or nearly.
DRAWN = 40
COMPARED = 20
PARTS = {
    "head": "parts/sweep_head.html",
    "metric": "parts/sweep_metric.html",
    "runs": "parts/sweep_runs.html",
}


@dataclass(frozen=True)
class Row:
    """One run of the sweep."""

    line: Line
    values: list[str]  # of the swept keys, in their order
    best: float | None
    last: float | None
    is_winner: bool


@dataclass(frozen=True)
class Listed:
    """One sweep in the list."""

    sweep: Sweep
    badges: list[Badge]
    runs: int


@login_required
@require_safe
def sweeps(request: HttpRequest) -> HttpResponse:
    """`project`: only those of this one."""
    found = Sweep.objects.visible_to(request.user).present().select_related("project", "user")
    project = asked(request, "project")
    if project:
        found = found.filter(project__name=project)
    page = Paginator(found, LISTED).get_page(request.GET.get("page"))
    counts = counts_of(page.object_list)
    shown = [
        Listed(one, _badges(counts[one.pk]), sum(counts[one.pk].values()))
        for one in page.object_list
    ]
    context = {"sweeps": shown, "page": page, "of_project": project}
    if "part" in request.GET:
        return render(request, "parts/sweeps.html", context)
    return render(request, "pages/sweeps.html", context)


@login_required
@require_safe
def sweep(request: HttpRequest, pk: str) -> HttpResponse:
    found = _sweep(request, pk)
    part = request.GET.get("part")
    if part is not None and part not in PARTS:
        raise Http404
    context = {"sweep": found, "may_change": may_change(request.user, found)}
    if part in (None, "head"):
        context |= _head(found, request.user)
    if part != "head":
        context |= _table(found, request)
    return render(request, PARTS.get(part or "", "pages/sweep.html"), context)


@login_required
@require_safe
def curve(request: HttpRequest, pk: str) -> JsonResponse:
    """The curves of one metric of all of its runs, the best ones where they are too many."""
    found = _sweep(request, pk)
    summaries, swept = _summaries(found)
    scores = _scores(found, summaries, request)
    chosen = scores.order[:DRAWN]
    jobs = Job.objects.select_related("project").in_bulk(chosen)
    drawn = together.curves_of([jobs[pk] for pk in chosen if pk in jobs], scores.metric)
    for one in drawn["runs"]:
        one["words"] = _point_words(found.keys, swept[one["job"]])
    # Also those of runs that have no value yet: what a page asks for anew when they grow.
    files = SyncFile.objects.results().filter(job__in=list(swept)).values_list("pk", flat=True)
    drawn["files"] = sorted(files)
    answer = {"metric": scores.metric, "best": scores.winner, "all": len(scores.order), **drawn}
    return JsonResponse(answer, headers={"Cache-Control": "no-store"})


def _sweep(request: HttpRequest, pk: str) -> Sweep:
    visible = Sweep.objects.visible_to(request.user).present()
    return get_object_or_404(visible.select_related("project", "user"), pk=pk)


# --- how it stands -------------------------------------------------------------------------------


def _head(sweep: Sweep, user: Any) -> dict[str, Any]:
    counts = sweep.counts()
    total = sum(counts.values())
    ended = sum(counts.get(state, 0) for state in ENDED)
    words = _("%(done)d of %(total)d runs ended") % {"done": ended, "total": total}
    return {
        "badges": _badges(counts),
        "total": total,
        "progress": {"words": words, "percent": round(100 * ended / total) if total else 0},
        "is_alive": bool(counts.get(JobState.RUNNING) or counts.get(JobState.ASSIGNED)),
        "waits": counts.get(JobState.QUEUED, 0),
        "held": counts.get("held", 0),
        "failed": counts.get(JobState.FAILED, 0),
        "has_ended": ended == total,
        "priorities": priorities(user),
        "varied": _point_words(sweep.keys, None),
    }


def _badges(counts: dict[str, int]) -> list[Badge]:
    order = [JobState.RUNNING, JobState.ASSIGNED, JobState.QUEUED, "held", *ENDED]
    return [state_badge(state).counted(counts[state]) for state in order if counts.get(state)]


def _summaries(sweep: Sweep) -> tuple[dict[int, Any], dict[int, Any]]:
    rows = list(sweep.newest_runs().order_by("pk").values_list("pk", "summary", "swept"))
    return {pk: one for pk, one, _swept in rows}, {pk: values for pk, _one, values in rows}


def _scores(sweep: Sweep, summaries: dict[int, Any], request: HttpRequest) -> Scores:
    """By the reader's choice. A goal counts only for the metric `of` which it was chosen: who
    takes another metric has not yet said which way that one is better."""
    metric, goal = asked(request, "metric"), asked(request, "goal")
    goal = goal if asked(request, "of") in ("", metric) else ""
    return scores_of(summaries, metric, goal, sweep.project)


def _table(sweep: Sweep, request: HttpRequest) -> dict[str, Any]:
    summaries, swept = _summaries(sweep)
    scores = _scores(sweep, summaries, request)
    sort = asked(request, "sort")
    order = _order(list(summaries), scores, sort)
    page = Paginator(order, PAGE).get_page(request.GET.get("page"))
    rows = _rows(sweep, list(page.object_list), scores, swept, request)
    best = scores.winner
    return {
        "scores": scores,
        "page": page,
        "rows": rows,
        "sort": sort,
        "query": _query(request),
        "heat": heat_of(sweep.keys, swept, scores),
        "best_words": _point_words(sweep.keys, swept[best]) if best else "",
        "best_value": scores.best[best] if best else None,
        "best_job": next((row.line.job for row in rows if row.is_winner), None),
        "compared": ",".join(_uids(sweep, scores)),
        "tokens": _tokens(sweep, rows),
    }


def _order(pks: list[int], scores: Scores, sort: str) -> list[int]:
    """By number; or the best first, and then those without a value."""
    if sort != "best":
        return pks
    ranked = scores.order
    return ranked + [pk for pk in pks if pk not in scores.best]


def _rows(
    sweep: Sweep, pks: list[int], scores: Scores, swept: dict[int, Any], request: HttpRequest
) -> list[Row]:
    jobs: QuerySet[Job] = Job.objects.filter(pk__in=pks).select_related("project", "user")
    by_pk = {line.job.pk: line for line in lines(jobs, request.user, database_now(), PAGE)}
    winner = scores.winner
    return [
        Row(
            by_pk[pk],
            [_value(swept[pk], key) for key in sweep.keys],
            scores.best.get(pk),
            scores.last.get(pk),
            pk == winner,
        )
        for pk in pks
        if pk in by_pk
    ]


def _value(values: dict[str, Any], key: str) -> str:
    return differing.shown(values[key]) if key in values else ""


def _point_words(keys: list[str], values: dict[str, Any] | None) -> str:
    if values is None:
        return ", ".join(keys)
    return ", ".join(f"{key}={_value(values, key)}" for key in keys if key in values)


def _uids(sweep: Sweep, scores: Scores) -> list[str]:
    """Of the best, for the page that compares runs."""
    chosen = scores.order[:COMPARED]
    uids = dict(Job.objects.filter(pk__in=chosen).values_list("pk", "uid"))
    return [uids[pk] for pk in chosen if pk in uids]


def _tokens(sweep: Sweep, rows: list[Row]) -> str:
    """What the table listens for: the sweep's runs, and the metrics of those that run."""
    live = [row.line.job for row in rows if row.line.job.is_live]
    names = [f"{job.run_name}.csv" for job in live]
    files = SyncFile.objects.results().filter(job__in=live, name__in=names)
    tokens = [f"file:{pk}" for pk in files.values_list("pk", flat=True)]
    if len(tokens) < len(live):
        tokens = ["file"]  # any, until each has its own
    return " ".join([f"sweep:{sweep.pk}", *tokens])


def _query(request: HttpRequest) -> str:
    query = request.GET.copy()
    for name in ("page", "part"):
        query.pop(name, None)
    return query.urlencode()


# --- what is done to all of them -----------------------------------------------------------------


def _cancel(sweep: Sweep, request: HttpRequest) -> str:
    told = changed_by(request.user, sweep, "cancel")
    n = sweep.cancel(by=request.user, told=told)
    words = ngettext("%(n)d run was cancelled.", "%(n)d runs were cancelled.", n)
    return words % {"n": n}


def _rerun_failed(sweep: Sweep, request: HttpRequest) -> str:
    n = sweep.rerun_failed(by=request.user)
    words = ngettext("%(n)d run is queued again.", "%(n)d runs are queued again.", n)
    return words % {"n": n}


def _hold(sweep: Sweep, request: HttpRequest) -> str:
    n = sweep.hold(True, by=request.user)
    words = ngettext("%(n)d run is kept queued.", "%(n)d runs are kept queued.", n)
    return words % {"n": n}


def _unhold(sweep: Sweep, request: HttpRequest) -> str:
    n = sweep.hold(False, by=request.user)
    words = ngettext("%(n)d run was let go.", "%(n)d runs were let go.", n)
    return words % {"n": n}


def _priority(sweep: Sweep, request: HttpRequest) -> str:
    name = request.POST.get("priority", "").upper()
    if name not in Priority.__members__:
        raise Refused(_("Choose one of the priorities."))
    n = sweep.set_priority(Priority[name], by=request.user)
    words = ngettext(
        "The priority of %(n)d run was changed.", "The priority of %(n)d runs was changed.", n
    )
    return words % {"n": n}


def _at_a_time(sweep: Sweep, request: HttpRequest) -> str:
    text = request.POST.get("max_running", "").strip()
    is_number = text.isascii() and text.isdecimal() and len(text) < 6
    if text and not (is_number and 1 <= int(text) <= MAX_RUNNING):
        words = _("Write how many may run at a time, from 1 to %(n)d, or leave it empty.")
        raise Refused(words % {"n": MAX_RUNNING})
    sweep.set_max_running(int(text) if text else None)
    if not text:
        return _("As many of its runs as fit may run at a time now.")
    words = ngettext(
        "At most %(n)d of its runs runs at a time now.",
        "At most %(n)d of its runs run at a time now.",
        int(text),
    )
    return words % {"n": int(text)}


def _delete(sweep: Sweep, request: HttpRequest) -> str:
    n = sweep.delete_runs(database_now(), by=request.user)
    words = ngettext(
        "%(n)d run was deleted. It can be restored from the trash here for a while.",
        "%(n)d runs were deleted. They can be restored from the trash here for a while.",
        n,
    )
    return words % {"n": n}


VERBS: dict[str, Callable[[Sweep, HttpRequest], str]] = {
    "cancel": _cancel,
    "rerun-failed": _rerun_failed,
    "hold": _hold,
    "unhold": _unhold,
    "priority": _priority,
    "at-a-time": _at_a_time,
    "delete": _delete,
}
#: What is asked before: the question, and the words of yes and no.
QUESTIONS = {
    "cancel": (
        gettext_lazy("Cancel all runs of %(sweep)s that wait or run?"),
        gettext_lazy("Yes, cancel them"),
        gettext_lazy("No, let them run"),
    ),
    "delete": (
        gettext_lazy(
            "Delete all runs of %(sweep)s with all their files? They go to the trash of their "
            "project, from where they can be restored for a while."
        ),
        gettext_lazy("Yes, delete them"),
        gettext_lazy("No, keep them"),
    ),
}


def _do(verb: str, sweep: Sweep, request: HttpRequest) -> str:
    if verb == "cancel":
        return _cancel(sweep, request)  # in several transactions
    with changed_by(request.user, sweep, verb):
        return VERBS[verb](sweep, request)


@login_required
@require_POST
def act(request: HttpRequest, pk: str, verb: str) -> HttpResponse:
    found = _sweep(request, pk)
    require_change(request.user, found)
    if verb in QUESTIONS and "sure" not in request.POST:
        question, yes, no = QUESTIONS[verb]
        context = {
            "question": question % {"sweep": found}, "yes": yes, "no": no,
            "action": request.path, "back": back_of(request, reverse("sweep", args=[found.pk])),
        }  # fmt: skip
        return render(request, "pages/sure.html", context)
    try:
        messages.success(request, _do(verb, found, request))
    except Refused as refused:
        messages.error(request, str(refused))
    gone = verb == "delete" and not found.jobs.present().exists()
    return (
        redirect("project", name=found.project.name)
        if gone
        else redirect(back_of(request, reverse("sweep", args=[found.pk])))
    )
