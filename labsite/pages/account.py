"""My account: how I want the pages, my password, and keys for my scripts."""

import zoneinfo
from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import PasswordChangeForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import translation
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from experiments.models import Channel, Secret
from labsite.clock import database_now
from labsite.pages import channels, secrets
from labsite.pages.access import managers_only, submitters_only
from labsite.pages.enrolling import lab_line, login_command, site_url
from labsite.zipapps import LAB
from people.models import ApiToken, Profile
from people.models.profile import Theme, check_zone
from people.roles import may_manage, may_submit
from sync.code import relief

#: For how many days a new token may hold; empty: until it is revoked.
LIVES = [
    ("30", gettext_lazy("30 days")),
    ("90", gettext_lazy("90 days")),
    ("365", gettext_lazy("a year")),
    ("", gettext_lazy("until it is revoked")),
]
MOST_TOKENS = 50


class WishesForm(forms.Form):
    language = forms.ChoiceField(
        choices=[("", gettext_lazy("as the browser says")), *settings.LANGUAGES], required=False
    )
    theme = forms.ChoiceField(choices=Theme.choices)
    time_zone = forms.CharField(max_length=64, required=False)

    def clean_time_zone(self) -> str:
        name = self.cleaned_data["time_zone"]
        if name:
            check_zone(name)
        return name


class TokenForm(forms.Form):
    name = forms.CharField(max_length=64)
    days = forms.ChoiceField(choices=LIVES, required=False)

    @property
    def life(self) -> timedelta | None:
        days = self.cleaned_data["days"]
        return timedelta(days=int(days)) if days else None


@login_required
@require_safe
def account(request: HttpRequest) -> HttpResponse:
    return _page(request)


@login_required
@require_POST
def wishes(request: HttpRequest) -> HttpResponse:
    """Language, theme and time zone, on every computer."""
    form = WishesForm(request.POST)
    if not form.is_valid():
        return _page(request, status=400, wishes_form=form)
    Profile.wish(request.user, **form.cleaned_data)
    with translation.override(form.cleaned_data["language"] or translation.get_language()):
        messages.success(request, _("Saved: the pages are like this wherever you sign in."))
    response = redirect("account")
    if form.cleaned_data["language"]:
        response.set_cookie(settings.LANGUAGE_COOKIE_NAME, form.cleaned_data["language"])
    else:
        response.delete_cookie(settings.LANGUAGE_COOKIE_NAME)
    return response


@login_required
@require_POST
def password(request: HttpRequest) -> HttpResponse:
    """Other browsers are signed out by it; tokens of scripts go on."""
    form = PasswordChangeForm(request.user, request.POST)
    if not form.is_valid():
        return _page(request, status=400, password_form=form)
    form.save()
    update_session_auth_hash(request, form.user)
    messages.success(request, _("Your password was changed; you are signed out elsewhere."))
    return redirect("account")


@login_required
@never_cache
@require_POST
def make_token(request: HttpRequest) -> HttpResponse:
    """The key is on the answer, and nowhere later."""
    form = TokenForm(request.POST)
    if not form.is_valid():
        return _page(request, status=400, token_form=form)
    if _tokens(request.user).count() >= MOST_TOKENS:
        messages.error(
            request, _("You have %(n)d tokens; revoke some first.") % {"n": MOST_TOKENS}
        )
        return redirect("account")
    token, key = ApiToken.make(request.user, form.cleaned_data["name"], database_now(), form.life)
    curl = f'curl -H "Authorization: Token {key}" {site_url(request)}/api/jobs/'
    return _page(request, made=token, key=key, curl=curl)


@login_required
@require_POST
def revoke_token(request: HttpRequest, pk: str) -> HttpResponse:
    token = get_object_or_404(ApiToken, pk=pk, user=request.user)
    token.revoke(database_now())
    messages.success(request, _("The token %(token)s is worth nothing now.") % {"token": token})
    return redirect("account")


@submitters_only
@require_POST
def put_secret(request: HttpRequest) -> HttpResponse:
    return secrets.put(request, request.user, "account")


@login_required
@require_POST
def take_secret(request: HttpRequest, secret: str) -> HttpResponse:
    kept = get_object_or_404(Secret, user=request.user, name=secret)
    return secrets.take(request, kept, "account")


@submitters_only
@require_POST
def put_channel(request: HttpRequest) -> HttpResponse:
    return channels.put(request, request.user, "account")


@managers_only
@require_POST
def put_lab_channel(request: HttpRequest) -> HttpResponse:
    return channels.put(request, None, "account")


@login_required
@require_POST
def act_on_channel(request: HttpRequest, pk: str, verb: str) -> HttpResponse:
    """One's own, and of managers the lab's."""
    mine = Channel.objects.visible_to(request.user).filter(project=None)
    return channels.act(request, get_object_or_404(mine, pk=pk), verb, "account")


def _tokens(user: Any) -> Any:
    return user.api_tokens.filter(revoked_at=None)


def _page(request: HttpRequest, *, status: int = 200, **more: Any) -> HttpResponse:
    now = database_now()
    context = {
        "profile": Profile.of(request.user),
        "install": lab_line(site_url(request)),
        "command_version": LAB.version,
        "login": login_command(request),
        "tokens": _tokens(request.user),
        "secrets": Secret.objects.filter(user=request.user).select_related("changed_by"),
        "may_submit": may_submit(request.user),
        "unused_code": relief.unused_bytes(request.user),
        "unused_code_limit": settings.LAB_UNUSED_CODE_BYTES,
        "channels": channels.offered(request.user, now),
        "lab_channels": channels.offered(None, now) if may_manage(request.user) else None,
        "now": now,
        "lives": LIVES,
        "languages": [("", _("as the browser says")), *settings.LANGUAGES],
        "theme_choices": Theme.choices,
        "zones": sorted(name for name in zoneinfo.available_timezones() if "/" in name),
        **more,
    }
    return render(request, "pages/account.html", context, status=status)
