"""The page of one run: how it stands, its curves, its log, its config and its files."""

import shlex
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from experiments import reasons
from experiments.models import Attempt, Job
from experiments.states import JobState
from labsite.clock import database_now
from labsite.pages import runfiles, terminal, yamlcolour
from labsite.pages.access import may_change
from labsite.pages.endings import ending, failure
from labsite.pages.queue import gpu_indices, gpu_words, priorities
from labsite.pages.states import Badge, attempt_badge, is_unreachable, job_badge

#: How much of its log a failed run opens with.
LAST_LINES = 12

PARTS = {"head": "parts/run_head.html", "side": "parts/run_side.html", "files": "parts/files.html"}


@dataclass
class Try:
    attempt: Attempt
    badge: Badge
    where: str
    sentence: str


@login_required
@require_safe
def run(request: HttpRequest, uid: str) -> HttpResponse:
    job = _job(uid)
    part = request.GET.get("part")
    if part is not None and part not in PARTS:
        raise Http404
    context = _context(job, request.user, database_now())
    if part is not None:
        return render(request, PARTS[part], context)
    return render(request, "pages/run.html", context | _contents(job))


@login_required
@require_safe
def log(request: HttpRequest, uid: str) -> JsonResponse:
    """Lines of the log: the last ones, those from `offset` on, or those before `before`."""
    path = runfiles.path_of(_job(uid), "log")
    end = _number(request, "before")
    if end is not None:
        window = terminal.before(path, end)
    else:
        window = terminal.window(path, _number(request, "offset"), _number(request, "line"))
    return _fresh(
        {
            "start": window.start,
            "next": window.next,
            "size": window.size,
            "next_line": window.next_line,
            "reset": window.reset,
            "open": window.open,
            "more": window.more,
            "html": window.html,
        }
    )


@login_required
@require_safe
def curve(request: HttpRequest, uid: str) -> JsonResponse:
    """All metrics, thinned; or only the rows after `after`, as a reader already has the rest."""
    path = runfiles.path_of(_job(uid), "csv")
    return _fresh(runfiles.curve(path, _number(request, "after")))


@login_required
@require_safe
def file(request: HttpRequest, uid: str, name: str) -> HttpResponse:
    """Download one file of the run, whole."""
    path = runfiles.find(_job(uid), name)
    response = HttpResponse(content_type="application/octet-stream")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["X-Content-Type-Options"] = "nosniff"
    response.file_to_send = path
    return response


def _job(uid: str) -> Job:
    tries = Attempt.objects.select_related("device").order_by("-number")
    jobs = Job.objects.present().select_related("project", "user", "parent__project")
    return get_object_or_404(
        jobs.prefetch_related(Prefetch("attempts", tries, to_attr="tries")), uid=uid
    )


def _context(job: Job, user: Any, now: datetime) -> dict[str, Any]:
    attempt = job.tries[0] if job.tries else None
    indices = gpu_indices(job.tries)
    live = attempt is not None and attempt.is_open
    return {
        "job": job,
        "badge": job_badge(job, attempt, now),
        "attempt": attempt,
        "gpus": gpu_words(attempt, indices),
        "unreachable": live and is_unreachable(attempt.device, now),
        "tries": [_try(one, job, indices, now) for one in job.tries],
        "may_change": may_change(user, job),
        "priorities": priorities(user),
        "wants": _wants(job),
        "command": shlex.join(job.command),
        "best": list((job.summary.get("best") or {}).items())[:4],
        "log_name": f"{job.run_name}.log",
        "failure": failure(job, attempt),
        "progress": _progress(job),
        "files": runfiles.files(job, now),
        "sync": runfiles.sync_badge(job, now),
        "tokens": _tokens(job, attempt),
    }


def _contents(job: Job) -> dict[str, Any]:
    """What a part does not show: log and config."""
    window = terminal.window(runfiles.path_of(job, "log"), None, None)
    text = bytes(job.config).decode("utf-8", "replace")
    more: dict[str, Any] = {"log": window, "config": yamlcolour.lines(text)}
    if job.state == JobState.FAILED:
        more["last_lines"] = terminal.tail(runfiles.path_of(job, "log"), LAST_LINES)
    return more


def _try(attempt: Attempt, job: Job, indices: dict[str, int], now: datetime) -> Try:
    where = ", ".join(filter(None, [attempt.device.host_id, gpu_words(attempt, indices)]))
    return Try(attempt, attempt_badge(attempt, job, now), where, ending(attempt, job))


def _wants(job: Job) -> str:
    return reasons.wants(
        {
            "gpus": job.gpus,
            "gpu_type": job.gpu_type,
            "gpu_memory_bytes": job.gpu_memory_bytes,
            "labels": job.labels,
        }
    )


def _progress(job: Job) -> dict[str, Any] | None:
    """How far it is, where its config says how many epochs there are and a metric counts them."""
    total, done = job.keys.get("epochs"), runfiles.last_epoch(job)
    if not isinstance(total, int) or isinstance(total, bool) or total < 1 or done is None:
        return None
    done = min(int(done), total)
    words = _("epoch %(done)d of %(total)d") % {"done": done, "total": total}
    return {"words": words, "percent": round(100 * done / total)}


def _tokens(job: Job, attempt: Attempt | None) -> str:
    """What the head and the side listen for."""
    return f"job:{job.pk} device-state:{attempt.device_id}" if attempt else f"job:{job.pk}"


def _number(request: HttpRequest, name: str) -> int | None:
    text = request.GET.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _fresh(answer: dict[str, Any]) -> JsonResponse:
    return JsonResponse(answer, headers={"Cache-Control": "no-store"})
