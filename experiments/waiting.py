"""The queue, as a pass of dispatch reads it.

A pass looks at all that waits and changes little of it, so it reads plain rows: to make Django's
objects of ten thousand takes most of a second, each second. A job that is given out is read whole.
"""

import json
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from django.db.models import TextField
from django.db.models.functions import Cast

from experiments.models import Job, Project
from experiments.models.job import run_name


class Waiting(NamedTuple):
    """A queued job; the fields are those of Job."""

    pk: int
    user_id: int | None
    project_id: int
    run_number: int
    priority: int
    submitted_at: datetime
    gpus: int
    gpu_memory_bytes: int | None
    gpu_type: str
    held: bool
    rank: int
    placed: int | None
    sweep_id: int | None
    python: str
    labels: dict[str, Any]
    avoids: dict[str, str]
    waiting: dict[str, Any]
    secrets: list[str]
    requires: dict[str, Any]
    project: Project

    def __str__(self) -> str:
        return f"{self.project.name}/{run_name(self.run_number)}"


AnyJob = Job | Waiting
_JSON = ("labels", "avoids", "waiting", "secrets", "requires")
_PLAIN = tuple(name for name in Waiting._fields if name not in (*_JSON, "project"))


def read_waiting(at_most: int) -> list[Waiting]:
    """The first of what is queued, in line. What is equal in several is one object: it is only to
    be read."""
    queued = Job.objects.queued().real().in_line()
    texts = {f"_{name}": Cast(name, TextField()) for name in _JSON}
    rows = list(queued.annotate(**texts).values_list("project_id", *_PLAIN, *texts)[:at_most])
    projects = _projects({project_id for project_id, *_ in rows})
    parsed = cache(json.loads)
    last = len(_PLAIN)
    return [
        Waiting(*fields[:last], *map(parsed, fields[last:]), projects[project_id])
        for project_id, *fields in rows
        if project_id in projects  # else it was deleted in between
    ]


def _projects(pks: set[int]) -> dict[int, Project]:
    needed = Project.objects.only("name", "private", "created_by")
    return {project.pk: project for project in needed.filter(pk__in=pks)}
