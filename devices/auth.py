"""Who an agent is: a bearer token, of which only the SHA-256 is kept.

`resolve()` serves the lane, which caches its answer for a second; DeviceAuthentication serves
DRF's views, and RecentDeviceAuthentication those that are asked hundreds of times a second. A
revoked token is therefore worthless within 1 s in every process.
"""

import base64
import binascii
from collections.abc import Collection, Iterator

from django.core.cache import cache
from django.db import transaction
from django.db.models import QuerySet
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from devices.models import Device, devices_with, digest

#: A token is taken for known so long after it was looked up.
TOKEN_SECONDS = 1.0
TOKEN_PREFIX = "labd_"  # noqa: S105 - public, so that a leaked token is recognised
REJECTED = (
    "This token is not known here, or was revoked. On the GPU host, enroll again with a new "
    "code: lab-agent enroll --server URL --enroll-code CODE."
)


def resolve(digests: Collection[str]) -> dict[str, int]:
    """Map hex SHA-256 of tokens to the ids of the devices that hold them, in one query.

    The first use of a rotated token ends the life of the old one.
    """
    few = devices_with(list(digests)).only("id", "token_sha256", "next_token_sha256")
    return {token: device.pk for token, device in _known(few, digests)}


def _known(devices: QuerySet[Device], digests: Collection[str]) -> Iterator[tuple[str, Device]]:
    """Of each token that is known: its digest, and its device."""
    # Looked up by digest: what its timing could tell is of a hash, and leads to no token.
    for device in devices:
        if device.token_sha256 in digests:
            yield device.token_sha256, device
        if device.next_token_sha256 in digests:
            _promote(device, device.next_token_sha256)
            yield device.next_token_sha256, device


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
        device = self.holder(digest(token))
        if device is None:
            raise AuthenticationFailed(REJECTED)
        return DevicePrincipal(device), device

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="device"'

    @staticmethod
    def holder(sha256: str) -> Device | None:
        return dict(_known(devices_with([sha256]), [sha256])).get(sha256)


class RecentDeviceAuthentication(DeviceAuthentication):
    """`request.auth` is the Device as it was at most TOKEN_SECONDS ago."""

    @staticmethod
    def holder(sha256: str) -> Device | None:
        key = f"token:{sha256}"
        device = cache.get(key)
        if device is None:
            device = DeviceAuthentication.holder(sha256)
            cache.set(key, device, TOKEN_SECONDS)
        return device


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
