"""How people come in: by a link that a manager makes, by a list of them, or by themselves."""

import csv
import io
from dataclasses import dataclass
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import get_user_model, login
from django.contrib.auth.forms import BaseUserCreationForm
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from experiments.models import UnixAccount
from labsite.clock import database_now
from labsite.errors import Refused
from labsite.pages.access import managers_only
from labsite.pages.enrolling import site_url
from labsite.pages.people import reset_link, roles_to_give
from labsite.pages.throttle import seldom
from people.audit import facts_of, note, recorded
from people.errors import NotDone
from people.models import Invite, Profile
from people.models.invite import MOST_USES
from people.roles import Role, may_give

COLUMNS = ("username", "name", "role", "unix_name")
MOST_ROWS = 500


class InviteForm(forms.Form):
    role = forms.ChoiceField(choices=Role.choices)
    uses = forms.IntegerField(min_value=1, max_value=MOST_USES, required=False)
    note = forms.CharField(max_length=128, required=False)


class JoinForm(BaseUserCreationForm):
    """Name and password of an account that is about to be."""

    full_name = forms.CharField(max_length=150, required=False)
    error_messages = {
        "password_mismatch": gettext_lazy("The two passwords are not the same."),
    }

    class Meta:
        model = get_user_model()
        fields = ("username",)
        error_messages = {
            "username": {"unique": gettext_lazy("Somebody has this name already; choose another.")}
        }


# --- links ---------------------------------------------------------------------------------------


@managers_only
@never_cache
@require_POST
def invite(request: HttpRequest) -> HttpResponse:
    """Make a link, and show it, this once."""
    form = InviteForm(request.POST)
    try:
        if not form.is_valid():
            raise NotDone(_("Choose a role, and how many may come by the link."))
        said = form.cleaned_data
        with transaction.atomic():
            made, code = Invite.make(
                Role(said["role"]), database_now(), by=request.user, uses=said["uses"] or 1,
                note=said["note"],
            )  # fmt: skip
            note(request.user, made, "make", after=facts_of(made))
    except Refused as refused:
        messages.error(request, str(refused))
        return redirect("people")
    link = site_url(request) + reverse("join", args=[code])
    return render(request, "pages/invited.html", {"invite": made, "link": link})


@managers_only
@require_POST
def end(request: HttpRequest, pk: str) -> HttpResponse:
    found = get_object_or_404(Invite, pk=pk)
    with recorded(request.user, found, "end"):
        found.end()
    messages.success(request, _("Nobody comes in by that link any more."))
    return redirect("people")


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@seldom
def join(request: HttpRequest, code: str) -> HttpResponse:
    """Whoever has the link makes an account of their own."""
    now = database_now()
    try:
        found = Invite.of(code, now)
    except Refused as refused:
        return _turned_away(request, refused)
    form = JoinForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        said = form.cleaned_data
        try:
            user = found.join(said["username"], said["password1"], said["full_name"], now)
        except Refused as refused:
            return _turned_away(request, refused)
        return _welcome(request, user)
    # 200 with a mistake too: Django logs the address of a 400, and this one is a key.
    return render(request, "pages/join.html", {"form": form, "role": Role(found.role).label})


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@seldom
def register(request: HttpRequest) -> HttpResponse:
    """Without a link, where LAB_SELF_REGISTRATION lets whoever comes in: as a viewer."""
    if not settings.LAB_SELF_REGISTRATION:
        raise Http404
    form = JoinForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        said = form.cleaned_data
        with transaction.atomic():
            user = get_user_model().objects.create_user(
                said["username"], password=said["password1"], last_name=said["full_name"]
            )
            Profile.set_role(user, Role.VIEWER)
        return _welcome(request, user)
    return render(request, "pages/join.html", {"form": form, "role": Role.VIEWER.label})


def _welcome(request: HttpRequest, user: Any) -> HttpResponse:
    login(request, user, backend=settings.AUTHENTICATION_BACKENDS[0])
    messages.success(request, _("Welcome, %(user)s.") % {"user": user})
    return redirect("home")


def _turned_away(request: HttpRequest, refused: Refused) -> HttpResponse:
    context = {"heading": _("This link does not work"), "sentence": str(refused)}
    return render(request, "pages/error.html", context, status=refused.status)


# --- a list of people ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Newcomer:
    """One line of the list."""

    username: str
    name: str
    role: Role
    unix_name: str


@managers_only
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def several(request: HttpRequest) -> HttpResponse:
    """Accounts for all in a CSV, or for none; each with a link to set a password by."""
    context: dict[str, Any] = {"columns": ",".join(COLUMNS), "roles": roles_to_give(request.user)}
    text = _text_of(request)
    if request.method == "POST":
        try:
            made = _make_all(read_csv(text), by=request.user)
        except Refused as refused:
            context |= {"text": text, "mistakes": refused.facts.get("errors") or [str(refused)]}
            return render(request, "pages/people_csv.html", context, status=400)
        context["made"] = [(user, reset_link(request, user)) for user in made]
    return render(request, "pages/people_csv.html", context)


def _text_of(request: HttpRequest) -> str:
    upload = request.FILES.get("file")
    if upload is not None:
        return upload.read().decode("utf-8-sig", "replace")
    return request.POST.get("text", "")


def read_csv(text: str) -> list[Newcomer]:
    """The lines of a list whose first line names its columns.

    Raises:
        NotDone: with every mistake and its line in `errors`.
    """
    try:
        reader = csv.DictReader(io.StringIO(text.strip(), newline=""), skipinitialspace=True)
        names = [(name or "").strip() for name in reader.fieldnames or []]
        if "username" not in names or set(names) - set(COLUMNS):
            raise NotDone(
                _("The first line names the columns: %(columns)s. Only username is needed.")
                % {"columns": ", ".join(COLUMNS)}
            )
        reader.fieldnames = names
        rows = list(reader)
    except csv.Error as exc:
        raise NotDone(_("This is no CSV: %(why)s") % {"why": exc}) from exc
    if not 0 < len(rows) <= MOST_ROWS:
        raise NotDone(_("The list has to hold between 1 and %(n)d people.") % {"n": MOST_ROWS})
    return _newcomers(rows)


def _newcomers(rows: list[dict[str | None, Any]]) -> list[Newcomer]:
    found, mistakes = [], []
    for line, row in enumerate(rows, start=2):
        said = {name: (row.get(name) or "").strip().replace("\x00", "") for name in COLUMNS}
        role = said["role"].lower() or Role.RESEARCHER
        if None in row or role not in Role.values:
            words = _("line %(n)d: the role is one of %(roles)s, and there are no more columns")
            mistakes.append(words % {"n": line, "roles": ", ".join(Role.values)})
            continue
        found.append(Newcomer(said["username"], said["name"], Role(role), said["unix_name"]))
    if mistakes:
        raise NotDone(mistakes[0], errors=mistakes)
    return found


def _make_all(newcomers: list[Newcomer], *, by: Any) -> list[Any]:
    """All of them or none.

    Raises:
        NotDone: with every mistake in `errors`.
    """
    made, mistakes = [], []
    with transaction.atomic():
        for line, one in enumerate(newcomers, start=2):
            try:
                with transaction.atomic():
                    made.append(_make(one, by=by))
            except ValidationError as exc:
                words = _("line %(n)d: %(why)s")
                mistakes.append(words % {"n": line, "why": " ".join(exc.messages)})
            except Refused as refused:
                mistakes.append(_("line %(n)d: %(why)s") % {"n": line, "why": refused})
        if mistakes:
            raise NotDone(mistakes[0], errors=mistakes)
    return made


def _make(one: Newcomer, *, by: Any) -> Any:
    user = get_user_model()(username=one.username, last_name=one.name)
    user.set_unusable_password()
    user.full_clean()
    if not may_give(by, one.role):
        raise NotDone(_("You may not invite anybody with this role."))
    user.save()
    Profile.set_role(user, one.role)
    if one.unix_name:
        account = UnixAccount(user=user, name=one.unix_name)
        account.full_clean()
        account.save()
    note(by, user, "make", after=facts_of(user))
    return user
