"""How often somebody who is not signed in may send a form that makes an account.

Each costs the server a password's hash and, where people register themselves, a row. Signing in
has its own limit (axes), which goes by the account.
"""

import time
from collections.abc import Callable
from functools import wraps

from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from labsite.pages.signin import address_of
from labsite.templatetags.lab import duration

#: A class that joins by one link behind one address stays far below; the counts are this
#: process's.
MOST, WINDOW_SECONDS = 60, 600


def seldom(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """A view whose POSTs from one address are MOST in WINDOW_SECONDS; then 429."""

    @wraps(view)
    def limited(request: HttpRequest, *args, **kwargs) -> HttpResponse:
        if request.method == "POST" and _count(address_of(request)) > MOST:
            return _wait(request)
        return view(request, *args, **kwargs)

    return limited


def _count(address: str) -> int:
    """How many came from there in this window, this one with them."""
    key = f"knocks:{int(time.time() // WINDOW_SECONDS)}:{address}"
    cache.add(key, 0, 2 * WINDOW_SECONDS)
    try:
        return cache.incr(key)
    except ValueError:  # thrown out to make room
        return 1


def _wait(request: HttpRequest) -> HttpResponse:
    left = WINDOW_SECONDS - int(time.time() % WINDOW_SECONDS)
    context = {
        "heading": _("Wait a little"),
        "sentence": _(
            "Too many forms came from your address. Nothing is lost; try again in %(duration)s."
        )
        % {"duration": duration(left)},
    }
    page = render(request, "pages/error.html", context, status=429)
    page["Retry-After"] = str(left)
    return page
