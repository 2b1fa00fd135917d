"""Runs: the list that finds one."""

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from experiments.models import Job
from experiments.states import JobState
from labsite.clock import database_now
from labsite.pages.access import asked
from labsite.pages.queue import lines

PAGE = 50


@login_required
@require_safe
def runs(request: HttpRequest) -> HttpResponse:
    """The newest first; `q` finds by project, run, name, user or identifier."""
    words, state = asked(request, "q"), asked(request, "state")
    mine = request.GET.get("whose") == "mine"
    found = _found(words, state, request.user if mine else None)
    page = Paginator(found, PAGE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "lines": lines(page.object_list, request.user, database_now(), PAGE),
        "words": words,
        "state": state,
        "states": JobState.choices,
        "mine": mine,
        "query": _query(request),
    }
    if "part" in request.GET:
        return render(request, "parts/runs.html", context)
    return render(request, "pages/runs.html", context)


def _found(words: str, state: str, user) -> QuerySet[Job]:
    jobs = Job.objects.present().select_related("project", "user").order_by("-id")
    if user is not None:
        jobs = jobs.filter(user=user)
    if state in JobState.values:
        jobs = jobs.filter(state=state)
    for word in words.replace("/", " ").split()[:8]:
        jobs = jobs.filter(_matches(word))
    return jobs


def _matches(word: str) -> Q:
    number = word.removeprefix("run_")
    match = (
        Q(project__name__icontains=word)
        | Q(name__icontains=word)
        | Q(uid__startswith=word)
        | Q(user__username__icontains=word)
    )
    if number.isascii() and number.isdigit() and len(number) <= 9:
        match |= Q(run_number=int(number))
    return match


def _query(request: HttpRequest) -> str:
    """The reader's choice as a query, without the page and the part."""
    query = request.GET.copy()
    for name in ("page", "part"):
        query.pop(name, None)
    return query.urlencode()
