"""What a new run may start from: a template, a config of the lab's stock, an earlier run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from django.conf import settings
from django.db.models import Max
from django.utils.translation import gettext as _

from experiments import config, configfiles, submission
from experiments.config import JobSpec
from experiments.errors import NotSubmitted
from experiments.models import Job, Project, Sweep
from experiments.table import tags
from labsite.errors import Refused
from labsite.pages import sweepwords
from labsite.pages.commands import typed

EXAMPLES = Path(settings.BASE_DIR) / "examples"
OWN_RUNS, PROJECTS = 8, 20
#: Fields that are said in the words of the `lab:` block as they were typed.
AS_TYPED = ("project", "name", "priority", "command", "time_limit")
#: Of `requires:`; each is a list, in the form one entry a line.
REQUIRES = ("paths", "commands")
RESOURCES = ("gpus", "gpu_memory", "gpu_type")
#: Of the form, in its order; `parent` is the run that it started from, `again` the sweep.
FIELDS = (
    "project", "name", "priority", "gpus", "gpu_memory", "gpu_type", "time_limit", "tags",
    "command", "secrets", "paths", "commands", "sweep", "max_running", "config", "parent",
    "again",
)  # fmt: skip


@dataclass(frozen=True)
class Start:
    """The form at first."""

    values: dict[str, str] = field(default_factory=lambda: dict.fromkeys(FIELDS, ""))
    parent: Job | None = None
    sweep: Sweep | None = None


def choices(user) -> list[tuple[str, list[tuple[str, str]]]]:
    """For the select: groups of (value, words); the value is `kind:name`."""
    own = Job.objects.visible_to(user).present().filter(user=user).order_by("-id")
    projects = Project.objects.visible_to(user).listed()
    newest = projects.annotate(newest=Max("jobs")).exclude(newest=None).order_by("-newest")
    last = Job.objects.present().filter(pk__in=newest.values_list("newest", flat=True)[:PROJECTS])
    groups = [
        (_("Your last runs"), _of_runs(own.select_related("project")[:OWN_RUNS])),
        (
            _("Last run of a project"),
            _of_runs(last.select_related("project").order_by("project__name")),
        ),
        (_("Configs of the lab"), [(f"config:{name}", name) for name in configfiles.names()]),
        (_("Templates"), [(f"example:{name}", name) for name in examples()]),
    ]
    return [(label, options) for label, options in groups if options]


def _of_runs(jobs: Sequence[Job]) -> list[tuple[str, str]]:
    return [(f"run:{job.uid}", f"{job} {job.name}".strip()) for job in jobs]


def examples() -> list[str]:
    """The templates that come with the lab, as paths relative to their folder."""
    return sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.yaml"))


def start_from(kind: str, name: str, user) -> Start:
    """Empty, where there is none of that kind and name."""
    if kind == "run":
        return _from_run(name, user)
    if kind == "sweep":
        return _from_sweep(name, user)
    if kind == "project":
        return _in_project(name, user)
    if kind == "config":
        return _from_text(name, _stored(name), user)
    if kind == "example" and name in examples():
        return _from_text(name, (EXAMPLES / name).read_text(), user)
    return Start()


def _in_project(name: str, user: Any) -> Start:
    """A new run of this project, with nothing else said."""
    there = Project.objects.visible_to(user).listed().filter(name=name).exists()
    return Start({**Start().values, "project": name}) if there else Start()


def _stored(name: str) -> str:
    try:
        return configfiles.read(name).decode("utf-8", "replace")
    except Refused:
        return ""


def _from_text(name: str, text: str, user: Any) -> Start:
    start = Start()
    project = _suggested_project(name, text, user) if text else ""
    return Start({**start.values, "config": text, "project": project})


def _suggested_project(name: str, text: str, user: Any) -> str:
    """The config's own name, for one that names no project."""
    try:
        submission.read(text, by=user)
    except NotSubmitted:
        return PurePath(name).stem
    except Refused:
        pass  # the editor says what is wrong
    return ""


# --- an earlier run ------------------------------------------------------------------------------


def _from_run(uid: str, user) -> Start:
    jobs = Job.objects.visible_to(user).present().select_related("project")
    job = jobs.filter(uid=uid).first()
    if job is None:
        return Start()
    if job.imported_at:  # what it asked for nobody said
        said, asked = {}, _words_of_imported(job)
    else:
        said, asked = _said_by_its_config(job), words_of(submission.spec_of(job))
    values = {name: words for name, words in asked.items() if words != said.get(name, "")}
    text = bytes(job.config).decode("utf-8", "replace")
    return Start({**Start().values, **values, "config": text, "parent": job.uid}, job)


def _words_of_imported(job: Job) -> dict[str, str]:
    return {"project": job.project.name, "name": job.name, "tags": ", ".join(job.tags)}


def _from_sweep(pk: str, user) -> Start:
    """A sweep once more: its config with its grid, and what was said besides."""
    found = sweep_of(pk, user)
    if found is None:
        return Start()
    given, resources = found.given, found.given.get("resources", {})
    said = {name: given[name] for name in AS_TYPED if isinstance(given.get(name), str)}
    if isinstance(given.get("command"), list):
        said["command"] = typed(given["command"])
    asked = {name: str(resources[name]) for name in RESOURCES if name in resources}
    sweep = _in_order(given.get("sweep", {}), found.keys)
    most = sweep.get("max_running", "")
    return Start(
        {
            **Start().values,
            **said,
            **asked,
            "tags": tags.typed(map(str, given.get("tags", []))),
            **_needs(given.get("secrets", []), given.get("requires", {})),
            "sweep": sweepwords.words_of(sweep),
            "max_running": str(most),
            "config": bytes(found.config).decode("utf-8", "replace"),
            "again": str(found.pk),
        },
        sweep=found,
    )


def sweep_of(pk: str, user: Any) -> Sweep | None:
    is_key = pk.isascii() and pk.isdecimal() and len(pk) < 19
    return Sweep.objects.visible_to(user).filter(pk=pk).first() if is_key else None


def _in_order(sweep: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """As it was said: PostgreSQL keeps no order of what is in JSON."""
    grid = sweep.get("grid")
    if not isinstance(grid, dict):
        return sweep
    return {**sweep, "grid": {key: grid[key] for key in keys if key in grid}}


def _said_by_its_config(job: Job) -> dict[str, str]:
    """In the words of the form: what it need not say again."""
    alone = _alone(job)
    if alone is None:
        return {}
    text = bytes(job.config)
    named = config.parse(text, given={"command": job.command}).project or ""
    try:
        command = typed(submission.read(text, {"project": job.project.name}).command)
    except Refused:  # it was given with the job
        command = ""
    return {**words_of(alone), "project": named, "command": command}


def _alone(job: Job) -> JobSpec | None:
    """What would be asked for with its config, its project and its command only."""
    given = {"project": job.project.name, "command": job.command}
    given |= {"source": job.source} if job.source else {}
    try:
        return submission.read(bytes(job.config), given)
    except Refused:
        return None


def words_of(spec: JobSpec) -> dict[str, str]:
    """A spec in the words of the form; what has a value of its own in the lab is not said."""
    return {
        "project": spec.project or "",
        "name": spec.name or "",
        "priority": spec.priority,
        "gpus": str(spec.gpus),
        "gpu_memory": f"{spec.gpu_memory_bytes / 2**30:g}" if spec.gpu_memory_bytes else "",
        "gpu_type": spec.gpu_type or "",
        "time_limit": f"{spec.time_limit_seconds:g}s" if spec.time_limit_seconds else "",
        "tags": tags.typed(spec.tags),
        "command": typed(spec.command),
        **_needs(spec.secrets, spec.requires),
    }


def _needs(secrets: Sequence[str], requires: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Of what a run needs the fields that hold several, one a line."""
    lines = {"secrets": secrets, **{name: requires.get(name, []) for name in REQUIRES}}
    return {name: "\n".join(map(str, several)) for name, several in lines.items()}


def kept_of_sweep(sweep: Sweep) -> dict[str, Any]:
    """What was given besides its config, and the form has no field for: its code, say."""
    in_form = {*AS_TYPED, "tags", "resources", "sweep", "secrets", "requires"}
    given = {name: value for name, value in sweep.given.items() if name not in in_form}
    if labels := sweep.given.get("resources", {}).get("labels"):
        given["resources"] = {"labels": labels}
    block = _in_order(sweep.given.get("sweep", {}), sweep.keys)
    if block and not sweepwords.words_of(block):
        given["sweep"] = block
    return given


def kept_of(job: Job) -> dict[str, Any]:
    """What the form has no field for and the run's config does not say: it was given besides, and
    is again."""
    if job.imported_at:
        return {}
    asked = submission.spec_of(job)
    alone = _alone(job) or replace(asked, environment={}, labels={})
    given: dict[str, Any] = {"source": job.source} if job.source else {}
    for name in ("environment", "python", "working_directory", "max_attempts", "on_device_lost",
                 "outputs", "ignore", "links"):  # fmt: skip
        if getattr(asked, name) != getattr(alone, name) and getattr(asked, name):
            given[name] = getattr(asked, name)
    if asked.stop_grace_seconds != alone.stop_grace_seconds:
        given["stop_grace"] = f"{asked.stop_grace_seconds:g}s"
    if asked.sync != alone.sync:
        given["sync"] = {
            "checkpoints": asked.sync.get("checkpoints"),
            "max_file": f"{asked.sync.get('max_file_bytes', 0)}B",
        }
    if asked.labels != alone.labels:
        given["resources"] = {"labels": asked.labels}
    return given
