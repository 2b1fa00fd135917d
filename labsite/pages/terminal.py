"""A run's log as a terminal would show it: colours as classes, progress bars folded.

The server makes the HTML, a window of the file at a time, and escapes all of it; the page only
appends. A window begins and ends at lines; the last line may still grow, so the answer says
where it begins (`next`), and the page asks for it anew.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
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
    first_line: int | None  # number of the first line, from 1; None: not counted
    next_line: int | None  # of the line at `next`
    html: SafeString
    reset: bool  # what was shown before is to be taken away: the file is another one
    open: bool = False  # the last line may still grow

    @property
    def more(self) -> bool:
        """Whether there is more to read at once."""
        return not self.open and self.next < self.size


def window(path: Path, offset: int | None, line: int | None) -> Window:
    """The lines from `offset` on; the last ones for None.

    Args:
        path: the log. A missing one is empty.
        offset: `next` of the window before.
        line: `next_line` of it.
    """
    try:
        with path.open("rb") as file:
            return _window(file, offset, line)
    except (FileNotFoundError, NotADirectoryError):
        return Window(0, 0, 0, 1, 1, mark_safe(""), bool(offset))


def before(path: Path, end: int) -> Window:
    """The lines that end at `end`, where a window begins: for reading backwards."""
    try:
        with path.open("rb") as file:
            start = _line_start(file, max(0, end - WINDOW_BYTES), end)
            file.seek(start)
            data = file.read(end - start)
            number = _number_at(file, start)
    except (FileNotFoundError, NotADirectoryError):
        return Window(0, 0, 0, 1, 1, mark_safe(""), True)
    lines = _lines(data)
    return Window(start, end, end, number, None, _html(lines, number), False)


def tail(path: Path, lines: int) -> SafeString:
    """What a failed run opens with: its last traceback, or else its last `lines` lines."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - WINDOW_BYTES // 8))
            found = [line for line in _lines(file.read()) if line.strip()]
            found = found[_traceback_at(found, lines) :]
    except (FileNotFoundError, NotADirectoryError):
        return mark_safe("")
    return _html(found[-MOST_TAIL_LINES:], None)


def _traceback_at(lines: list[bytes], at_most: int) -> int:
    starts = [at for at, line in enumerate(lines) if line.startswith(b"Traceback (most recent")]
    return starts[-1] if starts else max(0, len(lines) - at_most)


def _window(file: BinaryIO, offset: int | None, line: int | None) -> Window:
    size = file.seek(0, 2)
    reset = offset is not None and offset > size
    if offset is None or reset or size - offset > 4 * WINDOW_BYTES:
        start = _line_start(file, max(0, size - WINDOW_BYTES), size)
        line = _number_at(file, start)
        reset = offset is not None
    else:
        start = offset
    file.seek(start)
    data = file.read(WINDOW_BYTES)
    lines = _lines(data)
    grows = bool(data) and not data.endswith(b"\n")
    next_offset = start + len(data) - (len(lines[-1]) if grows else 0)
    if grows and len(lines) == 1 and len(data) == WINDOW_BYTES:
        next_offset = start + len(data)  # one endless line: go on within it
    done = len(lines) - (1 if grows else 0)
    return Window(
        start, next_offset, size, line, None if line is None else line + done,
        _html(lines, line), reset, open=grows,
    )  # fmt: skip


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
