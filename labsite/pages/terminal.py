"""A run's log as a terminal would show it: colours as classes, progress bars folded.

The server makes the HTML, a window of the file at a time, and escapes all of it; the page only
appends. A window begins and ends at lines; the last line may still grow, so the answer says
where it begins (`next`), and the page asks for it anew.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from django.utils.html import conditional_escape, format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import ngettext

#: What one answer reads of the file at most.
WINDOW_BYTES = 256 * 1024
#: What is looked through to number the lines; beyond, they have no numbers.
COUNT_BYTES = 64 * 1024**2
LINE_CHARACTERS = 4000
MOST_TAIL_LINES = 40

_ESCAPE = re.compile(
    r"\x1b\[(?P<sgr>[0-9;]*)m"  # colours
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # every other control sequence
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles and links
    r"|\x1b."
)
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_COLOURS = {1: "a-r", 2: "a-g", 3: "a-y", 4: "a-b", 5: "a-m", 6: "a-c"}


@dataclass(frozen=True)
class Window:
    """Some lines of a log. Offsets are bytes from the file's start."""

    start: int
    next: int  # where the last line begins, if it may still grow; else the end
    size: int
    next_line: int | None  # number of the line at `next`, from 1; None: not counted
    html: SafeString
    reset: bool = False  # what was shown before is to be taken away
    open: bool = False  # the last line may still grow

    @property
    def more(self) -> bool:
        """Whether there is more to read at once."""
        return not self.open and self.next < self.size


def window(file: BinaryIO, size: int, offset: int | None, line: int | None) -> Window:
    """The lines from `offset` on; the last ones for None.

    Args:
        file: the log; its first `size` bytes are read of.
        offset: `next` of the window before.
        line: `next_line` of it.
    """
    reset = offset is not None and (offset > size or size - offset > 4 * WINDOW_BYTES)
    if offset is None or reset:
        offset = _line_start(file, max(0, size - WINDOW_BYTES), size)
        line = _number_at(file, offset)
    file.seek(offset)
    data = file.read(min(WINDOW_BYTES, size - offset))
    lines = _lines(data)
    grows = bool(data) and not data.endswith(b"\n")
    if grows and len(lines) == 1 and len(data) == WINDOW_BYTES:
        lines_done, next_offset = 0, offset + len(data)  # one endless line: go on within it
    else:
        lines_done = len(lines) - grows
        next_offset = offset + len(data) - (len(lines[-1]) if grows else 0)
    return Window(
        start=offset,
        next=next_offset,
        size=size,
        next_line=None if line is None else line + lines_done,
        html=_html(lines, line),
        reset=reset,
        open=grows,
    )


def before(file: BinaryIO, end: int) -> Window:
    """The lines that end at `end`, where a window begins: for reading backwards."""
    start = _line_start(file, max(0, end - WINDOW_BYTES), end)
    file.seek(start)
    lines = _lines(file.read(end - start))
    html = _html(lines, _number_at(file, start))
    return Window(start=start, next=end, size=end, next_line=None, html=html)


def tail(file: BinaryIO, size: int, lines: int) -> SafeString:
    """What a failed run opens with: its last traceback, or else its last `lines` lines."""
    start = max(0, size - WINDOW_BYTES // 8)
    file.seek(start)
    found = [line for line in _lines(file.read(size - start)) if line.strip()]
    return _html(found[_traceback_at(found, lines) :][-MOST_TAIL_LINES:], None)


def _traceback_at(lines: list[bytes], at_most: int) -> int:
    starts = [at for at, line in enumerate(lines) if line.startswith(b"Traceback (most recent")]
    return starts[-1] if starts else max(0, len(lines) - at_most)


def _line_start(file: BinaryIO, near: int, end: int) -> int:
    """The first line that begins at or after `near`; `near` where none does before `end`."""
    if near == 0:
        return 0
    file.seek(near - 1)
    cut = file.read(end - near + 1).find(b"\n")
    return near if cut < 0 or near + cut >= end else near + cut


def _number_at(file: BinaryIO, offset: int) -> int | None:
    if offset > COUNT_BYTES:
        return None
    file.seek(0)
    left, number = offset, 1
    while left and (data := file.read(min(left, 1024 * 1024))):
        number += data.count(b"\n")
        left -= len(data)
    return number


def _lines(data: bytes) -> list[bytes]:
    """As splitlines(), but only at newlines, and each without losing a byte."""
    return re.findall(rb"[^\n]*\n|[^\n]+", data)


def _html(lines: list[bytes], first: int | None) -> SafeString:
    numbers = [""] * len(lines) if first is None else range(first, first + len(lines))
    return format_html_join(
        "",
        '<span class="l" data-n="{}">{}</span>',
        ((number, line_html(line)) for number, line in zip(numbers, lines, strict=True)),
    )


def line_html(raw: bytes) -> SafeString:
    """One line: what a carriage return overwrote is folded, colours are classes."""
    updates = raw.rstrip(b"\r\n").split(b"\r")
    shown = next((part for part in reversed(updates) if part.strip()), b"")
    fold = ""
    if len(updates) > 2:
        words = ngettext("%(n)d update folded", "%(n)d updates folded", len(updates) - 1)
        fold = format_html('<span class="fold">{}</span>', words % {"n": len(updates) - 1})
    return format_html("{}{}", fold, _coloured(shown.decode("utf-8", "replace")))


def _coloured(text: str) -> SafeString:
    more = ""
    if len(text) > LINE_CHARACTERS:
        text, more = text[:LINE_CHARACTERS], " …"
    pieces = (
        format_html('<span class="{}">{}</span>', css, piece) if css else conditional_escape(piece)
        for css, piece in _runs(text)
    )
    return mark_safe("".join(pieces) + more)  # noqa: S308  every piece was escaped above


def _runs(text: str) -> Iterator[tuple[str, str]]:
    """Pieces of one colour, as (classes, text)."""
    colour, weight = "", ""
    at = 0
    for found in _ESCAPE.finditer(text):
        if piece := _UNSEEN.sub("", text[at : found.start()]):
            yield f"{colour} {weight}".strip(), piece
        at = found.end()
        if found["sgr"] is not None:
            colour, weight = _styled(found["sgr"], colour, weight)
    if piece := _UNSEEN.sub("", text[at:]):
        yield f"{colour} {weight}".strip(), piece


def _styled(codes: str, colour: str, weight: str) -> tuple[str, str]:
    numbers = [int(code or 0) for code in codes.split(";")]
    if numbers[0] in (38, 48):  # 256 and true colours: not ours to show
        return "", weight
    for number in numbers:
        if number == 0:
            colour, weight = "", ""
        elif number in (1, 2):
            weight = "a-1" if number == 1 else "a-dim"
        elif number == 22:
            weight = ""
        elif number == 39 or number in (30, 37, 90, 97):
            colour = "a-dim" if number == 90 else ""
        elif 31 <= number <= 36 or 91 <= number <= 96:
            colour = _COLOURS[number % 10]
    return colour, weight
