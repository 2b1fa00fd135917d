"""Who an agent is: a bearer token, of which only the SHA-256 is kept.

`resolve()` serves the lane, which caches its answer for a second; DeviceAuthentication serves
DRF's views. A revoked token is therefore worthless within 1 s in every process.
"""

import base64
import binascii
from collections.abc import Collection

from django.db import transaction
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from devices.models import Device, devices_with, digest

TOKEN_PREFIX = "labd_"  # noqa: S105 - public, so that a leaked token is recognised
REJECTED = (
    "This token is not known here, or was revoked. On the GPU host, enroll again with a new "
    "code: lab-agent enroll --server URL --enroll-code CODE."
)


def resolve(digests: Collection[str]) -> dict[str, int]:
    """Map hex SHA-256 of tokens to the ids of the devices that hold them, in one query.

    The first use of a rotated token ends the life of the old one.
    """
    # Looked up by digest: what its timing could tell is of a hash, and leads to no token.
    known = {}
    for device in devices_with(list(digests)).only("id", "token_sha256", "next_token_sha256"):
        if device.token_sha256 in digests:
            known[device.token_sha256] = device.pk
        if device.next_token_sha256 in digests:
            _promote(device, device.next_token_sha256)
            known[device.next_token_sha256] = device.pk
    return known


def _promote(device: Device, token_sha256: str) -> None:
    with transaction.atomic():
        Device.objects.filter(pk=device.pk, next_token_sha256=token_sha256).update(
            next_token_sha256=None
        )
        Device.objects.filter(pk=device.pk).update(token_sha256=token_sha256)


class DevicePrincipal:
    """What `request.user` is for an agent: nobody's account, with no right of a person."""

    is_authenticated = True
    is_active = True
    is_staff = is_superuser = is_anonymous = False
    pk = id = None

    def __init__(self, device: Device) -> None:
        self.device = device

    def __str__(self) -> str:
        return self.device.host_id


class DeviceAuthentication(BaseAuthentication):
    """`Authorization: Bearer labd_…`; `request.auth` is the Device.

    The token may also stand as the password of Basic, for the founding document's curl lines
    with a ~/.netrc. Other tokens and passwords are left to the other authentications.
    """

    def authenticate(self, request: Request) -> tuple[DevicePrincipal, Device] | None:
        token = token_of(request.headers.get("Authorization", ""))
        if token is None:
            return None
        device_id = resolve([digest(token)]).get(digest(token))
        if device_id is None:
            raise AuthenticationFailed(REJECTED)
        device = Device.objects.get(pk=device_id)
        return DevicePrincipal(device), device

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="device"'


def token_of(header: str) -> str | None:
    """The token in an Authorization header; None: there is none, or it is not a device's."""
    scheme, _, value = header.partition(" ")
    value = value.strip()
    if scheme.lower() == "basic":
        try:
            _user, _, value = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
    elif scheme.lower() != "bearer":
        return None
    return value if value.startswith(TOKEN_PREFIX) else None


class IsDevice(BasePermission):
    message = "Only a GPU server's agent may do this."

    def has_permission(self, request: Request, view) -> bool:
        return isinstance(request.auth, Device)
