"""Execute: from a YAML, a file or a bare command line to a job in the queue."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_http_methods, require_POST

from devices.models import Device
from experiments import configfiles, submission
from experiments.config import JobSpec
from experiments.errors import NotSubmitted
from experiments.models import Job, Project
from experiments.places import Place, read_places
from labsite.clock import database_now
from labsite.errors import Refused
from labsite.pages.access import asked
from labsite.pages.queue import priorities
from labsite.pages.states import Badge

FIELDS = ("project", "name", "priority", "gpus", "command", "config")
SHOWN_PLACES = 8
_FILLED_IN = re.compile(r"'(\{(?:config|run_dir|run_name)\})'")


@dataclass(frozen=True)
class Fit:
    """One GPU server, seen from the run that is being written."""

    device: Device
    badge: Badge
    words: str
    folder: str
    python: str
    user: str


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def execute(request: HttpRequest) -> HttpResponse:
    values, mistakes = _start(request), []
    if request.method == "POST":
        values = _values(request)
        try:
            job = submission.submit(values["config"], _given(values), by=request.user)
        except Refused as refused:
            mistakes = _mistakes(refused)
            values["config"] = values["config"].encode("utf-8", "replace").decode()
        else:
            return redirect("run", uid=job.uid)
    context = {
        "values": values,
        "mistakes": mistakes,
        "preview": preview(values, request),
        "projects": Project.objects.values_list("name", flat=True),
        "configs": configfiles.names(),
        "priorities": priorities(request.user),
    }
    return render(request, "pages/execute.html", context, status=400 if mistakes else 200)


@login_required
@require_POST
def check(request: HttpRequest) -> JsonResponse:
    """What the editor asks while one types: the mistakes with their places, and the preview."""
    values = _values(request)
    return JsonResponse(
        {"mistakes": mistakes_of(values), "preview": preview(values, request)},
        headers={"Cache-Control": "no-store"},
    )


def _start(request: HttpRequest) -> dict[str, str]:
    """The form at first: empty, a config of the lab's stock, or an earlier run's."""
    values = dict.fromkeys(FIELDS, "")
    if name := asked(request, "config"):
        text = _stored(name)
        return values | {"config": text, "project": _suggested_project(name, text)}
    if uid := asked(request, "from"):
        job = get_object_or_404(Job.objects.present().select_related("project"), uid=uid)
        return values | _of_run(job)
    return values


def _stored(name: str) -> str:
    try:
        return configfiles.read(name).decode("utf-8", "replace")
    except Refused:
        return ""


def _suggested_project(name: str, text: str) -> str:
    """The config's own name, for one that names no project."""
    try:
        submission.read(text)
    except NotSubmitted:
        return PurePath(name).stem
    except Refused:
        pass  # the editor says what is wrong
    return ""


def _of_run(job: Job) -> dict[str, str]:
    """What was asked for, as far as its own config does not say it."""
    return {
        "config": bytes(job.config).decode("utf-8", "replace"),
        "project": job.project.name,
        "name": job.name,
        "priority": job.get_priority_name(),
        "gpus": str(job.gpus),
        "command": "" if job.config else _typed(job.command),
    }


def _values(request: HttpRequest) -> dict[str, str]:
    values = {name: request.POST.get(name, "").strip() for name in FIELDS}
    values["config"] = request.POST.get("config", "").replace("\r\n", "\n")
    upload = request.FILES.get("upload")
    if upload is not None and not values["config"].strip():
        values["config"] = upload.read().decode("utf-8", "surrogateescape")  # byte for byte
    return values


def _given(values: dict[str, str]) -> dict[str, Any]:
    """The form in the words of a `lab:` block; what was left empty is not said."""
    given: dict[str, Any] = {
        name: values[name] for name in ("project", "name", "priority", "command") if values[name]
    }
    if values["gpus"]:
        number = values["gpus"]
        given["resources"] = {
            "gpus": int(number) if number.isdecimal() and len(number) < 4 else number
        }
    return given


def mistakes_of(values: dict[str, str]) -> list[dict[str, Any]]:
    try:
        submission.read(values["config"], _given(values))
    except Refused as refused:
        return _mistakes(refused)
    return []


def _mistakes(refused: Refused) -> list[dict[str, Any]]:
    """As the config's reader names them; any other refusal is one without a place."""
    alone = {"line": None, "column": None, "field": refused.facts.get("field", "")}
    return refused.facts.get("errors") or [{**alone, "message": str(refused)}]


def preview(values: dict[str, str], request: HttpRequest) -> str:
    """HTML: the command that will run, and where it fits now. Empty of both while it is wrong."""
    try:
        spec = submission.read(values["config"], _given(values))
    except Refused:
        spec = None
    context = {"spec": spec, "fits": [], "others": 0}
    if spec is not None:
        fits = fits_of(spec, read_places(database_now()))
        context |= {"fits": fits[:SHOWN_PLACES], "others": len(fits[SHOWN_PLACES:])}
        context |= {"words": _typed(spec.command), "run_name": _next_run(spec)}
    return render_to_string("parts/preview.html", context, request)


def fits_of(spec: JobSpec, places: Sequence[Place]) -> list[Fit]:
    """Every GPU server, those that fit now first."""
    job = Job(
        gpus=spec.gpus,
        gpu_memory_bytes=spec.gpu_memory_bytes,
        gpu_type=spec.gpu_type or "",
        labels=spec.labels,
    )
    now = database_now()
    order = {"healthy": 0, "waiting": 1}
    fits = [_fit(spec, job, place, *_how(job, place, now)) for place in places]
    return sorted(fits, key=lambda fit: order.get(fit.badge.state, 2))


def _how(job: Job, place: Place, now) -> tuple[Badge, str]:
    if not place.could_ever(job):
        return Badge("free", "close", _("never")), _("it has not what the run asks for")
    if not place.accepts:
        return Badge("stale", "s-stale", _("not now")), _(
            "it is not connected or takes no new jobs"
        )
    if place.fits(job, now):
        return Badge("healthy", "s-healthy", _("now")), _free_words(len(place.free_for(job)), job)
    if place.outside:
        return Badge("waiting", "s-waiting", _("later")), _("GPUs are used outside the queue")
    return Badge("waiting", "s-waiting", _("later")), _("when a run there ends")


def _free_words(free: int, job: Job) -> str:
    if not job.gpus:
        return _("a place without a GPU is free")
    return ngettext("%(n)d GPU free", "%(n)d GPUs free", free) % {"n": free}


def _fit(spec: JobSpec, job: Job, place: Place, badge: Badge, words: str) -> Fit:
    device = place.device
    wished = spec.working_directory or device.working_directory or ""
    absolute = wished.startswith(("/", "~"))
    folder = wished if absolute else "/".join(filter(None, [device.source_directory, wished]))
    python = spec.python or device.python or _("the agent's own")
    return Fit(device, badge, words, folder, python, device.unix_user)


def _next_run(spec: JobSpec) -> str:
    project = Project.objects.filter(name=spec.project).first()
    return f"{spec.project} / run_{(project.last_run if project else 0) + 1:03d}"


def _typed(command: Sequence[str]) -> str:
    """As one would type it; what the agent fills in stays readable."""
    return _FILLED_IN.sub(r"\1", shlex.join(command))
