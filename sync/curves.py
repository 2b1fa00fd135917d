"""A run's metrics as curves: few enough points for a screen, with every spike kept.

Derived from the CSV alone. Only whole lines count, and only rows as wide as the header; what is
no finite number is a gap.
"""

from dataclasses import dataclass
from math import isnan
from typing import BinaryIO

import numpy as np
from tsdownsample import MinMaxLTTBDownsampler

from sync.summary import cells_of, names_of, number

MAX_POINTS = 2000
MAX_HEADER_BYTES = 1024 * 1024
#: A CSV of which more than this is not shown yet is shown from its end.
MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Curves:
    """Columns of a CSV and their values; `data[c][r]` is None where there is a gap."""

    columns: list[str]
    data: list[list[float | None]]
    rows: int  # how many were read, before thinning
    start: int  # the byte from which rows were read; 0: all of them
    next: int  # the byte after the last whole line: ask again from here


NONE = Curves([], [], 0, 0, 0)


def read(file: BinaryIO, size: int, after: int | None = None, limit: int = MAX_POINTS) -> Curves:
    """The curves in a CSV's first `size` bytes, or what came to them after byte `after`.

    Args:
        after: a `next` that was answered before, of the same version of the file.
        limit: about how many rows to return at most; beyond it they are thinned.
    """
    file.seek(0)
    header, newline, _ = file.read(min(size, MAX_HEADER_BYTES)).partition(b"\n")
    if not newline:
        return NONE
    start = after if after and len(header) < after <= size else 0
    first = max(start or len(header) + 1, size - MAX_BYTES)
    file.seek(first)
    body = file.read(size - first)
    body = body[: body.rfind(b"\n") + 1]
    columns = names_of(cells_of(header.decode("utf-8", "replace").rstrip("\r")))
    table = _table(body, len(columns))
    kept = table[_thin(table, limit)]
    data = [[None if isnan(value) else value for value in column] for column in kept.T.tolist()]
    return Curves(columns, data, len(table), start, first + len(body))


def _table(body: bytes, width: int) -> np.ndarray:
    """float64 of shape (rows, width); NaN is a gap."""
    lines = body.decode("utf-8", "replace").splitlines()
    rows = [
        [np.nan if (value := number(cell)) is None else value for cell in cells]
        for cells in map(cells_of, lines)
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
