"""How a reader's tables look: chosen columns, saved views, pinned runs."""

from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from experiments.models import Job, Pin, Project, SavedView
from experiments.table.columns import Ref, refs_of
from labsite.errors import Refused
from labsite.pages.access import back_of, posted
from labsite.pages.asking import MAX_TEXT, Asked, asked_in, usual
from people.roles import may_manage


def _project(request: HttpRequest) -> Project | None:
    """Whose table it is; None: that of all projects."""
    name = posted(request, "project")
    visible = Project.objects.visible_to(request.user)
    return get_object_or_404(visible, name=name) if name else None


def _base(project: Project | None) -> str:
    return reverse("project", args=[project.name]) if project else reverse("runs")


@login_required
@require_POST
def columns(request: HttpRequest) -> HttpResponse:
    """Show the chosen columns, in this order, now and from now on.

    `move` is `up column` or `down column`; `add` another column; `usual` those that are usual.
    """
    project = _project(request)
    asked = asked_in(request.POST, request.user, project)
    if "usual" in request.POST:
        refs = usual(project)
    else:
        words = [*request.POST.getlist("c"), *request.POST.getlist("add")]
        refs = _moved(refs_of(words), request.POST.get("move", "")) or usual(project)
    SavedView.remember_columns([ref.word for ref in refs], by=request.user, project=project)
    address = asked.address(columns=tuple(refs), names_columns=True)
    return redirect(f"{_base(project)}?{address}{'&choose=1' if 'move' in request.POST else ''}")


def _moved(refs: list[Ref], move: str) -> list[Ref]:
    way, _blank, word = move.partition(" ")
    at = next((at for at, ref in enumerate(refs) if ref.word == word), None)
    if at is None or way not in ("up", "down"):
        return refs
    to = at - 1 if way == "up" else at + 1
    if 0 <= to < len(refs):
        refs[at], refs[to] = refs[to], refs[at]
    return refs


@login_required
@require_POST
def save(request: HttpRequest) -> HttpResponse:
    """Keep what is asked under a name."""
    project = _project(request)
    asked = asked_in(request.POST, request.user, project)
    try:
        view = SavedView.save_as(
            posted(request, "name"),
            by=request.user,
            project=project,
            is_shared=request.POST.get("shared") == "1",
            **_spec(asked),
        )
    except Refused as refused:
        messages.error(request, str(refused))
        return redirect(f"{_base(project)}?{asked.address()}")
    messages.success(request, _("The view “%(name)s” is saved.") % {"name": view.name})
    return redirect(f"{_base(project)}?{urlencode({'view': view.pk})}")


def _spec(asked: Asked) -> dict[str, object]:
    """What is chosen beside the query becomes part of it."""
    more = ["user:me"] if asked.mine else []
    more += [f"state:{asked.state}"] if asked.state else []
    return {
        "query": " ".join(filter(None, [asked.query, *more]))[:MAX_TEXT],
        "columns": [ref.word for ref in asked.columns],
        "groups": [ref.word for ref in asked.groups],
        "sort": asked.sort_word[:300],
    }


@login_required
@require_POST
def delete(request: HttpRequest, pk: str) -> HttpResponse:
    """One's own view; anybody's for a manager."""
    views = SavedView.objects.named().select_related("project")
    if not may_manage(request.user):
        views = views.filter(Q(owner=request.user) | Q(is_shared=True))
    view = get_object_or_404(views, pk=pk)
    base = _base(view.project)
    try:
        view.remove(by=request.user)
    except Refused as refused:
        messages.error(request, str(refused))
    else:
        messages.success(request, _("The view “%(name)s” is deleted.") % {"name": view.name})
    return redirect(base)


@login_required
@require_POST
def pin(request: HttpRequest, uid: str, verb: str) -> HttpResponse:
    """Put a run to the top of one's own tables, or take it from there."""
    job = get_object_or_404(Job.objects.visible_to(request.user).present(), uid=uid)
    (Pin.put if verb == "pin" else Pin.take)(job, by=request.user)
    return redirect(back_of(request, reverse("runs")))
