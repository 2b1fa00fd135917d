"""The one line to type on a new GPU server."""

import shlex

from django.conf import settings
from django.http import HttpRequest


def site_url(request: HttpRequest) -> str:
    """How this site is reached from elsewhere: as it is published, else as the reader came."""
    return settings.LAB_PUBLIC_URL or request.build_absolute_uri("/").rstrip("/")


def command_for(request: HttpRequest, code: str) -> str:
    """The command that enrolls a GPU server with `code`."""
    return shlex.join(["lab-agent", "--server", site_url(request), "--enroll-code", code])
