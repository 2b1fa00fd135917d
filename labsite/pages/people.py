"""People: who uses the lab, as what, and what a manager does about an account."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth import get_user_model
from django.contrib.auth.tokens import default_token_generator
from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from experiments.models import UnixAccount
from labsite.clock import database_now
from labsite.errors import Refused
from labsite.pages.access import asked, managers_only
from labsite.pages.enrolling import site_url
from people.audit import facts_of, note, recorded
from people.models import ApiToken, Invite, Profile
from people.models.profile import check_may_change
from people.roles import Role, may_give, role_of

PAGE = 50


class UnixNameForm(forms.ModelForm):
    class Meta:
        model = UnixAccount
        fields = ["name"]


@managers_only
@require_safe
def people(request: HttpRequest) -> HttpResponse:
    words = asked(request, "q")
    page = Paginator(_found(words), PAGE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "rows": [(one, role_of(one)) for one in page.object_list],
        "words": words,
        "invites": Invite.objects.open(database_now()).select_related("created_by"),
        "roles": roles_to_give(request.user),
    }
    return render(request, "pages/people.html", context)


def _found(words: str) -> Any:
    everybody = get_user_model().objects.select_related("profile", "unix_account")
    for word in words.split()[:8]:
        named = Q(username__icontains=word) | Q(last_name__icontains=word)
        everybody = everybody.filter(named | Q(first_name__icontains=word))
    live = Count("jobs", filter=Q(jobs__finished_at=None, jobs__deleted_at=None))
    return everybody.annotate(unended=live).order_by("-is_active", "username")


def roles_to_give(giver: Any) -> list[tuple[str, str]]:
    return [(role.value, str(role.label)) for role in Role if may_give(giver, role)]


@managers_only
@require_safe
def person(request: HttpRequest, pk: str) -> HttpResponse:
    return _person(request, _of(pk))


def _of(pk: str) -> Any:
    everybody = get_user_model().objects.select_related("profile", "unix_account")
    return get_object_or_404(everybody, pk=pk)


def _person(request: HttpRequest, one: Any, *, status: int = 200, **more: Any) -> HttpResponse:
    context = {
        "one": one,
        "one_role": role_of(one),
        "roles": roles_to_give(request.user),
        "tokens": one.api_tokens.filter(revoked_at=None),
        "memberships": one.memberships.select_related("project"),
        "may_decide": _may_decide(request.user, one),
        "now": database_now(),
        **more,
    }
    return render(request, "pages/person.html", context, status=status)


def _may_decide(user: Any, one: Any) -> bool:
    try:
        check_may_change(one, by=user)
    except Refused:
        return False
    return True


# --- what is done there --------------------------------------------------------------------------


def _set_role(request: HttpRequest, one: Any) -> str:
    name = request.POST.get("role", "")
    if name not in Role.values:
        raise Refused(_("Choose one of the roles."))
    with recorded(request.user, one, "role"):
        Profile.set_role(one, Role(name), by=request.user)
    return _("%(user)s is a %(role)s now.") % {"user": one, "role": role_of(one).label}


def _set_active(request: HttpRequest, one: Any) -> str:
    with recorded(request.user, one, "deactivate"):
        Profile.set_active(one, False, by=request.user)
    return _("%(user)s cannot sign in any more. Their jobs go on, and what is theirs stays.") % {
        "user": one
    }


def _set_inactive(request: HttpRequest, one: Any) -> str:
    with recorded(request.user, one, "activate"):
        Profile.set_active(one, True, by=request.user)
    return _("%(user)s can sign in again.") % {"user": one}


def _set_unix_name(request: HttpRequest, one: Any) -> str:
    name = request.POST.get("name", "").strip()
    with transaction.atomic():
        check_may_change(one, by=request.user if one != request.user else None)
        before = UnixAccount.objects.filter(user=one).first()
        told = facts_of(before) if before else {}
        if not name:
            UnixAccount.objects.filter(user=one).delete()
            note(request.user, before or UnixAccount(user=one), "unix-name", before=told)
            return _("%(user)s has no Unix name any more.") % {"user": one}
        form = UnixNameForm({"name": name}, instance=before or UnixAccount(user=one))
        if not form.is_valid():
            raise Refused(" ".join(form.errors["name"]))
        made = form.save()
        note(request.user, made, "unix-name", before=told, after=facts_of(made))
    words = _("Jobs of %(user)s run as %(name)s where GPU servers run them as their submitters.")
    return words % {"user": one, "name": made.name}


ACTS: dict[str, Callable[[HttpRequest, Any], str]] = {
    "role": _set_role,
    "deactivate": _set_active,
    "activate": _set_inactive,
    "unix-name": _set_unix_name,
}


@managers_only
@require_POST
def act(request: HttpRequest, pk: str, verb: str) -> HttpResponse:
    one = _of(pk)
    try:
        messages.success(request, ACTS[verb](request, one))
    except Refused as refused:
        messages.error(request, str(refused))
    return redirect("person", pk=pk)


@managers_only
@never_cache
@require_POST
def reset(request: HttpRequest, pk: str) -> HttpResponse:
    """A link by which they set a new password; shown here, once, to be handed on."""
    one = _of(pk)
    try:
        check_may_change(one, by=request.user)
    except Refused as refused:
        messages.error(request, str(refused))
        return redirect("person", pk=pk)
    note(request.user, one, "reset-link")
    return _person(request, one, link=reset_link(request, one))


def reset_link(request: HttpRequest, user: Any) -> str:
    """It holds for PASSWORD_RESET_TIMEOUT, and until the password is set or they sign in."""
    uid = urlsafe_base64_encode(force_bytes(user.pk))
    token = default_token_generator.make_token(user)
    return site_url(request) + reverse("reset", args=[uid, token])


@managers_only
@require_POST
def revoke(request: HttpRequest, pk: str, token: str) -> HttpResponse:
    """Make somebody's token worthless."""
    found = get_object_or_404(ApiToken, pk=token, user=pk)
    try:
        check_may_change(found.user, by=request.user)
        with recorded(request.user, found, "revoke"):
            found.revoke(database_now())
        messages.success(
            request, _("The token %(token)s is worth nothing now.") % {"token": found}
        )
    except Refused as refused:
        messages.error(request, str(refused))
    return redirect("person", pk=pk)
