"""Settings of a project: what its runs use, what is best, and who belongs to it."""

import shlex
from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_http_methods, require_POST

from agent.wire import Checkpoints
from experiments.models import Goal, Member, MemberRole, Project, Secret
from labsite.clock import database_now
from labsite.errors import Refused
from labsite.pages import channels, secrets
from labsite.pages.fields import Lines, Variables, variables_text
from labsite.pages.projects import project_of
from labsite.templatetags.lab import size as size_words
from people.audit import note, recorded
from people.roles import may_manage
from sync import freeing

#: Of so many newest runs the metrics are offered to choose from.
LOOKED_AT = 5
CHECKPOINTS = [
    ("", gettext_lazy("as the lab does: all")),
    (Checkpoints.ALL.value, gettext_lazy("all")),
    (Checkpoints.LAST.value, gettext_lazy("the newest only")),
    (Checkpoints.NONE.value, gettext_lazy("none")),
]


class SettingsForm(forms.Form):
    """All of it as text, as people write it; Project.clean() holds it to what jobs may say."""

    title = forms.CharField(max_length=128, required=False)
    description = forms.CharField(required=False, max_length=10_000)
    private = forms.TypedChoiceField(
        choices=[("", ""), ("1", "")], coerce=bool, empty_value=False, required=False
    )
    main_metric = forms.CharField(max_length=255, required=False)
    main_metric_goal = forms.ChoiceField(choices=Goal.choices)
    command = forms.CharField(required=False)
    environment = Variables(required=False)
    python = forms.CharField(max_length=1024, required=False)
    working_directory = forms.CharField(max_length=1024, required=False)
    secrets = Lines(required=False)
    paths = Lines(required=False)
    commands = Lines(required=False)
    outputs = Lines(required=False)
    ignore = Lines(required=False)
    checkpoints = forms.ChoiceField(choices=CHECKPOINTS, required=False)
    max_file = forms.CharField(max_length=32, required=False)

    @property
    def values(self) -> dict[str, Any]:
        said = dict(self.cleaned_data)
        sync = {name: said.pop(name) for name in ("checkpoints", "max_file")}
        requires = {name: said.pop(name) for name in ("paths", "commands")}
        return said | {
            "sync": {name: value for name, value in sync.items() if value},
            "requires": {name: value for name, value in requires.items() if value},
        }


def initial_of(project: Project) -> dict[str, Any]:
    return {
        "title": project.title,
        "description": project.description,
        "private": "1" if project.private else "",
        "main_metric": project.main_metric,
        "main_metric_goal": project.main_metric_goal,
        "command": shlex.join(project.command),
        "environment": variables_text(project.environment),
        "python": project.python,
        "working_directory": project.working_directory,
        "secrets": "\n".join(project.secrets),
        "paths": "\n".join(project.requires.get("paths", [])),
        "commands": "\n".join(project.requires.get("commands", [])),
        "outputs": "\n".join(project.outputs),
        "ignore": "\n".join(project.ignore),
        "checkpoints": project.sync.get("checkpoints", ""),
        "max_file": project.sync.get("max_file", ""),
    }


def led_project(request: HttpRequest, name: str) -> Project:
    """Raises: Http404: it is not there for them; PermissionDenied: they do not lead it."""
    found = project_of(request, name)
    if not found.may_be_changed_by(request.user):
        raise PermissionDenied(_("Only who leads it or a manager may change this."))
    return found


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def settings(request: HttpRequest, name: str) -> HttpResponse:
    found = led_project(request, name)
    if request.method != "POST":
        return _page(request, found, initial_of(found))
    form = SettingsForm(request.POST)
    mistakes = _save(request, found, form) if form.is_valid() else _of_form(form)
    if mistakes:
        values = {field: request.POST.get(field, "") for field in form.fields}
        return _page(request, found, values, mistakes, status=400)
    messages.success(request, _("Saved. Runs that are queued from now on use it."))
    return redirect("project-settings", name=found.name)


def _save(request: HttpRequest, found: Project, form: SettingsForm) -> list[str]:
    """What is wrong with it; empty: it is saved."""
    values = form.values
    try:
        found.check_writable()
        for field, value in values.items():
            setattr(found, field, value)
        found.clean()
        found.clean_fields(exclude={"name"})
    except ValidationError as exc:
        return exc.messages
    except Refused as refused:
        return [str(refused)]
    with recorded(request.user, found, "change"):
        found.set_options({field: getattr(found, field) for field in values})
    return []


def _of_form(form: SettingsForm) -> list[str]:
    return [str(error) for errors in form.errors.values() for error in errors]


def _page(
    request: HttpRequest,
    found: Project,
    values: dict[str, Any],
    mistakes: list[str] | None = None,
    *,
    status: int = 200,
) -> HttpResponse:
    context = {
        "project": Project.objects.select_related("created_by").get(pk=found.pk),
        "values": values,
        "mistakes": mistakes or [],
        "goals": Goal.choices,
        "checkpoints": CHECKPOINTS,
        "metrics": _metrics_of(found),
        "members": found.members.select_related("user"),
        "secrets": found.kept_secrets.select_related("changed_by"),
        "channels": channels.offered(found, database_now()),
        "member_roles": MemberRole.choices,
        "people": _people(),
    }
    return render(request, "pages/project_settings.html", context, status=status)


def _people() -> list[str]:
    active = get_user_model().objects.filter(is_active=True)
    return list(active.order_by("username").values_list("username", flat=True)[:500])


def _metrics_of(project: Project) -> list[str]:
    newest = project.jobs.present().order_by("-id").values_list("summary", flat=True)[:LOOKED_AT]
    return sorted({name for summary in newest for name in summary.get("last", {})})


# --- members, and the end ------------------------------------------------------------------------


@login_required
@require_POST
def join(request: HttpRequest, name: str) -> HttpResponse:
    """Give somebody a place in the project, or another one."""
    found = led_project(request, name)

    def do() -> str:
        wanted = request.POST.get("user", "").replace("\x00", "").strip()
        role = request.POST.get("role", "")
        person = get_user_model().objects.filter(username=wanted, is_active=True).first()
        if person is None or role not in MemberRole.values:
            raise Refused(_("Nobody here is called so; choose one of the names."))
        with transaction.atomic():
            before = found.members.filter(user=person).first()
            made = Member.put(found, person, MemberRole(role))
            told = {"role": before.role} if before else {}
            note(request.user, made, "join", before=told, after={"role": made.role})
        return _("%(user)s belongs to the project.") % {"user": person}

    return _done(request, found, do)


@login_required
@require_POST
def put_secret(request: HttpRequest, name: str) -> HttpResponse:
    found = led_project(request, name)
    return secrets.put(request, found, "project-settings", found.name)


@login_required
@require_POST
def take_secret(request: HttpRequest, name: str, secret: str) -> HttpResponse:
    found = led_project(request, name)
    kept = get_object_or_404(Secret, project=found, name=secret)
    return secrets.take(request, kept, "project-settings", found.name)


@login_required
@require_POST
def put_channel(request: HttpRequest, name: str) -> HttpResponse:
    found = led_project(request, name)
    return channels.put(request, found, "project-settings", found.name)


@login_required
@require_POST
def act_on_channel(request: HttpRequest, name: str, pk: str, verb: str) -> HttpResponse:
    found = led_project(request, name)
    kept = get_object_or_404(found.channels, pk=pk)
    return channels.act(request, kept, verb, "project-settings", found.name)


@login_required
@require_POST
def leave(request: HttpRequest, name: str, pk: str) -> HttpResponse:
    found = led_project(request, name)
    member = get_object_or_404(found.members.select_related("user"), pk=pk)

    def do() -> str:
        with transaction.atomic():
            note(request.user, member, "leave", before={"role": member.role})
            member.delete()
        return _("%(user)s does not belong to the project any more.") % {"user": member.user}

    return _done(request, found, do)


@login_required
@require_POST
def delete(request: HttpRequest, name: str) -> HttpResponse:
    """All its runs into the trash, and itself into the archive; asked once more before."""
    found = led_project(request, name)
    others = found.jobs.present().exclude(user=request.user)
    if not may_manage(request.user) and others.exists():
        raise PermissionDenied(_("It holds runs of other people: a manager may delete it."))
    plan = freeing.plan(found, freeing.EVERYTHING, database_now())
    if "sure" not in request.POST:
        question = ngettext(
            "Delete %(project)s? Its one run (%(size)s) goes to the trash, from where it can be "
            "restored for a while; the project goes to the archive, and keeps its name.",
            "Delete %(project)s? Its %(n)d runs (%(size)s) go to the trash, from where they can "
            "be restored for a while; the project goes to the archive, and keeps its name.",
            len(plan.jobs),
        )
        told = {"project": found, "n": len(plan.jobs), "size": size_words(plan.size)}
        context = {
            "question": question % told, "action": request.path, "yes": _("Yes, delete it"),
            "no": _("No, keep it"), "back": reverse("project-settings", args=[found.name]),
        }  # fmt: skip
        return render(request, "pages/sure.html", context)

    def do() -> str:
        freeing.delete_project(found, database_now(), by=request.user)
        return _("%(project)s was deleted; its runs are in the trash here.") % {"project": found}

    return _done(request, found, do, back="project")


def _done(
    request: HttpRequest, project: Project, do: Callable[[], str], back: str = "project-settings"
) -> HttpResponse:
    try:
        messages.success(request, do())
    except Refused as refused:
        messages.error(request, str(refused))
    return redirect(back, name=project.name)
