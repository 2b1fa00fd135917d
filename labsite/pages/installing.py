"""What a new GPU server fetches: the agent, the script that puts it there, and labrun.

All of it is the lab's own program and no secret; a code is needed to be let in, and it is in none
of these addresses.
"""

from functools import cache
from importlib import util
from pathlib import Path

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from labsite.agentzip import NAME, agent_zip
from labsite.pages.enrolling import script_text, site_url

TEXT = "text/plain; charset=utf-8"


@require_safe
def agent(request: HttpRequest) -> HttpResponse:
    """GET /agent.pyz"""
    found = agent_zip()
    answer = HttpResponse(found.content, content_type="application/zip")
    answer["Content-Disposition"] = f'attachment; filename="{NAME}"'
    answer["ETag"] = f'"{found.sha256}"'
    answer["Cache-Control"] = "no-cache"
    return answer


@require_safe
def agent_sha256(request: HttpRequest) -> HttpResponse:
    """GET /agent.pyz.sha256, as `sha256sum -c` reads it."""
    return HttpResponse(f"{agent_zip().sha256}  {NAME}\n", content_type=TEXT)


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
