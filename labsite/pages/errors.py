"""Pages for what went wrong: a sentence that says what to do, and no traceback.

They are made without the request's user, session or database, any of which may be what failed.
"""

from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.translation import gettext as _

from labsite.api import answer
from labsite.errors import NotFound
from labsite.pages.states import theme_words


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, DisallowedHost):
        return _wrong_host(request)
    return _page(
        400,
        _("That cannot be read"),
        _("The browser sent something this server does not understand. Go back and try again."),
    )


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    sentence = str(exception or "") or _("Your role does not allow this. Ask your lab manager.")
    return _page(403, _("Not allowed"), sentence)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return _page(
        403,
        _("The form was too old"),
        _(
            "Nothing was changed. Go back, load the page again and send the form once more; "
            "cookies must be allowed for this site."
        ),
    )


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    if request.path_info.startswith("/api/"):
        return answer(
            NotFound(_("There is nothing at this address; /api/docs/ lists what there is."))
        )
    return _page(404, _("Not here"), _("There is no such page, or what it showed was deleted."))


def server_error(request: HttpRequest) -> HttpResponse:
    return _page(
        500,
        _("Something broke"),
        _(
            "The fault is the server's, and it is written in its log. Runs on GPU servers go on. "
            "Try again; if it stays, tell your lab manager when it happened."
        ),
    )


def _wrong_host(request: HttpRequest) -> HttpResponse:
    name = request.META.get("HTTP_HOST", "")[:255]
    return _page(
        400,
        _("This server does not know that name"),
        _(
            "It answers only to the names it was told. Whoever runs it can add this one by "
            "starting it with the option --public-url:"
        ),
        command=f"manage.py runlab --public-url {request.scheme}://{name}",
        way="",
    )


def _page(
    status: int, heading: str, sentence: str, *, command: str = "", way: str = "/"
) -> HttpResponse:
    context: dict[str, Any] = {
        "lab_name": settings.LAB_NAME,
        "themes": theme_words(),
        "heading": heading,
        "sentence": sentence,
        "command": command,
        "way": way,
        "way_label": _("To the first page"),
    }
    return HttpResponse(render_to_string("pages/error.html", context), status=status)
