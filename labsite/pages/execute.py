"""Execute: from a YAML, a file or a bare command line to a job, or to a sweep, in the queue."""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from devices.models import GPU
from experiments import discreet, submission, sweeps
from experiments.config import JobSpec
from experiments.grid import Grid
from experiments.models import Asked, Job, Project, Secret, Sweep
from experiments.places import read_places
from experiments.table import tags
from labsite.clock import database_now
from labsite.errors import Refused
from labsite.pages import differing, sweepwords
from labsite.pages.access import asked, submitters_only
from labsite.pages.code import foreseen
from labsite.pages.commands import typed
from labsite.pages.fitting import fits_of, next_runs, product_of, turn_of
from labsite.pages.queue import priorities
from labsite.pages.starting import (
    AS_TYPED,
    FIELDS,
    REQUIRES,
    Start,
    choices,
    kept_of,
    kept_of_sweep,
    start_from,
    sweep_of,
)

SHOWN_PLACES = 8
#: What the agent lays before the command of `python: uv`.
BY_UV = ("uv", "run", "--frozen", "--")
SHOWN_POINTS = 5
_ONCE = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Wish:
    """The form as it was sent."""

    values: dict[str, str]
    parent: Job | None
    sweep: Sweep | None = None  # that it started from
    once: str = ""  # of the page that it was typed on, as it was first shown

    @property
    def text(self) -> str:
        return self.values["config"]

    def given(self) -> dict[str, Any]:
        """The form in the words of a `lab:` block; what was left empty is not said.

        Raises:
            NotSubmitted: the sweep is not of its form.
        """
        values = self.values
        given = self._kept()
        given |= {name: values[name] for name in AS_TYPED if values[name]}
        if values["tags"]:
            given["tags"] = tags.parted(values["tags"])
        if values["secrets"]:
            given["secrets"] = _lines(values["secrets"])
        if requires := {name: _lines(values[name]) for name in REQUIRES if values[name]}:
            given["requires"] = requires
        if resources := _resources(values):
            given["resources"] = {**given.get("resources", {}), **resources}
        if values["sweep"]:
            as_arguments = {"arguments": True} if given.get("sweep", {}).get("arguments") else {}
            given["sweep"] = sweepwords.grid_of(values["sweep"]) | as_arguments
            if values["max_running"]:
                given["sweep"]["max_running"] = _number(values["max_running"])
        return given

    def _kept(self) -> dict[str, Any]:
        if self.parent is not None:
            return kept_of(self.parent)
        return kept_of_sweep(self.sweep) if self.sweep is not None else {}

    def read(self, by: Any) -> JobSpec:
        """Raises: Refused, with what is wrong."""
        return submission.read(self.text, self.given(), by=by)

    def asked(self, by: Any) -> Asked | None:
        """The same form, sent twice from one page (a double click, a reload), is one request."""
        if not _ONCE.fullmatch(self.once):
            return None
        told = hashlib.sha256(repr(sorted(self.values.items())).encode("utf-8", "surrogatepass"))
        return Asked(by, f"page-{self.once}-{told.hexdigest()[:32]}", told.hexdigest())

    def submit(self, by) -> Model:
        """The job, or the sweep, that it became. Raises: Refused."""
        spec, asked = self.read(by), self.asked(by)
        if spec.sweep is not None:
            return sweeps.submit(self.text, self.given(), by=by, asked=asked)
        return submission.submit(self.text, self.given(), by=by, parent=self.parent, asked=asked)


@dataclass(frozen=True)
class Look:
    """What a wish would become, as far as one can see before it is queued."""

    spec: JobSpec | None = None  # None: something is wrong
    points: tuple[sweeps.Point, ...] = ()  # the first of a sweep
    mistakes: tuple[dict[str, Any], ...] = ()


@submitters_only
@require_http_methods(["GET", "HEAD", "POST"])
def execute(request: HttpRequest) -> HttpResponse:
    """With `look` in the form nothing is queued: it is shown what would be."""
    start, refusal = _start(request), ()
    wish = Wish(start.values, start.parent, start.sweep)
    if request.method == "POST":
        wish = _wish(request)
        if "look" not in request.POST:
            try:
                return redirect(_page_of(_queued(wish, request)))
            except Refused as refused:
                refusal = _mistakes(refused)
    look = _look(wish, request.user)
    mistakes = (refusal or look.mistakes) if request.method == "POST" else ()
    wish.values["config"] = wish.text.encode("utf-8", "replace").decode()
    context = {
        "values": wish.values,
        "once": wish.once if _ONCE.fullmatch(wish.once) else secrets.token_hex(16),
        "parent": wish.parent,
        "mistakes": mistakes,
        **preview(wish, look, request),
        "starts": choices(request.user),
        "started": asked(request, "start"),
        "projects": _projects(request.user).values_list("name", flat=True),
        "gpu_types": GPU.objects.order_by("name").values_list("name", flat=True).distinct(),
        "priorities": priorities(request.user),
        "secrets": _secrets(request.user, _lines(wish.values["secrets"])),
    }
    return render(request, "pages/execute.html", context, status=400 if mistakes else 200)


@submitters_only
@require_POST
def check(request: HttpRequest) -> JsonResponse:
    """What the editor asks while one types: the mistakes with their places, and the preview."""
    wish = _wish(request)
    look = _look(wish, request.user)
    return JsonResponse(
        {"mistakes": look.mistakes, **preview(wish, look, request)},
        headers={"Cache-Control": "no-store"},
    )


def _queued(wish: Wish, request: HttpRequest) -> Model:
    """Raises: Refused."""
    asked = wish.asked(request.user)
    if asked and (before := asked.before()):
        messages.info(request, _("It is queued already, from the same page: this is it."))
        return before
    return wish.submit(request.user)


def _page_of(made: Model) -> Any:
    """For redirect(): a job's page, or a sweep's."""
    return f"/runs/{made.uid}/" if isinstance(made, Job) else f"/sweeps/{made.pk}/"


def _secrets(user: Any, chosen: Sequence[str]) -> dict[str, bool]:
    """The names to choose from, and which of them are chosen: also one that is kept no more."""
    names = dict.fromkeys([*Secret.objects.usable_by(user), *chosen])
    return {name: name in chosen for name in names}


def _projects(user):
    return Project.objects.visible_to(user).listed()


# --- the form ------------------------------------------------------------------------------------


def _start(request: HttpRequest) -> Start:
    kind, _sign, name = asked(request, "start").partition(":")
    for word, of_kind in (("project", "project"), ("config", "config"), ("from", "run")):
        if asked(request, word):
            kind, name = of_kind, asked(request, word)
    return start_from(kind, name, request.user)


def _wish(request: HttpRequest) -> Wish:
    values = {name: request.POST.get(name, "").strip() for name in FIELDS}
    values["secrets"] = "\n".join(request.POST.getlist("secrets")).strip()  # boxes of one name
    values["config"] = request.POST.get("config", "").replace("\r\n", "\n")
    upload = request.FILES.get("upload")
    if upload is not None and not values["config"].strip():
        values["config"] = upload.read().decode("utf-8", "surrogateescape")  # byte for byte
    jobs = Job.objects.visible_to(request.user).present().select_related("project")
    uid = values["parent"].replace("\x00", "")
    parent = jobs.filter(uid=uid).first() if uid else None
    sweep = sweep_of(values["again"], request.user)
    return Wish(values, parent, sweep, once=request.POST.get("once", ""))


def _resources(values: dict[str, str]) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    if values["gpus"]:
        resources["gpus"] = _number(values["gpus"])
    if values["gpu_memory"]:
        memory = values["gpu_memory"]
        is_bare = memory.replace(".", "", 1).isdecimal()
        resources["gpu_memory"] = f"{memory}GiB" if is_bare else memory
    if values["gpu_type"]:
        resources["gpu_type"] = values["gpu_type"]
    return resources


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _number(text: str) -> int | str:
    """As it is, where it is none: the reader of options says so."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else text


def _look(wish: Wish, by: Any) -> Look:
    """Of a sweep the first runs are made up, as all of them are at the end."""
    try:
        spec = wish.read(by)
        points = sweeps.points_of(spec, wish.given(), SHOWN_POINTS) if spec.sweep else ()
        return Look(spec, tuple(points))
    except Refused as refused:
        return Look(mistakes=_mistakes(refused))


def _mistakes(refused: Refused) -> tuple[dict[str, Any], ...]:
    """As the config's reader names them; any other refusal is one without a place."""
    alone = {"line": None, "column": None, "field": refused.facts.get("field", "")}
    return tuple(refused.facts.get("errors") or [{**alone, "message": str(refused)}])


# --- the preview ---------------------------------------------------------------------------------


def preview(wish: Wish, look: Look, request: HttpRequest) -> dict[str, str]:
    """HTML of what will run, where it fits and when it is its turn (`preview`), and of the runs of
    a sweep and what differs (`wide`). Empty of all that while it is wrong."""
    context = _foreseen(look.spec, wish, look, request) if look.spec else {"spec": None}
    parts = {"preview": "parts/preview.html", "wide": "parts/preview_wide.html"}
    return {name: render_to_string(part, context, request) for name, part in parts.items()}


def _foreseen(spec: JobSpec, wish: Wish, look: Look, request: HttpRequest) -> dict[str, Any]:
    fits = fits_of(spec, read_places(database_now()), request.user)
    count = spec.sweep.size if spec.sweep else 1
    by_uv = (fits[0].python if fits else spec.python) == "uv"
    return {
        "spec": spec,
        "fits": fits[:SHOWN_PLACES],
        "code": foreseen(spec, fits[0].device) if fits else None,
        "others": len(fits[SHOWN_PLACES:]),
        "words": typed([*(BY_UV if by_uv else ()), *discreet.masked_command(spec.command)]),
        "warnings": discreet.warnings_of(spec.keys, spec.sweep.tried() if spec.sweep else {}),
        "run_name": _names(spec, *next_runs(spec, count, request.user)),
        "turn": turn_of(spec, fits, count, request.user),
        **(_of_sweep(spec, spec.sweep, look.points) if spec.sweep else {}),
        **_of_parent(spec, wish),
    }


def _of_sweep(spec: JobSpec, grid: Grid, points: Sequence[sweeps.Point]) -> dict[str, Any]:
    masked = [discreet.masked(point.values) for point in points]
    shown = [
        [differing.shown(values[key]) if key in values else "" for key in grid.keys]
        for values in masked
    ]
    return {
        "sweep": grid,
        "points": shown,
        "more_points": grid.size - len(shown),
        "product": product_of(grid),
        "added": sweeps.added_keys(spec.config, grid.keys),
    }


def _of_parent(spec: JobSpec, wish: Wish) -> dict[str, Any]:
    if wish.parent is None:
        return {}
    before = discreet.masked_text(bytes(wish.parent.config).decode("utf-8", "replace"))
    return {
        "parent": wish.parent,
        "differences": differing.differences(wish.parent, spec),
        "diff": differing.lines(before, discreet.masked_text(wish.text)),
    }


def _names(spec: JobSpec, first: str, last: str) -> str:
    return f"{spec.project} / {first}" + (f"–{last}" if last != first else "")
