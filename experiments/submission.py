"""From what a person sends (YAML, form, command line) to a queued job: one way for all doors."""

from collections.abc import Mapping
from typing import Any

from experiments import config
from experiments.errors import NotSubmitted
from experiments.models import Job, Project
from experiments.options import Options


def read(text: bytes | str | None, given: Mapping[str, Any] | None = None) -> config.JobSpec:
    """What would be queued, with the project's defaults laid beneath it; queues nothing.

    Raises:
        config.ConfigInvalid: with every mistake and its place.
        NotSubmitted: no project is named anywhere.
    """
    spec = config.parse(text, given=given, defaults_of=defaults_of)
    if not spec.project:
        raise NotSubmitted(
            "No project is named: give one with the job, or write project: in the file.",
            field="project",
        )
    return spec


def submit(
    text: bytes | str | None,
    given: Mapping[str, Any] | None = None,
    *,
    by=None,
    parent: Job | None = None,
) -> Job:
    """Queue what was sent. Raises as read() does."""
    spec = read(text, given)
    return Job.objects.submit(
        spec, project=spec.project, by=by, name=spec.name or "", parent=parent
    )


def rerun(job: Job, *, by=None, resume: bool = False) -> Job:
    """Queue the same once more: its config byte for byte, and all that was asked for besides.

    Args:
        resume: let it go on from the job's newest checkpoint, instead of anew.

    Raises:
        NotSubmitted: there is no checkpoint to go on from.
    """
    spec = config.JobSpec(
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
    )
    return Job.objects.submit(
        spec, project=job.project.name, by=by, name=job.name, parent=job, resume=resume
    )


def defaults_of(project: str | None) -> Options:
    """A project's own defaults; none for a project that is not there yet."""
    known = Project.objects.filter(name=project).first() if project else None
    if known is None:
        return Options()
    return Options(
        command=known.command or None,
        environment=known.environment or None,
        python=known.python or None,
        working_directory=known.working_directory or None,
    )
