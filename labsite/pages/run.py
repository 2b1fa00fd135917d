"""The page of one run: how it stands, its curves, its log, its config and its files."""

import shlex
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from experiments import discreet, reasons
from experiments.endings import failure
from experiments.models import Attempt, Job
from experiments.states import JobState
from labsite.clock import database_now
from labsite.pages import gpuuse, logs, ranin, runfiles, yamlcolour
from labsite.pages.access import asked, may_change, visible_run
from labsite.pages.code import code_of, contents_of
from labsite.pages.failures import Failure, failure_of
from labsite.pages.filetree import level
from labsite.pages.imported import source_of
from labsite.pages.logs import fresh, number
from labsite.pages.outages import outlook
from labsite.pages.pictures import pictures_of
from labsite.pages.queue import gpu_indices, gpu_words, priorities
from labsite.pages.runfiles import File
from labsite.pages.states import job_badge
from labsite.pages.tries import tries_of, try_words
from labsite.pages.yamldiff import Difference, difference
from sync import summary
from sync.checkpoints.contents import is_checkpoint
from sync.curves import shown as curves

PARTS = {
    "head": "parts/run_head.html",
    "side": "parts/run_side.html",
    "failed": "parts/failed.html",
    "files": "parts/files.html",
    "pictures": "parts/pictures.html",
    "checkpoints": "parts/checkpoints.html",
}
#: So many checkpoints are listed, the newest first; Files has all of them.
SHOWN_CHECKPOINTS = 30

SHOWN_METRICS = 6
FOLLOWED = 50  # files that are behind


@dataclass(frozen=True)
class Metric:
    name: str
    last: float
    best: float | None


@login_required
@require_safe
def run(request: HttpRequest, uid: str) -> HttpResponse:
    job = visible_run(request, uid)
    part = request.GET.get("part")
    if part is not None and part not in PARTS:
        raise Http404
    context = _context(job, request.user, database_now()) | _where(request)
    context["again"] = shlex.join(["lab", "rerun", job.uid])
    context["level"] = level(
        context["files"], context["left_out"], context["folder"], context["sought"]
    )
    if part == "failed":
        context["failed"] = _failed(job)
    if part is not None:
        return render(request, PARTS[part], context)
    return render(request, "pages/run.html", context | _contents(job, context["parent"]))


@login_required
@require_safe
def curve(request: HttpRequest, uid: str) -> JsonResponse:
    """All curves, thinned; or of each source only what came after what the reader has; or, of
    one `source`, the rows `first` to `last` alone."""
    first, last = number(request, "first"), number(request, "last")
    if first is not None and last is not None:
        job, source = visible_run(request, uid), asked(request, "source")
        return fresh(curves.closely(job, source, first, last))
    return fresh(curves.of(visible_run(request, uid), request.GET.get("have", "")))


def _context(job: Job, user: Any, now: datetime) -> dict[str, Any]:
    attempt = job.tries[0] if job.tries else None
    indices = gpu_indices(job.tries)
    found = runfiles.files_of(job, now)
    tries = tries_of(job, indices, now)
    return {
        "job": job,
        "parent": _parent(job, user),
        "badge": job_badge(job, attempt, now),
        "attempt": attempt,
        "gpus": gpu_words(attempt, indices),
        "outlook": outlook(attempt, found, now),
        "tries": tries,
        "try_words": try_words(job),
        "may_change": may_change(user, job),
        "priorities": priorities(user),
        "wants": _wants(job),
        "command": shlex.join(discreet.masked_command(job.command)),
        "code": code_of(job, attempt),
        "imported": source_of(job),
        "ran_in": ranin.facts_of(attempt),
        "given": ranin.given_to(job, attempt),
        "packages": ranin.packages_of(attempt),
        "metrics": _metrics(job),
        "log_name": f"{job.run_name}.log",
        "failure": failure(job, tries[0].sentence if tries else ""),
        "progress": _progress(job),
        "files": found.files,
        "left_out": found.left_out,
        "sync": found.badge,
        "pictures": pictures_of(job.run_name, found.files),
        "checkpoints": _checkpoints(found.files),
        "tokens": _tokens(job, attempt, found),
    }


def _where(request: HttpRequest) -> dict[str, str]:
    """Which of the files are asked for: a folder, and a part of their names."""
    return {"folder": asked(request, "folder").strip("/"), "sought": asked(request, "find")[:200]}


def _checkpoints(files: list[File]) -> list[File]:
    found = [file for file in files if is_checkpoint(file.name)]
    return sorted(found, key=lambda file: file.synced_at, reverse=True)[:SHOWN_CHECKPOINTS]


def _contents(job: Job, parent: Job | None) -> dict[str, Any]:
    """What a part does not show: log, config and how its GPUs are used."""
    text = _shown_config(job)
    with runfiles.opened(job, "log") as part:
        log = {"log": logs.last_window(part), "log_version": part.version, "log_file": part.key}
    return {
        **log,
        "config": yamlcolour.lines(text),
        "is_masked": discreet.MASK in text,
        "difference": _difference(parent, text),
        "contents": contents_of(job),
        "failed": _failed(job),
        "gpu_use": gpuuse.words_of(job, database_now()),
    }


def _failed(job: Job) -> Failure | None:
    """Why it did; None if it did not."""
    if job.state != JobState.FAILED:
        return None
    with runfiles.opened(job, "log") as part:
        return failure_of(job, part)


def _parent(job: Job, user: Any) -> Job | None:
    """What it is a rerun of, if the reader may see that."""
    if job.parent_id is None:
        return None
    seen = Job.objects.visible_to(user).present().select_related("project")
    return seen.filter(pk=job.parent_id).first()


def _difference(parent: Job | None, text: str) -> Difference | None:
    """From the config of the run that it is a rerun of."""
    if parent is None:
        return None
    return difference(_shown_config(parent), text)


def _shown_config(job: Job) -> str:
    return discreet.masked_text(bytes(job.config).decode("utf-8", "replace"))


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


def _metrics(job: Job) -> list[Metric]:
    """The newest values, the project's main metric first, with the best where one knows which
    way is better."""
    values, project = summary.whole(job.summary), job.project
    last = values["last"]
    names = [name for name in values["columns"] if name in last and not curves.axis_kind(name)]
    found = []
    names.sort(key=lambda name: name != project.main_metric)
    for name in names[:SHOWN_METRICS]:
        side = project.better(name)
        found.append(Metric(name, last[name], values[side].get(name) if side else None))
    return found


def _tokens(job: Job, attempt: Attempt | None, found: runfiles.Files) -> str:
    """What head and side listen for: the job, and while it waits each look at the queue; while
    it runs its host, and its metrics (any file, until they have one); after that its files, until
    all are here."""
    tokens = [f"job:{job.pk}"]
    if job.state == JobState.QUEUED:
        tokens.append("dispatched")
    elif attempt is not None and attempt.is_open:
        table = f"file:{found.table}" if found.table else "file"
        tokens += [f"device-state:{attempt.device_id}", table]
    elif found.badge is not None and found.badge.state != "synced":
        tokens.append(f"arrived:{job.pk}")
        tokens += [f"file:{file.key}" for file in found.behind[:FOLLOWED]]
        tokens += ["file"] if found.badge.state == "syncing" else []  # one that is new
    return " ".join(tokens)
