"""What a machine fetches: a GPU server the agent and the script that puts it there; a person's
machine the command `lab`; and labrun, for scripts on any of them.

All of it is the lab's own program and no secret; a code is needed to be let in, and it is in none
of these addresses.
"""

from functools import cache
from importlib import util
from pathlib import Path

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from labsite.pages.enrolling import script_text, site_url
from labsite.zipapps import AGENT, LAB, Zipapp

TEXT = "text/plain; charset=utf-8"


@require_safe
def agent(request: HttpRequest) -> HttpResponse:
    """GET /agent.pyz"""
    return _file(AGENT)


@require_safe
def agent_sha256(request: HttpRequest) -> HttpResponse:
    """GET /agent.pyz.sha256"""
    return _sha256(AGENT)


@require_safe
def lab(request: HttpRequest) -> HttpResponse:
    """GET /lab.pyz"""
    return _file(LAB)


@require_safe
def lab_sha256(request: HttpRequest) -> HttpResponse:
    """GET /lab.pyz.sha256"""
    return _sha256(LAB)


def _file(one: Zipapp) -> HttpResponse:
    answer = HttpResponse(one.content, content_type="application/zip")
    answer["Content-Disposition"] = f'attachment; filename="{one.name}"'
    answer["ETag"] = f'"{one.sha256}"'
    answer["Cache-Control"] = "no-cache"
    return answer


def _sha256(one: Zipapp) -> HttpResponse:
    """As `sha256sum -c` reads it."""
    return HttpResponse(f"{one.sha256}  {one.name}\n", content_type=TEXT)


@require_safe
def script(request: HttpRequest) -> HttpResponse:
    """GET /install.sh: finds a Python, fetches the agent, enrolls and starts it, or renews it."""
    answer = HttpResponse(script_text(site_url(request)), content_type=TEXT)
    answer["Cache-Control"] = "no-cache"
    return answer


@require_safe
def labrun(request: HttpRequest) -> HttpResponse:
    """GET /labrun.py: the file that jobs find by themselves, for a script that is run by hand."""
    return HttpResponse(_labrun(), content_type="text/x-python; charset=utf-8")


@cache
def _labrun() -> bytes:
    spec = util.find_spec("agent.cli.labrun")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_bytes()
