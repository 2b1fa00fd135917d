"""Setting and deleting a secret, of a person's account or of a project: the same form."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _

from experiments.models import Secret
from labsite.clock import database_now
from labsite.errors import Refused
from labsite.pages.access import posted


def put(request: HttpRequest, of: Any, *back: str) -> HttpResponse:
    """`of`: a person or a project, which the caller has made sure they may change."""
    name, value = posted(request, "name"), request.POST.get("value", "")
    try:
        Secret.put(of, name, value, database_now(), by=request.user)
    except Refused as refused:
        messages.error(request, str(refused))
    else:
        words = _(
            "%(name)s is kept. Runs name it, secrets: [%(name)s], and find it as a variable."
        )
        messages.success(request, words % {"name": name})
    return redirect(*back)


def take(request: HttpRequest, secret: Secret, *back: str) -> HttpResponse:
    secret.take(by=request.user)
    words = _("%(name)s was deleted. Runs that have it already keep it until they end.")
    messages.success(request, words % {"name": secret.name})
    return redirect(*back)
