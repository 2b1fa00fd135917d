"""The one line to type: on a new GPU server, and where somebody signs in to `lab`."""

import shlex

from django.conf import settings
from django.http import HttpRequest

from devices.models import Device
from labsite.authority import ca_sha256


def site_url(request: HttpRequest) -> str:
    """How this site is reached from elsewhere: as it is published, else as the reader came."""
    return settings.LAB_PUBLIC_URL or request.build_absolute_uri("/").rstrip("/")


def command_for(request: HttpRequest, code: str, known: Device | None = None) -> str:
    """The command that enrolls a GPU server with `code`; `known`: that very one, again."""
    command = ["lab-agent", "--server", site_url(request), "--enroll-code", code]
    if known is not None:
        command += ["--host-id", known.host_id]
    if fingerprint := ca_sha256():
        command += ["--ca-sha256", fingerprint]
    return shlex.join(command)


def login_command(request: HttpRequest) -> str:
    """The command that signs a person in at a terminal (docs/lab.md); it asks for the token."""
    command = ["lab", "login", site_url(request)]
    if fingerprint := ca_sha256():
        command += ["--ca-sha256", fingerprint]
    return shlex.join(command)
