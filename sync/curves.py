"""A run's metrics as curves: few enough points for a screen, with every spike kept.

Derived from the CSV alone. Only whole lines count, and only rows as wide as the header; what is
no finite number is a gap.
"""

import csv
from dataclasses import dataclass

import numpy as np
from tsdownsample import MinMaxLTTBDownsampler

from experiments.models import Job
from sync import storage
from sync.models import SyncFile
from sync.storage import Place
from sync.summary import number

MAX_POINTS = 2000
#: A CSV of which more than this is not shown yet is shown from its end.
MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Curves:
    """Columns of a CSV and their values; `values[c][r]` is None where there is a gap."""

    columns: list[str]
    values: list[list[float | None]]
    rows: int  # how many were read, before thinning
    start: int  # the byte from which rows were read; 0: all of them
    next: int  # the byte after the last whole line: ask again from here
    generation: int  # asked with another one, `after` means nothing: all is read again


NONE = Curves([], [], 0, 0, 0, 0)


def read(job: Job, after: int = 0, generation: int = 0, limit: int = MAX_POINTS) -> Curves:
    """The curves of a run, or what came to them after byte `after` of `generation`.

    Args:
        after: a `next` that was answered before; 0 for all.
        limit: the most rows to return; beyond it they are thinned.
    """
    row = SyncFile.objects.results().filter(job=job, name=f"{job.run_name}.csv").first()
    if row is None:
        return NONE
    place = Place.of(job, row.name)
    head = storage.read(place, 0, min(row.size, 1024 * 1024))
    header, newline, _ = head.partition(b"\n")
    if not newline:
        return NONE
    start = after if generation == row.generation and len(header) < after <= row.size else 0
    first = max(start or len(header) + 1, row.size - MAX_BYTES)
    columns = [cell.strip() for cell in _cells(header)]
    body = storage.read(place, first, row.size - first)
    body = body[: body.rfind(b"\n") + 1]
    table = _table(body, len(columns))
    kept = _thin(table, limit)
    values = [
        [None if np.isnan(v) else float(v) for v in table[kept, c]] for c in range(len(columns))
    ]
    return Curves(columns, values, len(table), start, first + len(body), row.generation)


def _cells(line: bytes) -> list[str]:
    return next(csv.reader([line.decode("utf-8", "replace").rstrip("\r")]), [])


def _table(body: bytes, width: int) -> np.ndarray:
    """float64 of shape (rows, width); NaN is a gap."""
    lines = body.decode("utf-8", "replace").splitlines()
    rows = [
        [np.nan if (value := number(cell)) is None else value for cell in cells]
        for cells in csv.reader(lines)
        if len(cells) == width
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


def _thin(table: np.ndarray, limit: int) -> np.ndarray:
    """The rows to keep, increasing: those that any column needs for its shape.

    Source:
        Van Der Donckt et al., "MinMaxLTTB" (2023), as in the library tsdownsample.
    """
    rows, width = table.shape
    if rows <= limit:
        return np.arange(rows)
    each = max(4, limit // max(1, width))
    kept = {0, rows - 1}
    for column in table.T:
        seen = np.flatnonzero(~np.isnan(column))
        if len(seen) > each:
            chosen = MinMaxLTTBDownsampler().downsample(
                np.ascontiguousarray(column[seen]), n_out=each
            )
            seen = seen[chosen]
        kept.update(seen.tolist())
    return np.array(sorted(kept))
