"""In which files the code differs that runs were sent with."""

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agent.manifest import Manifest
from experiments.models import Job
from sync.code import giving

#: So many manifests are read for one page, each of which may name thousands of files.
MOST_SNAPSHOTS = 12
MOST_ROWS = 200
ABSENT = "–"


@dataclass(frozen=True)
class FileRow:
    """Of each run a letter, the same for the same content; ABSENT: it has no such file; empty:
    its code is not known, or not read."""

    path: str
    cells: list[str]


def differing(jobs: Sequence[Job]) -> list[FileRow]:
    """None of them where fewer than two kinds of code are known. `jobs` with their snapshots."""
    held = _held(jobs)
    if len(held) < 2:
        return []
    contents = [_contents(held.get(job.snapshot_id)) for job in jobs]
    known = [one for one in contents if one is not None]
    rows = []
    for path in sorted({path for one in known for path in one}):
        if len({one.get(path) for one in known}) > 1:
            rows.append(FileRow(path, _cells(path, contents)))
    return rows[:MOST_ROWS]


def _held(jobs: Iterable[Job]) -> dict[int, Manifest]:
    taken = {job.snapshot_id: job.snapshot for job in jobs if job.snapshot is not None}
    if len(taken) < 2:
        return {}
    read = {pk: giving.manifest_of(one) for pk, one in list(taken.items())[:MOST_SNAPSHOTS]}
    return {pk: one for pk, one in read.items() if one is not None}


def _contents(held: Manifest | None) -> dict[str, Any] | None:
    """Path -> what tells two contents apart."""
    if held is None:
        return None
    return {**held.files, **held.links}


def _cells(path: str, contents: Iterable[dict[str, Any] | None]) -> list[str]:
    letters: dict[Any, str] = {}
    cells = []
    for one in contents:
        if one is None or path not in one:
            cells.append("" if one is None else ABSENT)
        else:
            cells.append(letters.setdefault(one[path], string.ascii_uppercase[len(letters)]))
    return cells
