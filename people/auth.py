"""Who a person's script is: a token, of which only the SHA-256 is kept."""

from typing import Any

from django.utils.translation import gettext as _
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from labsite.clock import database_now
from people.errors import NotAllowed
from people.models import ApiToken
from people.models.token import PREFIX, digest
from people.roles import check_may_submit, may_manage


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Token labp_…`, or Bearer; `request.auth` is the ApiToken.

    With the word Token also keys that were made before they had a prefix.
    """

    def authenticate(self, request: Request) -> tuple[Any, ApiToken] | None:
        key = key_of(request.headers.get("Authorization", ""))
        if key is None:
            return None
        now = database_now()
        known = ApiToken.objects.valid(now).filter(sha256=digest(key), user__is_active=True)
        token = known.select_related("user__profile").first()
        if token is None:
            raise AuthenticationFailed(
                _(
                    "This token is not known here, was revoked, or has expired. Make a new one on "
                    "your account's page."
                )
            )
        token.note_use(now)
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return "Token"


def key_of(header: str) -> str | None:
    """The key in an Authorization header; None: there is none, or it is not a person's."""
    scheme, _space, value = header.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value.startswith(PREFIX):
        return value
    return value if scheme.lower() == "token" else None


class IsPerson(BasePermission):
    """Whoever is signed in with an account; not agents, which have none."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return bool(request.user.is_authenticated and request.user.pk)


class IsManager(IsPerson):
    def has_permission(self, request: Request, view: Any) -> bool:
        return super().has_permission(request, view) and may_manage(request.user)


class MayWrite(IsPerson):
    """Everybody signed in may look; whoever may submit, may ask for more."""

    def has_permission(self, request: Request, view: Any) -> bool:
        known = super().has_permission(request, view)
        if known and request.method not in SAFE_METHODS:
            try:
                check_may_submit(request.user)
            except NotAllowed as refused:
                raise PermissionDenied(str(refused)) from refused
        return known
