"""A run's files as the server has them."""

import csv
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.http import Http404

from experiments.models import Job
from labsite.pages.states import Badge

MAX_POINTS = 2000


@dataclass
class File:
    name: str
    size: int
    changed_at: datetime
    badge: Badge | None


def folder_of(job: Job) -> Path:
    return settings.LAB_LOGS_DIR / job.project.name


def path_of(job: Job, suffix: str) -> Path:
    return folder_of(job) / f"{job.run_name}.{suffix}"


def files(job: Job, now: datetime) -> list[File]:
    found = sorted(folder_of(job).glob(f"{job.run_name}[._]*"))
    return [_file(path) for path in found if path.is_file()]


def _file(path: Path) -> File:
    facts = path.stat()
    return File(path.name, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC), None)


def find(job: Job, name: str) -> Path:
    for path in folder_of(job).glob(f"{job.run_name}[._]*"):
        if path.name == name and path.is_file() and not path.is_symlink():
            return path
    raise Http404


def sync_badge(job: Job, now: datetime) -> Badge | None:
    return None


def last_epoch(job: Job) -> float | None:
    value = (job.summary.get("last") or {}).get("epoch")
    return value if isinstance(value, int | float) else None


def curve(path: Path, after: int | None) -> dict[str, Any]:
    """What the page's chart is made of: columns, and for each its values, None for a gap.

    `next` is the byte after the last whole row; rows after it come with `after=next`.
    """
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    data = data[: data.rfind(b"\n") + 1]
    header, _, body = data.partition(b"\n")
    start = after if after and len(header) < after <= len(data) else 0
    rows = list(
        csv.reader((data[start:] if start else body).decode("utf-8", "replace").split("\n"))
    )
    columns = next(csv.reader([header.decode("utf-8", "replace")]), [])
    rows = [row for row in rows if len(row) == len(columns)]
    step = max(1, len(rows) // MAX_POINTS)
    return {
        "columns": columns,
        "data": [[_number(row[at]) for row in rows[::step]] for at in range(len(columns))],
        "start": start,
        "next": len(data),
        "rows": len(rows),
        "generation": "",
    }


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
