"""Columns of numbers that grow at their end, with holes where a row says nothing of a column.

A cell that is *missing* (an empty cell, a key that is not there, a word) is not in its column at
all: loggers write training and validation into different rows, and a line goes on over it. A cell
that says NaN or infinity is a *gap*: it is kept as NaN, and the line breaks there.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from django.utils.functional import Promise

#: Of wider sources the first columns are shown.
MAX_COLUMNS = 500
MAX_NAME_LENGTH = 200
#: So much is held of one source (some 12 million numbers); beyond, its older half is forgotten.
MAX_BYTES = 128 * 1024 * 1024


class Array:
    """A one-dimensional array that is added to at its end."""

    def __init__(self, dtype: type) -> None:
        self._held = np.empty(0, dtype)
        self._size = 0

    def extend(self, more: np.ndarray) -> None:
        needed = self._size + len(more)
        if needed > len(self._held):
            held = np.empty(needed + needed // 4 + 8, self._held.dtype)
            held[: self._size] = self.all
            self._held = held
        self._held[self._size : needed] = more
        self._size = needed

    def forget(self, count: int) -> None:
        """Its first so many."""
        self._held = self.all[count:].copy()
        self._size = len(self._held)

    @property
    def all(self) -> np.ndarray:
        return self._held[: self._size]

    @property
    def nbytes(self) -> int:
        return self._held.nbytes


class Column:
    """The cells of one column: the numbers of their rows, increasing, and their values."""

    def __init__(self) -> None:
        self._values = Array(np.float64)
        self._rows: Array | None = None  # None: one row after the other, from `_first` on
        self._first = 0
        #: Of all that it ever held; None: no finite value yet.
        self.last: float | None = None
        self.low: float | None = None
        self.high: float | None = None

    def __len__(self) -> int:
        return len(self._values.all)

    @property
    def rows(self) -> np.ndarray:
        """int64 of shape (n,)."""
        if self._rows is None:
            return np.arange(self._first, self._first + len(self))
        return self._rows.all

    @property
    def values(self) -> np.ndarray:
        """float64 of shape (n,); NaN is a gap."""
        return self._values.all

    def since(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and values from this row on."""
        if self._rows is not None:
            start = int(np.searchsorted(self._rows.all, row))
            return self._rows.all[start:], self.values[start:]
        start = min(max(0, row - self._first), len(self))
        return np.arange(self._first + start, self._first + len(self)), self.values[start:]

    @property
    def nbytes(self) -> int:
        return self._values.nbytes + (self._rows.nbytes if self._rows else 0)

    def add(self, rows: np.ndarray, values: np.ndarray) -> None:
        if not len(rows):
            return
        if not len(self):
            self._rows, self._first = None, int(rows[0])
        if self._rows is None and not self._goes_on(rows):
            known = self.rows
            self._rows = Array(np.int64)
            self._rows.extend(known)
        if self._rows is not None:
            self._rows.extend(rows)
        finite = np.isfinite(values)
        self._values.extend(np.where(finite, values, np.nan))
        self._note(values[finite])

    def _goes_on(self, rows: np.ndarray) -> bool:
        start = self._first + len(self)
        return rows[0] == start and rows[-1] == start + len(rows) - 1

    def _note(self, values: np.ndarray) -> None:
        if len(values):
            low, high = float(values.min()), float(values.max())
            self.low = low if self.low is None else min(low, self.low)
            self.high = high if self.high is None else max(high, self.high)
            self.last = float(values[-1])

    def forget_before(self, row: int) -> None:
        count = int(np.searchsorted(self.rows, row))
        self._values.forget(count)
        if self._rows is not None:
            self._rows.forget(count)
        self._first += count


class Table:
    """What was read of a source. `rows` counts all rows, also those that were forgotten."""

    def __init__(self) -> None:
        self.columns: dict[str, Column] = {}
        self.rows = 0
        self._first = 0
        self._why: tuple[str | Promise, dict[str, Any]] | None = None

    def add(self, count: int, cells: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> None:
        """Add `count` rows.

        Args:
            cells: for each column its name, which of the new rows it is in (from 0), and the
                values. A column beyond MAX_COLUMNS is left out.
        """
        for name, rows, values in cells:
            if name in self.columns or len(self.columns) < MAX_COLUMNS:
                self.columns.setdefault(name, Column()).add(self.rows + rows, values)
        self.rows += count
        if self.nbytes > MAX_BYTES:
            self._forget_half()

    def _forget_half(self) -> None:
        self._first = (self._first + self.rows) // 2
        for column in self.columns.values():
            column.forget_before(self._first)

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())

    @property
    def is_refused(self) -> bool:
        return self._why is not None

    def refuse(self, words: str | Promise, **facts: Any) -> None:
        """From here on it cannot be read; what was read before stays."""
        self._why = self._why or (words, facts)

    @property
    def note(self) -> str:
        """Why not all of it could be read, in the reader's language; empty if it could."""
        return str(self._why[0]) % self._why[1] if self._why else ""


def name_of(text: str) -> str:
    """What a column is called, in a form that a database and a page can hold."""
    whole = text.encode("utf-8", "replace").decode()  # JSON may hold half a character
    return whole.strip("\ufeff \t").replace("\0", "")[:MAX_NAME_LENGTH]
