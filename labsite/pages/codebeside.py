"""In which files the code differs that runs were sent with."""

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from agent.code.manifest import Manifest
from experiments.models import Job
from sync.code import blobs, giving

#: So many manifests are read for one page, each of which may name thousands of files.
MOST_SNAPSHOTS = 12
MOST_ROWS = 200
KEPT_ANSWERS = 32
ABSENT = "–"


@dataclass(frozen=True)
class FileRow:
    """Of each run a letter, the same for the same content; ABSENT: it has no such file; empty:
    its code is not known, or not read."""

    path: str
    cells: list[str]


def differing(jobs: Sequence[Job]) -> list[FileRow]:
    """None of them where fewer than two kinds of code are known. `jobs` with their snapshots."""
    taken = tuple(job.snapshot.sha256 if job.snapshot else "" for job in jobs)
    some = [sha256 for sha256 in dict.fromkeys(taken) if sha256][:MOST_SNAPSHOTS]
    if len(some) < 2:
        return []
    there = frozenset(sha256 for sha256 in some if blobs.path_of(sha256).exists())
    return list(_rows(taken, there))


@lru_cache(maxsize=KEPT_ANSWERS)
def _rows(taken: tuple[str, ...], there: frozenset[str]) -> tuple[FileRow, ...]:
    """By what each run was sent with, of which these are there: what has such a name never
    changes. The page asks each few seconds, and reading a dozen costs 0.15 s of CPU."""
    held = {sha256: found for sha256 in there if (found := giving.manifest_by(sha256))}
    if len(held) < 2:
        return ()
    contents = [_contents(held.get(sha256)) for sha256 in taken]
    known = [one for one in contents if one is not None]
    rows = []
    for path in sorted({path for one in known for path in one}):
        if len({one.get(path) for one in known}) > 1:
            rows.append(FileRow(path, _cells(path, contents)))
    return tuple(rows[:MOST_ROWS])


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
