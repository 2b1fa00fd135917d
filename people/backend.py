"""Signing in with name and password, never faster than one can guess."""

from typing import Any

from axes.backends import AxesStandaloneBackend
from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.http import HttpRequest


class Accounts(AxesStandaloneBackend, ModelBackend):
    """Django's own accounts behind axes, which refuses where too many passwords were wrong; and
    whoever is signed in comes with their profile and their Unix name, which each page shows."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **more: Any,
    ) -> Any:
        AxesStandaloneBackend.authenticate(self, request, username, password, **more)
        return ModelBackend.authenticate(self, request, username, password, **more)

    def get_user(self, user_id: Any) -> Any:
        people = get_user_model()._default_manager.select_related("profile", "unix_account")
        user = people.filter(pk=user_id).first()
        return user if user is not None and self.user_can_authenticate(user) else None
