"""Readers of what is written line by line: CSV and JSONL.

Only whole lines count. Most of a CSV goes through polars; lines with quotes go the slow way, a
line by itself, so that a quote that is never closed costs one line and not the rest of the file.
"""

import csv
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import polars
from django.utils.translation import gettext_lazy

from sync.curves.table import MAX_COLUMNS, Table, name_of

#: A longer line is no line of metrics.
MAX_LINE_BYTES = 1024 * 1024
#: A table as wide as this holds data, not metrics.
MAX_WIDTH = 5000
#: {"train": {"loss": 1}} is a column train/loss; deeper ones are left out.
MAX_DEPTH = 3

NEWLINE, COMMA = b"\n,"

#: Which rows of those that were read have a cell, and what it says.
Cells = tuple[np.ndarray, np.ndarray]

LINE_TOO_LONG = gettext_lazy("A line of it is longer than 1 MB; it is read up to there.")
TOO_WIDE = gettext_lazy("It has %(width)d columns: more than a table of metrics.")


class CSV:
    """Rows as wide as the header; others are left out."""

    BLOCK_BYTES = 4 * 1024 * 1024

    def __init__(self, table: Table) -> None:
        self.table = table
        self._names: list[str] = []
        self._width = 0  # 0: no header yet

    def take(self, data: bytes) -> int:
        """Read what is whole in `data`, and return how many bytes that was."""
        used = _whole(data, self.table)
        start = 0
        while start < used and not self._width:
            end = data.index(b"\n", start)
            self._take_header(data[start:end])
            start = end + 1
        if start < used and not self.table.is_refused:
            self._take_rows(data[start:used])
        return used

    def _take_header(self, header: bytes) -> None:
        """The first line that is not empty."""
        cells = cells_of(header.decode("utf-8-sig", "replace").rstrip("\r"))
        self._width = len(cells)
        self._names = unique([name_of(cell) for cell in cells[:MAX_COLUMNS]])
        if self._width > MAX_WIDTH:
            self.table.refuse(TOO_WIDE, width=self._width)

    def _take_rows(self, body: bytes) -> None:
        if b"\r" in body:
            body = body.replace(b"\r\n", b"\n")
        count, columns = self._slow(body) if b'"' in body else self._fast(body)
        cells = zip(self._names, columns, strict=False)
        self.table.add(count, ((name, *cell) for name, cell in cells))

    def _fast(self, body: bytes) -> tuple[int, list[Cells]]:
        text = np.frombuffer(body, np.uint8)
        count = int(np.count_nonzero(text == NEWLINE))
        if self._width > 1 and np.count_nonzero(text == COMMA) == count * (self._width - 1):
            # As many as there should be; and of a line that has too many, polars tells.
            with suppress(polars.exceptions.PolarsError):
                return self._parsed(body, count)
        body, count = _of_width(body, self._width)
        try:
            return self._parsed(body, count) if count else (0, [])
        except polars.exceptions.PolarsError:
            return self._slow(body)

    def _parsed(self, body: bytes, count: int) -> tuple[int, list[Cells]]:
        has_space = b" " in body or b"\t" in body
        dtype = polars.String if has_space else polars.Float64
        frame = polars.read_csv(
            body,
            has_header=False,
            quote_char=None,
            schema={str(at): dtype for at in range(self._width)},
            columns=list(range(len(self._names))),
            ignore_errors=True,
        )
        if frame.height != count:
            raise polars.exceptions.ShapeError  # lines were taken together: one by one, then
        if has_space:
            stripped = polars.all().str.strip_chars(" \t")
            frame = frame.select(stripped.cast(polars.Float64, strict=False))
        return count, [_cells(column) for column in frame]

    def _slow(self, body: bytes) -> tuple[int, list[Cells]]:
        lines = body.decode("utf-8", "replace").split("\n")
        rows = [row for row in map(cells_of, lines) if len(row) == self._width]
        columns = zip(*(row[:MAX_COLUMNS] for row in rows), strict=True)
        return len(rows), [_from_words(words) for words in columns]


class JSONL:
    """A JSON object a line; what is a number in it is a cell."""

    BLOCK_BYTES = 2 * 1024 * 1024  # parsed JSON takes many times its bytes

    def __init__(self, table: Table) -> None:
        self.table = table

    def take(self, data: bytes) -> int:
        """Read what is whole in `data`, and return how many bytes that was."""
        used = _whole(data, self.table)
        rows = [row for line in data[:used].split(b"\n") if (row := _object(line)) is not None]
        add_rows(self.table, rows)
        return used


def add_rows(table: Table, rows: list[dict[str, float]]) -> None:
    """Add rows that each have cells of their own."""
    cells: dict[str, tuple[list[int], list[float]]] = {}
    for at, row in enumerate(rows):
        for name, value in row.items():
            if name in cells or len(cells) < MAX_COLUMNS:
                places, values = cells.setdefault(name, ([], []))
                places.append(at)
                values.append(value)
    table.add(
        len(rows),
        ((name, np.array(at), np.array(values, float)) for name, (at, values) in cells.items()),
    )


def numbers(
    entry: dict[str, Any], prefix: str = "", depth: int = 1
) -> Iterator[tuple[str, float]]:
    """The numbers in an object, and in those within it as `outer/inner`."""
    for key, value in entry.items():
        name = name_of(f"{prefix}{key}")
        if isinstance(value, dict):
            if depth < MAX_DEPTH:
                yield from numbers(value, f"{name}/", depth + 1)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, _float(value)


def cells_of(line: str) -> list[str]:
    """A line's cells; none of a line that is no CSV. A quoted cell ends with its line, so that a
    quote that is never closed costs one line and not the rest of the file."""
    if '"' not in line:
        return line.split(",") if line else []
    try:
        return next(csv.reader([line], skipinitialspace=True), [])
    except csv.Error:
        return []


def number(text: str) -> float | None:
    """A number, which may be NaN or infinite; None for an empty cell and for a word."""
    try:
        return float(text)
    except ValueError:
        return None


def unique(names: list[str]) -> list[str]:
    """Of columns that are called alike the second is `name.1`, as pandas calls it."""
    found: dict[str, None] = {}
    for name in names:
        free, count = name, 0
        while free in found:
            count += 1
            free = f"{name}.{count}"
        found[free] = None
    return list(found)


def _whole(data: bytes, table: Table) -> int:
    """How many bytes of `data` are whole lines."""
    used = data.rfind(b"\n") + 1
    if len(data) - used > MAX_LINE_BYTES:
        table.refuse(LINE_TOO_LONG)
    return used


def _of_width(body: bytes, width: int) -> tuple[bytes, int]:
    """The lines of `body` that have `width` cells, and how many they are."""
    text = np.frombuffer(body, np.uint8)
    ends = np.flatnonzero(text == NEWLINE)
    starts = np.concatenate(([0], ends[:-1] + 1))
    commas = np.add.reduceat(text == COMMA, starts, dtype=np.int32)
    good = (commas == width - 1) & (ends > starts)
    if not good.all():
        body = text[np.repeat(good, ends - starts + 1)].tobytes()
    return body, int(good.sum())


def _cells(column: polars.Series) -> Cells:
    if column.null_count() == 0:
        return np.arange(len(column)), column.to_numpy()
    there = column.is_not_null().to_numpy()
    return np.flatnonzero(there), column.to_numpy()[there]


def _from_words(words: tuple[str, ...]) -> Cells:
    values = [number(word) for word in words]
    there = [at for at, value in enumerate(values) if value is not None]
    return np.array(there, int), np.array([values[at] for at in there], float)


def _object(line: bytes) -> dict[str, float] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return dict(numbers(entry)) if isinstance(entry, dict) else None


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
