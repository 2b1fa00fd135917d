"""The lines of a log that a text or a pattern is found in, a stretch of the file at a time.

A request reads for a bounded time and says where the next one goes on, so that 2 GB are searched
while the first lines are already read. Patterns are RE2's, whose time grows with the text and with
nothing else. What colours a line is no part of it; of a progress bar every state is.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import re2
from django.utils.translation import gettext as _

from labsite.errors import BadRequest

MAX_CHARACTERS = 500
#: What is looked through at once; a line that is longer is looked through in pieces.
BLOCK_BYTES = 1024 * 1024
#: With a pattern less, and no pattern with more instructions: RE2's time is bounded by the product
#: of the two, and this is what a request takes at the worst, about half a second.
PATTERN_BLOCK_BYTES, MAX_INSTRUCTIONS = 128 * 1024, 400
#: Of a line that is found so much is told, before what was found and from there on.
BEFORE_BYTES, AFTER_BYTES = 80, 240
_CHECKS = 512  # lines that are found between two looks at the clock
_ESCAPE = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[^\n]?")
_OPTIONS = {"never_nl": True, "log_errors": False, "max_mem": 8 * 1024 * 1024}

#: Where in some text, from a place on, the next match begins and ends; None: nowhere.
Find = Callable[[bytes, int], tuple[int, int] | None]


@dataclass(frozen=True)
class Finder:
    find: Find
    block_bytes: int
    lowers: bool = False  # it wants the text in small letters


class WrongPattern(BadRequest):
    code = "wrong_pattern"


@dataclass(frozen=True)
class Query:
    text: str
    is_pattern: bool = False
    is_exact: bool = False  # whether capital letters are others than small ones


@dataclass(frozen=True)
class Hit:
    """A line. Texts are what stands around the first match in it."""

    offset: int  # where the line begins, in bytes
    number: int  # of the line, from 1
    before: str
    match: str
    after: str


@dataclass
class Found:
    """What one stretch of the file holds."""

    hits: list[Hit]
    lines: int  # in which there is a match; those beyond `limit` are counted only
    next: int  # where the next stretch begins
    next_number: int  # of the line there


@dataclass(frozen=True)
class Stretch:
    """Some whole lines of the file, or a piece of a very long one."""

    raw: bytes
    text: bytes  # without what colours it; lines are the same

    def line_starts(self) -> list[int]:
        """Of the raw lines; and behind the last."""
        starts = [0]
        at = self.raw.find(b"\n")
        while at >= 0:
            starts.append(at + 1)
            at = self.raw.find(b"\n", at + 1)
        return [*starts, len(self.raw)]


def search(
    file: BinaryIO,
    size: int,
    query: Query,
    start: int,
    number: int,
    *,
    limit: int,
    deadline: float,
) -> Found:
    """Look through `file` from `start` on, where line `number` begins.

    Args:
        size: so much of the file may be read.
        limit: so many lines are told at most.
        deadline: as time.monotonic() has it; at least one stretch is looked through.

    Raises:
        WrongPattern: it is empty, too long, or no pattern.
    """
    how = finder(query)
    found = Found([], 0, start, number)
    while found.next < size:
        end = min(size, found.next + how.block_bytes)
        stretch = _stretch(file, found.next, end, size)
        if not stretch.raw:  # the file has become shorter
            found.next = size
        elif not _look(stretch, how, found, limit, deadline) or time.monotonic() >= deadline:
            break
    return found


def finder(query: Query) -> Finder:
    """Raises: WrongPattern."""
    if not query.text or len(query.text) > MAX_CHARACTERS or "\n" in query.text:
        words = _("Look for one line of 1 to %(most)d characters.")
        raise WrongPattern(words % {"most": MAX_CHARACTERS})
    if query.is_pattern:
        return _by_pattern(f"(?m){query.text}", query.is_exact)
    if not query.is_exact and not query.text.isascii():
        return _by_pattern(re2.escape(query.text), False)
    return _literally(query.text.encode("utf-8", "replace"), query.is_exact)


def _literally(needle: bytes, is_exact: bool) -> Finder:
    needle = needle if is_exact else needle.lower()

    def find(text: bytes, at: int) -> tuple[int, int] | None:
        found = text.find(needle, at)
        return (found, found + len(needle)) if found >= 0 else None

    return Finder(find, BLOCK_BYTES, lowers=not is_exact)


def _by_pattern(pattern: str, is_exact: bool) -> Finder:
    options = re2.Options()
    for name, value in _OPTIONS.items():
        setattr(options, name, value)
    options.case_sensitive = is_exact
    try:
        compiled = re2.compile(pattern.encode("utf-8", "replace"), options=options)
    except re2.error as wrong:
        said = wrong.args[0].decode("utf-8", "replace").replace("(?m)", "") if wrong.args else ""
        words = _("This is no pattern that can be searched for: %(why)s")
        raise WrongPattern(words % {"why": said}) from None
    if compiled.programsize > MAX_INSTRUCTIONS:
        raise WrongPattern(_("This pattern is too large; look for a part of it."))

    def find(text: bytes, at: int) -> tuple[int, int] | None:
        found = compiled.search(text, at)
        return found.span() if found else None

    return Finder(find, PATTERN_BLOCK_BYTES)


def _stretch(file: BinaryIO, start: int, end: int, size: int) -> Stretch:
    file.seek(start)
    raw = file.read(end - start)
    if end < size and (cut := raw.rfind(b"\n") + 1):
        raw = raw[:cut]
    text = _ESCAPE.sub(b"", raw) if b"\x1b" in raw else raw
    return Stretch(raw, text.replace(b"\r\n", b"\n"))


def _look(stretch: Stretch, how: Finder, found: Found, limit: int, deadline: float) -> bool:
    """Add what `stretch` holds. Return whether all of it was looked at."""
    start, first, starts = found.next, found.next_number, None
    for counted, (line, hit) in enumerate(_lines_of(stretch, how), start=1):
        is_late = counted % _CHECKS == 0 and time.monotonic() >= deadline
        if len(found.hits) < limit or is_late:
            starts = starts or stretch.line_starts()
        if starts and len(found.hits) < limit:
            found.hits.append(Hit(start + starts[line], first + line, *hit()))
        found.lines += 1
        if starts and is_late and line + 1 < len(starts):
            found.next, found.next_number = start + starts[line + 1], first + line + 1
            return False
    found.next, found.next_number = start + len(stretch.raw), first + stretch.raw.count(b"\n")
    return True


def _lines_of(
    stretch: Stretch, how: Finder
) -> Iterator[tuple[int, Callable[[], tuple[str, str, str]]]]:
    """Each line with a match: which of the stretch's it is, and a way to tell of the match."""
    searched = stretch.text.lower() if how.lowers else stretch.text
    at = line = 0
    while (span := how.find(searched, at)) is not None:
        begin, end = span
        if begin >= len(searched) and begin and searched.endswith(b"\n"):
            return  # behind the last line: a pattern that matches nothing at all does
        line += searched.count(b"\n", at, begin)
        yield line, lambda begin=begin, end=end: _told(stretch.text, begin, end)
        at = searched.find(b"\n", begin) + 1
        line += 1
        if not at:
            return


def _told(text: bytes, begin: int, end: int) -> tuple[str, str, str]:
    line_start = text.rfind(b"\n", 0, begin) + 1
    line_end = text.find(b"\n", begin)
    line_end = len(text) if line_end < 0 else line_end
    end = min(max(begin, end), line_end, begin + AFTER_BYTES)
    before = text[max(line_start, begin - BEFORE_BYTES) : begin]
    after = text[end : min(line_end, end + AFTER_BYTES)]
    return tuple(part.decode("utf-8", "replace") for part in (before, text[begin:end], after))
