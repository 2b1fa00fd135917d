"""Signing in."""

from django.contrib.auth.views import LoginView
from django.http import HttpResponse


class SignIn(LoginView):
    template_name = "pages/login.html"
    redirect_authenticated_user = True

    def form_valid(self, form) -> HttpResponse:
        response = super().form_valid(form)
        if not self.request.POST.get("stay"):
            self.request.session.set_expiry(0)  # until the browser is closed
        return response
