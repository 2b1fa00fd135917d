"""A log a window at a time, for a page that holds a few windows of a file of any length.

The server makes the HTML and escapes all of it; the page puts windows one below the other. A
window begins and ends at lines; the last line may still grow, so the answer says where it begins
(`next`), and the page asks for it anew.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from django.utils.safestring import SafeString, mark_safe

from labsite.pages.ansi import line_html

#: What one answer reads of the file, and how many lines it has, at most.
WINDOW_BYTES = 256 * 1024
WINDOW_LINES = 500
#: Of the lines around a place, and of the last ones, so many lie before it, in this many bytes.
LINES_BEFORE, BYTES_BEFORE = 200, 64 * 1024

#: The number of the line at some byte, from 1; None: not counted.
NumberAt = Callable[[int], int | None]


@dataclass(frozen=True)
class Window:
    """Some lines of a log. Offsets are bytes from the file's start."""

    start: int
    next: int  # where the last line begins, if it may still grow; else the end
    size: int
    first: int | None  # number of the first line, from 1; None: not counted
    next_line: int | None  # of the line at `next`
    html: SafeString
    reset: bool = False  # what was shown before is to be taken away
    open: bool = False  # the last line may still grow

    @property
    def more(self) -> bool:
        """Whether there is more to read at once."""
        return not self.open and self.next < self.size


def onward(file: BinaryIO, size: int, offset: int, line: int | None) -> Window:
    """The lines from `offset` on.

    Args:
        file: the log; its first `size` bytes are read of.
        offset: `next` of the window before.
        line: `next_line` of it.
    """
    file.seek(offset)
    data = file.read(min(WINDOW_BYTES, size - offset))
    found = _lines(data)
    lines = found[:WINDOW_LINES]
    is_endless = len(found) == 1 and len(data) == WINDOW_BYTES and not data.endswith(b"\n")
    is_cut = len(lines) == len(found) and not data.endswith(b"\n") and not is_endless
    shown = lines[:-1] if is_cut and offset + len(data) < size else lines
    grows = is_cut and shown is lines and bool(lines)
    done = len(shown) - grows
    return Window(
        start=offset,
        next=offset + sum(map(len, shown[:done])),
        size=size,
        first=line,
        next_line=None if line is None else line + done - is_endless,
        html=html_of(shown, line),
        open=grows,
    )


def latest(file: BinaryIO, size: int, number_at: NumberAt) -> Window:
    """The last lines."""
    start = _before(file, size, LINES_BEFORE, WINDOW_BYTES)
    return onward(file, size, start, number_at(start))


def around(file: BinaryIO, size: int, offset: int, number_at: NumberAt) -> Window:
    """The lines around the one that begins at `offset`."""
    start = _before(file, min(offset, size), LINES_BEFORE, BYTES_BEFORE)
    return onward(file, size, start, number_at(start))


def before(file: BinaryIO, end: int, number_at: NumberAt) -> Window:
    """The lines that end at `end`, where a window begins: for reading backwards."""
    start = _before(file, end, WINDOW_LINES, WINDOW_BYTES)
    file.seek(start)
    lines = _lines(file.read(end - start))
    first = number_at(start)
    return Window(
        start=start, next=end, size=end, first=first, next_line=None, html=html_of(lines, first)
    )


def _before(file: BinaryIO, end: int, lines: int, most_bytes: int) -> int:
    """Where so many lines before `end` begin, if they are that short."""
    near = max(0, end - most_bytes)
    start = _line_start(file, near, end)
    file.seek(start)
    found = _lines(file.read(end - start))
    return end - sum(map(len, found[-lines:]))


def _line_start(file: BinaryIO, near: int, end: int) -> int:
    """The first line that begins at or after `near`; `near` where none does before `end`."""
    if near == 0:
        return 0
    file.seek(near - 1)
    cut = file.read(end - near + 1).find(b"\n")
    return near if cut < 0 or near + cut >= end else near + cut


def _lines(data: bytes) -> list[bytes]:
    """As splitlines(), but only at newlines, and each without losing a byte."""
    return re.findall(rb"[^\n]*\n|[^\n]+", data)


def html_of(lines: list[bytes], first: int | None) -> SafeString:
    numbers = [""] * len(lines) if first is None else range(first, first + len(lines))
    shown = zip(numbers, lines, strict=True)
    spans = (
        f'<span class="l" data-n="{number}">{line_html(line)}</span>' for number, line in shown
    )
    return mark_safe("".join(spans))  # noqa: S308  line_html() escapes
