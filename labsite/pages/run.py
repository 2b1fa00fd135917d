"""The page of one run: how it stands, its curves, its log, its config and its files."""

import re
import shlex
from dataclasses import asdict, dataclass
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
from sync import curves

#: How much of its log a failed run opens with.
LAST_LINES = 12

PARTS = {"head": "parts/run_head.html", "side": "parts/run_side.html", "files": "parts/files.html"}


SHOWN_METRICS = 6
AXIS = re.compile(r"(?i)(epoch|(global_)?step|iter(ation)?|(wall_)?time|timestamp|elapsed)$")
HIGHER = re.compile(r"(?i)acc|f1|auc|iou|map|precision|recall|score|psnr|ssim|dice|bleu|r2")
LOWER = re.compile(r"(?i)loss|err|mae|mse|perplexity|ppl|fid|wer|nll")


@dataclass(frozen=True)
class Metric:
    name: str
    last: float
    best: float | None


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
    """Lines of the log: the last ones, those from `offset` on, or those before `before`.

    `version` is the file's that the reader has; of another one it is shown the last lines.
    """
    end, offset = _number(request, "before"), _number(request, "offset")
    with runfiles.opened(_job(uid), "log") as part:
        if end is not None:
            window = terminal.before(part.file, min(end, part.size))
            return _fresh({"start": window.start, "html": window.html})
        is_another = request.GET.get("version", part.version) != part.version
        line = _number(request, "line")
        window = terminal.window(part.file, part.size, None if is_another else offset, line)
    reset = window.reset or is_another
    answer = asdict(window) | {"more": window.more, "reset": reset}
    return _fresh({**answer, "version": part.version, "file": part.key})


@login_required
@require_safe
def curve(request: HttpRequest, uid: str) -> JsonResponse:
    """All metrics, thinned; or only the rows after the bytes that the reader has (`after`)."""
    after = _number(request, "after")
    with runfiles.opened(_job(uid), "csv") as part:
        if request.GET.get("version", part.version) != part.version:
            after = None
        found = curves.read(part.file, part.size, after)
        return _fresh({**asdict(found), "version": part.version, "file": part.key})


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
    found = runfiles.files_of(job, now)
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
        "metrics": _metrics(job.summary),
        "log_name": f"{job.run_name}.log",
        "failure": failure(job, attempt),
        "progress": _progress(job),
        "files": found.files,
        "sync": found.badge,
        "tokens": _tokens(job, attempt, found.table),
    }


def _contents(job: Job) -> dict[str, Any]:
    """What a part does not show: log and config."""
    text = bytes(job.config).decode("utf-8", "replace")
    with runfiles.opened(job, "log") as part:
        more = {
            "log": terminal.window(part.file, part.size, None, None),
            "log_version": part.version,
            "log_file": part.key,
            "config": yamlcolour.lines(text),
        }
        if job.state == JobState.FAILED:
            more["last_lines"] = terminal.tail(part.file, part.size, LAST_LINES)
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
    total, done = job.keys.get("epochs"), job.summary.get("last", {}).get("epoch")
    if not isinstance(total, int) or isinstance(total, bool) or total < 1 or done is None:
        return None
    done = min(int(done), total)
    words = _("epoch %(done)d of %(total)d") % {"done": done, "total": total}
    return {"words": words, "percent": round(100 * done / total)}


def _metrics(summary: dict[str, Any]) -> list[Metric]:
    """The newest values, with the best where the name says which way is better."""
    last = summary.get("last", {})
    names = [name for name in summary.get("columns", []) if name in last and not AXIS.match(name)]
    found = []
    for name in names[:SHOWN_METRICS]:
        side = "max" if HIGHER.search(name) else "min" if LOWER.search(name) else ""
        found.append(Metric(name, last[name], summary[side].get(name) if side else None))
    return found


def _tokens(job: Job, attempt: Attempt | None, table: int | None) -> str:
    """What head and side listen for: the job, and while it waits each look at the queue; while
    it runs its host, and its metrics (any file, until they have one)."""
    tokens = [f"job:{job.pk}"]
    if job.state == JobState.QUEUED:
        tokens.append("dispatched")
    elif attempt is not None and attempt.is_open:
        tokens += [f"device-state:{attempt.device_id}", f"file:{table}" if table else "file"]
    return " ".join(tokens)


def _number(request: HttpRequest, name: str) -> int | None:
    text = request.GET.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _fresh(answer: dict[str, Any]) -> JsonResponse:
    return JsonResponse(answer, headers={"Cache-Control": "no-store"})
