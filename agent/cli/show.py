"""What the person at the terminal sees: tables, lines and progress; JSON for programs.

The one module that uses `rich`, and does without where it is not installed. Nothing that came
from others (names, notes, hosts) reaches the terminal with control characters in it.
"""

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agent.cli.progress import Progress, Silent

MAX_CELL_CHARACTERS = 200
GAP = 2
#: Of a run or a GPU server, what a state looks like.
STYLES = {
    "running": "blue",
    "assigned": "cyan",
    "queued": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "bright_black",
    "lost": "red",
    "healthy": "green",
    "stale": "yellow",
    "disconnected": "red",
    "now": "green",
    "later": "yellow",
    "never": "bright_black",
}


@dataclass(frozen=True)
class Column:
    head: str
    right: bool = False
    is_state: bool = False
    #: Which goes first where the terminal is narrow: the highest; 0 stays.
    spare: int = 0


class Out:
    """Standard output, as a terminal or as a program's input."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.is_terminal = sys.stdout.isatty()
        self.talks = sys.stderr.isatty()

    def line(self, text: str = "", style: str = "") -> None:
        """One line for a person; with --json, which has its one object, none."""
        if not self.as_json:
            self._print(clean(text), style)

    def lines(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.line(text)

    def note(self, text: str) -> None:
        """What is no answer: to standard error."""
        sys.stderr.write(f"{clean(text)}\n")
        sys.stderr.flush()

    def json(self, data: Any) -> None:
        sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2) + "\n")

    def fields(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Names and values; empty ones are left out."""
        shown = [(name, clean(value)) for name, value in pairs if value]
        width = max((cells(name) for name, _value in shown), default=0)
        for name, value in shown:
            self._print(f"{name}{' ' * (width - cells(name) + GAP)}{value}")

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        cleaned = [[clean(cell)[:MAX_CELL_CHARACTERS] for cell in row] for row in rows]
        if not self.is_terminal:
            for text in plain_table(columns, cleaned):
                sys.stdout.write(f"{text}\n")
            return
        shown, fitting = narrowed(columns, cleaned, _width())
        if not _rich_table(shown, fitting):
            for text in plain_table(shown, fitting):
                sys.stdout.write(f"{text}\n")

    def progress(self) -> Progress:
        return Bars() if self.talks and not self.as_json and _has_rich() else Silent()

    def _print(self, text: str, style: str = "") -> None:
        if style and self.is_terminal and _has_rich():
            from rich.text import Text

            _console().print(Text(text, style=style), soft_wrap=True)
        else:
            sys.stdout.write(f"{text}\n")


class Bars:
    """A bar for each transfer, on standard error."""

    @contextmanager
    def bytes(self, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        from rich import progress
        from rich.console import Console

        parts = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(None),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        with progress.Progress(*parts, console=console, transient=True) as bars:
            task = bars.add_task(clean(label), total=total)
            yield lambda count: bars.advance(task, count)


def clean(text: str) -> str:
    """Without anything that a terminal would obey, or that turns the direction of writing."""
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(letter: str) -> str:
    if letter.isprintable():
        return letter
    return " " if letter in "\t\n\r" else "\N{REPLACEMENT CHARACTER}"


def cells(text: str) -> int:
    """How many columns of a terminal it takes: Korean letters take two."""
    return sum(map(_cells_of, text))


def _cells_of(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def plain_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines, nothing cut: for pipes, and for terminals without rich."""
    widths = _widths(columns, rows)
    for row in [[column.head for column in columns], *rows]:
        laid = [
            _laid(cell, width, right=column.right)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        yield (" " * GAP).join(laid).rstrip()


def _laid(cell: str, width: int, *, right: bool) -> str:
    blank = " " * (width - cells(cell))
    return blank + cell if right else cell + blank


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(cells(column.head), *(cells(row[at]) for row in rows), 0)
        for at, column in enumerate(columns)
    ]


def narrowed(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int
) -> tuple[list[Column], list[list[str]]]:
    """Without the columns that are empty, and without as many as do not fit."""
    widths = _widths(columns, rows)
    kept = [at for at in range(len(columns)) if not rows or any(row[at] for row in rows)]
    while sum(widths[at] + GAP for at in kept) - GAP > width:
        spare = max(kept, key=lambda at: (columns[at].spare, at))
        if not columns[spare].spare:
            break
        kept.remove(spare)
    return [columns[at] for at in kept], [[row[at] for at in kept] for row in rows]


def _width() -> int:
    return shutil.get_terminal_size().columns


def _has_rich() -> bool:
    try:
        import rich  # noqa: F401
    except ImportError:
        return False
    return True


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, no_color="NO_COLOR" in os.environ or None)


def _rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> bool:
    """Whether there is rich to draw it."""
    if not _has_rich():
        return False
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column in columns:
        justify: Any = "right" if column.right else "left"
        table.add_column(Text(column.head), justify=justify, no_wrap=True, overflow="ellipsis")
    for row in rows:
        pairs = zip(columns, row, strict=True)
        table.add_row(
            *(Text(cell, style=STYLES.get(cell, "") if c.is_state else "") for c, cell in pairs)
        )
    _console().print(table)
    return True
