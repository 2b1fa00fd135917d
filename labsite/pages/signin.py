"""Signing in, and how long whoever guessed too often has to wait."""

from datetime import timedelta
from typing import Any

from axes.models import AccessAttempt
from axes.utils import reset
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, PasswordResetConfirmView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse_lazy
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from labsite.templatetags.lab import duration


class SignInForm(AuthenticationForm):
    error_messages = {
        **AuthenticationForm.error_messages,
        "invalid_login": gettext_lazy(
            "User name or password is wrong. Mind capital letters in both."
        ),
    }


class SignIn(LoginView):
    template_name = "pages/login.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True

    def get_context_data(self, **more: Any) -> dict[str, Any]:
        context = super().get_context_data(**more)
        return context | {"self_registration": settings.LAB_SELF_REGISTRATION}

    def form_valid(self, form) -> HttpResponse:
        response = super().form_valid(form)
        if not self.request.POST.get("stay"):
            self.request.session.set_expiry(0)  # until the browser is closed
        profile = getattr(self.request.user, "profile", None)
        if profile is not None and profile.language:
            response.set_cookie(settings.LANGUAGE_COOKIE_NAME, profile.language)
        return response


class Reset(PasswordResetConfirmView):
    """Behind a manager's link: a new password, once."""

    template_name = "pages/reset.html"
    success_url = reverse_lazy("login")

    def form_valid(self, form) -> HttpResponse:
        response = super().form_valid(form)
        reset(username=self.user.get_username())  # who forgot it may have been locked out
        messages.success(self.request, _("Your new password holds; sign in with it."))
        return response


def address_of(request: HttpRequest) -> str:
    """For axes: what the pool says, which believes no proxy but LAB_TRUSTED_PROXIES."""
    return request.META.get("REMOTE_ADDR", "") or "127.0.0.1"


def locked_out(
    request: HttpRequest, response: HttpResponse | None, credentials: dict[str, Any] | None
) -> HttpResponse:
    """For axes: the page for one who guessed too often, with the time to wait."""
    wait = _wait(request, (credentials or {}).get("username") or "")
    context = {
        "heading": _("Wait a little"),
        "sentence": _(
            "Too many wrong passwords for this account from your address. Try again in "
            "%(duration)s; or ask a manager for a link to set a new one."
        )
        % {"duration": duration(wait)},
    }
    page = render(request, "pages/error.html", context, status=429)
    page["Retry-After"] = str(int(wait.total_seconds()) + 1)
    return page


def _wait(request: HttpRequest, name: str) -> timedelta:
    """Until the last wrong password is old enough; the clock is axes's own, this host's."""
    found = AccessAttempt.objects.filter(username=name, ip_address=address_of(request))
    newest = found.order_by("-attempt_time").first()
    if newest is None:
        return settings.AXES_COOLOFF_TIME
    left = newest.attempt_time + settings.AXES_COOLOFF_TIME - timezone.now()
    return max(left, timedelta(seconds=1))
