"""Sets of jobs, and how one is queued."""

import secrets
from typing import Any

from django.db import models
from django.utils import timezone

from experiments import reasons
from experiments.errors import LostRace
from experiments.models.event import change, record
from experiments.models.project import Project
from experiments.states import LIVE, EventKind, JobState, Priority
from labsite import wake
from labsite.clock import database_now


class JobQuerySet(models.QuerySet):
    def queued(self) -> "JobQuerySet":
        return self.filter(state=JobState.QUEUED, deleted_at=None)

    def live(self) -> "JobQuerySet":
        return self.filter(state__in=LIVE)

    def present(self) -> "JobQuerySet":
        return self.filter(deleted_at=None)


class JobManager(models.Manager.from_queryset(JobQuerySet)):
    def submit(
        self, spec, *, project: str, by=None, name: str = "", parent=None, resume: bool = False
    ) -> Any:
        """Queue a job: its run's number, its row and its first event in one transaction.

        Args:
            spec: experiments.config.JobSpec, with the project's defaults laid beneath it.
            project: the project's name; made when there is none of that name.
            by: the user.
            parent: the job that this one reruns or resumes.
            resume: begin with the parent's newest checkpoint and metrics.

        Raises:
            NotSubmitted: the project's name cannot be one, or the parent has no checkpoint.
        """
        with change():
            into = Project.named(project, by=by)
            number = into.next_run()
            job = self.create(
                uid=self._new_uid(),
                project=into,
                run_number=number,
                user=by,
                name=name or spec.name or "",
                parent=parent,
                submitted_at=database_now(),
                waiting=reasons.NOT_SEEN_YET,
                resume_point=parent.handed_on(number) if resume else {},
                **_fields_of(spec),
            )
            record(job, EventKind.SUBMITTED, by=by, to_state=JobState.QUEUED)
        wake.ask_dispatch()
        return job

    def _new_uid(self) -> str:
        """`YYYYMMDD_` (the lab's day) and 4 hex digits, more when those are taken."""
        day = timezone.localtime().strftime("%Y%m%d")
        for digits in (4, 4, 4, 6, 8, 16):
            uid = f"{day}_{secrets.token_hex(digits // 2)}"
            if not self.filter(uid=uid).exists():
                return uid
        raise LostRace("No free identifier was found; submit once more.")


def _fields_of(spec) -> dict[str, Any]:
    return {
        "config": spec.config,
        "keys": spec.keys,
        "command": list(spec.command),
        "environment": dict(spec.environment),
        "python": spec.python or "",
        "working_directory": spec.working_directory or "",
        "gpus": spec.gpus,
        "gpu_memory_bytes": spec.gpu_memory_bytes,
        "gpu_type": spec.gpu_type or "",
        "labels": dict(spec.labels),
        "priority": Priority[spec.priority.upper()],
        "time_limit_seconds": spec.time_limit_seconds,
        "stop_grace_seconds": spec.stop_grace_seconds,
        "max_attempts": spec.max_attempts,
        "on_device_lost": spec.on_device_lost,
        "tags": list(spec.tags),
    }
