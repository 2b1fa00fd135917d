"""Projects: what each takes on the server, the archive, and what was deleted."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db.models import Count, F, Max, Q, QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_POST, require_safe

from experiments.best import activity_of, best_of
from experiments.models import Project, Sweep
from experiments.states import LIVE
from labsite.clock import database_now
from labsite.errors import Refused
from labsite.pages import projectcharts
from labsite.pages.access import asked, managers_only
from labsite.pages.runtable import choices, table_of
from labsite.pages.states import Badge
from labsite.pages.timeline import DRAWN, SPANS, span_named, timeline_of
from labsite.templatetags.lab import size as size_words
from people.audit import recorded
from people.roles import may_manage
from sync import freeing
from sync.freeing import Plan, Rule
from sync.models import Trash, TrashState, What

#: More are not read by anybody; the API has the rest.
SHOWN = 50
PARTS = {"trash": "parts/project_trash.html"}
GB = 10**9


class RuleForm(forms.Form):
    """What to delete, and of which age."""

    what = forms.ChoiceField(choices=[(what.value, what.label) for what in freeing.RULES])
    older_than_days = forms.IntegerField(min_value=0, max_value=36500, required=False)

    @property
    def rule(self) -> Rule:
        said = self.cleaned_data
        return Rule(What(said["what"]), said["older_than_days"] or 0)


class QuotaForm(forms.Form):
    """In GB; empty: the lab's own quota."""

    quota = forms.DecimalField(min_value=0, max_value=10**9, required=False)

    @property
    def quota_bytes(self) -> int | None:
        said = self.cleaned_data["quota"]
        return None if said is None else int(said * GB)


@dataclass(frozen=True)
class Deletion:
    """One line of the trash."""

    row: Trash
    badge: Badge
    gone_at: datetime | None  # when it is removed for good; None: that is past, or was prevented
    may_turn: bool


@dataclass(frozen=True)
class Card:
    """One project in the list."""

    project: Project
    best: float | None
    activity: list[int] | None  # runs queued a day, today last; None: none

    @property
    def activity_count(self) -> int:
        return sum(self.activity or [])


_OF_TRASH = {
    TrashState.GATHERING: ("starting", "s-starting"),
    TrashState.FILLING: ("starting", "s-starting"),
    TrashState.KEPT: ("held", "s-held"),
    TrashState.RESTORING: ("starting", "s-starting"),
    TrashState.RESTORED: ("succeeded", "s-succeeded"),
    TrashState.EMPTYING: ("starting", "s-starting"),
    TrashState.EMPTIED: ("cancelled", "s-cancelled"),
}


@login_required
@require_safe
def projects(request: HttpRequest) -> HttpResponse:
    archived = request.GET.get("archived") == "1"
    seen = Project.objects.visible_to(request.user)
    found = seen.exclude(archived_at=None) if archived else seen.listed()
    context = {"cards": _cards(found), "archived": archived}
    if "part" in request.GET:
        return render(request, "parts/projects.html", context)
    return render(request, "pages/projects.html", context)


def _cards(found: QuerySet[Project]) -> list[Card]:
    """The one that was worked in last stands first; three queries, however many."""
    running = Count("jobs", filter=Q(jobs__state__in=LIVE))
    shown = found.annotate(active_at=Max("jobs__submitted_at"), running=running)
    latest_first = shown.order_by(F("active_at").desc(nulls_last=True), "name")
    best = best_of(found)
    activity = activity_of(found, database_now())
    return [Card(one, best.get(one.pk), activity.get(one.pk)) for one in latest_first]


@login_required
@require_safe
def project(request: HttpRequest, name: str) -> HttpResponse:
    """With `what` in the address, what that rule would delete is shown as well."""
    found = project_of(request, name)
    part = request.GET.get("part")
    if part == "table":
        return render(request, "parts/runtable.html", {"table": table_of(request, found)})
    now = database_now()
    context = _context(found, request.user)
    if part is not None:
        return render(request, PARTS.get(part, "parts/project.html"), context)
    table = table_of(request, found)
    context |= {"table": table, **choices(table, request.user)}
    form = RuleForm(request.GET if "what" in request.GET else None)
    plan = (
        freeing.plan(found, form.rule, now)
        if may_manage(request.user) and form.is_valid()
        else None
    )
    context |= {"form": form, "plan": plan, "plan_words": _plan_words(plan) if plan else ""}
    return render(request, "pages/project.html", context)


@login_required
@require_safe
def timeline(request: HttpRequest, name: str) -> HttpResponse:
    """Which GPU servers its runs were on, in the window `span`. `part`: what moves, alone."""
    found, now = project_of(request, name), database_now()
    drawn = timeline_of(found, request.user, span_named(asked(request, "span")), now)
    imported = not drawn.bars and found.jobs.present().filter(imported_at__isnull=False)
    context = {"project": found, "timeline": drawn, "has_imported": imported and imported.exists()}
    if "part" in request.GET:
        return render(request, "parts/project_timeline.html", context)
    more = {"tab": "timeline", "spans": SPANS, "drawn": DRAWN}
    return render(request, "pages/project_timeline.html", context | more | _head(found, request))


@login_required
@require_safe
def charts(request: HttpRequest, name: str) -> HttpResponse:
    """The curves of its newest runs over one another. `part`: what names them, alone."""
    found = project_of(request, name)
    context = {"project": found, "chosen": projectcharts.chosen_of(found, request.user)}
    context |= _head(found, request) | {"tab": "charts"}
    if "part" in request.GET:
        return render(request, "parts/project_charts.html", context)
    return render(request, "pages/project_charts.html", context)


@login_required
@require_safe
def curve(request: HttpRequest, name: str) -> JsonResponse:
    """What static/js/overlay.js draws on the page of charts."""
    chosen = projectcharts.chosen_of(project_of(request, name), request.user)
    answer = projectcharts.curves_of(chosen)
    return JsonResponse(answer, headers={"Cache-Control": "no-store"})


def project_of(request: HttpRequest, name: str) -> Project:
    seen = Project.objects.visible_to(request.user).select_related("created_by")
    return get_object_or_404(seen, name=name)


def _head(found: Project, request: HttpRequest) -> dict[str, Any]:
    """What stands above its timeline and its charts."""
    user = request.user
    open_ = not (found.archived_at or found.is_demo)
    return {
        "may_change": found.may_be_changed_by(user),
        "may_add": open_ and found.may_be_worked_in_by(user),
    }


def _context(found: Project, user: Any) -> dict[str, Any]:
    rows = found.trash.select_related("project", "by", "changed_by").prefetch_related("jobs")
    return {
        "project": found,
        "runs": found.jobs.present().count(),
        "may_change": found.may_be_changed_by(user),
        "may_add": not (found.archived_at or found.is_demo) and found.may_be_worked_in_by(user),
        "has_sweeps": Sweep.objects.visible_to(user).present().filter(project=found).exists(),
        "quota_gb": "" if found.quota_bytes is None else f"{found.quota_bytes / GB:g}",
        "lab_quota": settings.LAB_QUOTA_BYTES,
        "deletions": [_deletion(row, user) for row in rows[:SHOWN]],
        "kept_days": round(settings.LAB_KEEP_TRASH_DAYS),
    }


def _deletion(row: Trash, user: Any) -> Deletion:
    state, icon = _OF_TRASH[TrashState(row.state)]
    kept_for = timedelta(days=settings.LAB_KEEP_TRASH_DAYS)
    gone_at = row.made_at + kept_for if row.can_be_restored else None
    badge = Badge(state, icon, str(row.get_state_display()))
    return Deletion(row, badge, gone_at, row.may_be_turned_by(user))


def _plan_words(plan: Plan) -> str:
    if plan.is_empty:
        return _("Nothing would be deleted.")
    if not plan.jobs:
        words = ngettext(
            "{n} file ({size}) would be deleted; its run stays.",
            "{n} files ({size}) would be deleted; their runs stay.",
            len(plan.files),
        )
        return format_html(words, n=len(plan.files), size=size_words(plan.size))
    words = ngettext(
        "{n} run would be deleted with all its files: {files}, {size}.",
        "{n} runs would be deleted with all their files: {files}, {size}.",
        len(plan.jobs),
    )
    files = ngettext("%(n)d file", "%(n)d files", len(plan.files)) % {"n": len(plan.files)}
    return format_html(words, n=len(plan.jobs), files=files, size=size_words(plan.size))


# --- what is done there --------------------------------------------------------------------------


def _archive(project: Project) -> str:
    project.archive(database_now())
    return _("%(project)s is archived: it takes no new runs, and lists leave it out.")


def _unarchive(project: Project) -> str:
    project.unarchive()
    return _("%(project)s takes new runs again.")


ACTS: dict[str, Callable[[Project], str]] = {"archive": _archive, "unarchive": _unarchive}


@login_required
@require_POST
def act(request: HttpRequest, name: str, verb: str) -> HttpResponse:
    """Archive it, or take it out again."""
    found = project_of(request, name)
    if not found.may_be_changed_by(request.user):
        raise PermissionDenied(_("Only its maker or a manager may change this."))

    def do() -> str:
        with recorded(request.user, found, verb):
            words = ACTS[verb](found)
        return words % {"project": found}

    return _done(request, found, do)


@managers_only
@require_POST
def quota(request: HttpRequest, name: str) -> HttpResponse:
    found = project_of(request, name)
    form = QuotaForm(request.POST)

    def do() -> str:
        if not form.is_valid():
            raise Refused(_("Write the quota as a number of GB, or leave it empty."))
        with recorded(request.user, found, "quota"):
            found.set_options({"quota_bytes": form.quota_bytes})
        return _("The quota of %(project)s was changed.") % {"project": found}

    return _done(request, found, do)


@managers_only
@require_POST
def free(request: HttpRequest, name: str) -> HttpResponse:
    """Delete what the page showed, if it is still that."""
    found = project_of(request, name)
    form = RuleForm(request.POST)

    def do() -> str:
        if not form.is_valid():
            raise Refused(_("Choose what to delete."))
        confirm = request.POST.get("confirm", "")
        made = freeing.free(found, form.rule, confirm, database_now(), by=request.user)
        words = _("%(size)s was deleted. Until it is removed for good, it can be restored here.")
        return words % {"size": size_words(made.size)}

    return _done(request, found, do)


SURE = {
    "empty": gettext_lazy(
        "Remove this for good now? It frees %(size)s of the disk, and cannot be taken back."
    )
}


@login_required
@require_POST
def turn(request: HttpRequest, name: str, pk: str, verb: str) -> HttpResponse:
    """Restore a deletion, or remove it for good."""
    found = project_of(request, name)
    row = get_object_or_404(found.trash.prefetch_related("jobs"), pk=pk)
    if not row.may_be_turned_by(request.user):
        raise PermissionDenied(_("Only a manager may do this, and whose run it was."))
    if verb in SURE and "sure" not in request.POST:
        context = {
            "question": SURE[verb] % {"size": size_words(row.size)},
            "action": request.path, "yes": _("Yes, remove it"), "no": _("No, keep it"),
            "back": reverse("project", args=[found.name]),
        }  # fmt: skip
        return render(request, "pages/sure.html", context)

    def do() -> str:
        if verb == "restore":
            with recorded(request.user, row, verb):
                row.restore(database_now(), by=request.user)
            return _("It is being restored, to where it was.")
        with recorded(request.user, row, verb):
            row.empty(database_now(), by=request.user)
        return _("It is being removed for good.")

    return _done(request, found, do)


def _done(request: HttpRequest, project: Project, do: Callable[[], str]) -> HttpResponse:
    """Do it, say what came of it, and go back to the project."""
    try:
        messages.success(request, do())
    except Refused as refused:
        messages.error(request, str(refused))
    return redirect("project", name=project.name)
