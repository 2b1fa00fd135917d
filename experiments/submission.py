"""From what a person sends (YAML, form, command line) to a queued job: one way for all doors."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _

from experiments import config
from experiments.errors import NotSubmitted
from experiments.models import Job, Project, Snapshot
from experiments.models.queue import check_may_call, priority_again
from experiments.models.secret import check_all_kept
from experiments.models.snapshot import no_snapshot
from experiments.models.submitkey import Asked, once
from experiments.options import Options, options_of
from experiments.states import Priority


def read(
    text: bytes | str | None,
    given: Mapping[str, Any] | None = None,
    *,
    by: Any = None,
    is_sent: bool = True,
) -> config.JobSpec:
    """What would be queued, with the project's defaults laid beneath it; queues nothing.

    Args:
        by: who reads: of a project that they do not see no default is told. None: the server.
        is_sent: whether the snapshot that it may name must be here already.

    Raises:
        config.ConfigInvalid: with every mistake and its place.
        NotSubmitted: no project is named anywhere, or a secret that is kept nowhere.
        NotAllowed: `by` may not queue anything, or not in that project, or not with that priority.
    """
    seen = Project.objects.all() if by is None else Project.objects.visible_to(by)
    spec = config.parse(text, given=given, defaults_of=partial(defaults_of, seen=seen))
    if not spec.project:
        raise NotSubmitted(
            _("No project is named: give one with the job, or write project: in the file."),
            field="project",
        )
    if by is not None:
        _check_allowed(spec, by)
    if is_sent:
        _check_source(spec, by)
    return spec


def _check_allowed(spec: config.JobSpec, by: Any) -> None:
    name = spec.project or ""
    project = Project.objects.filter(name=name).first() or Project(name=name, created_by=by)
    project.check_submit(by)
    check_may_call(Priority[spec.priority.upper()], by)
    check_all_kept(Job(project=project, user=by, secrets=spec.secrets))


def _check_source(spec: config.JobSpec, by: Any) -> None:
    """Raises: NotSubmitted: there is no such snapshot, or it is somebody else's."""
    if not spec.source or spec.source["kind"] != "snapshot":
        return
    if Snapshot.objects.for_job_of(by, spec.source["sha256"]) is None:
        raise NotSubmitted(no_snapshot(), field="source")


def submit(
    text: bytes | str | None,
    given: Mapping[str, Any] | None = None,
    *,
    by=None,
    parent: Job | None = None,
    asked: Asked | None = None,
) -> Job:
    """Queue one job; of a request that came before, what that has queued.

    Raises:
        config.ConfigInvalid, NotAllowed: as read().
        NotSubmitted: as read(), or it is a sweep of several.
    """
    spec = read(text, given, by=by)
    if spec.sweep is not None:
        words = _("This config is a sweep of %(n)d runs: send it to /api/sweeps/.")
        raise NotSubmitted(words % {"n": spec.sweep.size}, field="sweep")
    named = {"project": spec.project, "name": spec.name or ""}
    return once(asked, lambda: Job.objects.submit(spec, by=by, parent=parent, **named))


def rerun(
    job: Job,
    *,
    by=None,
    resume: bool = False,
    spec: config.JobSpec | None = None,
    asked: Asked | None = None,
) -> Job:
    """Queue the same once more: its config byte for byte, and all that was asked for besides.

    Args:
        resume: let it go on from the job's newest checkpoint, instead of anew.
        spec: what is asked for instead (experiments.reruns); None: the same.

    Raises:
        NotSubmitted: there is no checkpoint to go on from; or it was imported, and its config
            does not say how it is run.
    """
    wanted = spec or again_of(job, by=by)
    wanted = replace(wanted, priority=priority_again(job, by).name.lower())
    same = {"project": job.project.name, "name": job.name, "parent": job, "resume": resume}
    return once(asked, lambda: Job.objects.submit(wanted, by=by, **same))


def again_of(job: Job, *, by: Any = None) -> config.JobSpec:
    """What a rerun asks for: the same; of an imported run, of which nobody said how it was run,
    what its config asks for if it is queued now.

    Raises:
        NotSubmitted: that is not enough; the sentence says what is missing.
    """
    if job.imported_at is None:
        return spec_of(job)
    given = {"project": job.project.name, "name": job.name, "tags": job.tags}
    try:
        said = {name: value for name, value in given.items() if value}
        return replace(read(bytes(job.config), said, by=by), sweep=None)
    except config.ConfigInvalid as exc:
        words = _(
            "%(job)s was imported, and how it is run here is not known: choose Rerun with a "
            "change, or submit its config with a command (%(why)s)"
        )
        told = words % {"job": job, "why": exc.mistakes[0].message}
        raise NotSubmitted(told, field="command") from exc


def spec_of(job: Job) -> config.JobSpec:
    """What was asked for, as it would be queued again."""
    return config.JobSpec(
        config=bytes(job.config),
        keys=job.keys,
        project=job.project.name,
        name=job.name or None,
        command=job.command,
        environment=job.environment,
        python=job.python or None,
        working_directory=job.working_directory or None,
        gpus=job.gpus,
        gpu_memory_bytes=job.gpu_memory_bytes,
        gpu_type=job.gpu_type or None,
        labels=job.labels,
        priority=job.get_priority_name(),
        time_limit_seconds=job.time_limit_seconds,
        stop_grace_seconds=job.stop_grace_seconds,
        max_attempts=job.max_attempts,
        on_device_lost=job.on_device_lost,
        tags=job.tags,
        outputs=job.outputs,
        ignore=job.ignore,
        sync=job.sync,
        source=job.source,
        links=job.links,
        secrets=job.secrets,
        requires=job.requires,
    )


def defaults_of(project: str | None, *, seen: QuerySet[Project]) -> Options:
    """A project's own defaults; none for one that is not there yet, or not among those `seen`."""
    known = seen.filter(name=project).first() if project else None
    if known is None:
        return Options()
    return Options(
        command=known.command or None,
        environment=known.environment or None,
        python=known.python or None,
        working_directory=known.working_directory or None,
        outputs=known.outputs or None,
        ignore=known.ignore or None,
        sync=options_of({"sync": known.sync}).sync if known.sync else None,
        secrets=known.secrets or None,
        requires=known.requires or None,
    )
