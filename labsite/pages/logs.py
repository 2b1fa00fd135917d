"""The log of a run, piece by piece: windows of it, its lines' numbers, and what is found in it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, JsonResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.http import require_safe

from labsite.pages import runfiles, terminal
from labsite.pages.access import visible_run
from labsite.pages.ansi import plain
from labsite.pages.runfiles import Part
from labsite.pages.terminal import NumberAt, Window
from sync.logs import search as searching
from sync.logs.lines import BLOCK_BYTES, Lines, lines_of
from sync.logs.search import Hit, Query, WrongPattern

#: How long a page waits for the counting of lines; and a request that is about nothing else.
PAGE_SECONDS, COUNT_SECONDS = 0.04, 0.4
SEARCH_SECONDS = 0.3
#: So many lines that were found are listed; beyond, they are counted.
LISTED = 1000
_WHERE = ("offset", "before", "around", "go")


@login_required
@require_safe
def log(request: HttpRequest, uid: str) -> JsonResponse:
    """A window: those lines from `offset` on, before `before`, around the byte `around` or the
    line `go`; the last ones where nothing is said.

    `version` is the file's that the reader has; of another one it is shown the last lines.
    """
    with runfiles.opened(visible_run(request, uid), "log") as part:
        is_another = request.GET.get("version", part.version) != part.version
        where = next((name for name in _WHERE if number(request, name) is not None), "")
        asked = None if is_another or not where else number(request, where)
        seconds = COUNT_SECONDS if where == "go" else PAGE_SECONDS
        with counted(part, seconds) as lines:
            window = _window(request, part, lines, where, asked)
        if window is None:
            return fresh({"counted": lines.counted_bytes, "size": part.size})
    answer = asdict(window) | {"more": window.more, "reset": window.reset or is_another}
    return fresh({**answer, "version": part.version, "file": part.key})


@login_required
@require_safe
def lines(request: HttpRequest, uid: str) -> JsonResponse:
    """Count on; and the numbers of the lines that begin at these bytes (`at=0,4711`)."""
    wished = [int(one) for one in request.GET.get("at", "").split(",")[:64] if _is_number(one)]
    with (
        runfiles.opened(visible_run(request, uid), "log") as part,
        counted(part, COUNT_SECONDS) as known,
    ):
        numbers = [known.number_at(part.file, min(offset, part.size)) for offset in wished]
        is_done = part.size - known.counted_bytes < BLOCK_BYTES
    return fresh({"numbers": numbers, "counted": known.counted_bytes, "done": is_done})


@login_required
@require_safe
def find(request: HttpRequest, uid: str) -> JsonResponse:
    """The lines that hold `q`, from the byte `from` on, where line `line` begins; and where the
    next request goes on."""
    query = Query(
        request.GET.get("q", ""), "pattern" in request.GET, is_exact="exact" in request.GET
    )
    start, first = number(request, "from") or 0, number(request, "line") or 1
    room = max(0, LISTED - (number(request, "listed") or 0))
    deadline = time.monotonic() + SEARCH_SECONDS
    with runfiles.opened(visible_run(request, uid), "log") as part:
        try:
            found = searching.search(
                part.file, part.size, query, min(start, part.size), first,
                limit=room, deadline=deadline,
            )  # fmt: skip
        except WrongPattern as refused:
            return fresh({"wrong": str(refused)})  # who types a pattern has made no error yet
    return fresh(
        {
            "hits": [[hit.offset, hit.number, hit_html(hit)] for hit in found.hits],
            "lines": found.lines,
            "next": found.next,
            "line": found.next_number,
            "done": found.next >= part.size,
            "size": part.size,
        }
    )


def hit_html(hit: Hit) -> SafeString:
    parts = (plain(hit.before), plain(hit.match), plain(hit.after))
    return format_html("{}<mark>{}</mark>{}", *parts)


def last_window(part: Part) -> Window:
    """What the page of a run begins with."""
    with counted(part, PAGE_SECONDS) as lines:
        return terminal.latest(part.file, part.size, _numbers(part, lines))


@contextmanager
def counted(part: Part, seconds: float) -> Iterator[Lines]:
    """Its lines, counted for so long; what was counted is kept."""
    known = lines_of(part.row) if part.row else Lines((0, 0))
    known.count(part.file, part.size, time.monotonic() + seconds)
    yield known
    if part.row:
        known.keep(part.row.pk)


def _window(
    request: HttpRequest, part: Part, lines: Lines, where: str, asked: int | None
) -> Window | None:
    """None: the lines up to there are still being counted."""
    file, size, numbers = part.file, part.size, _numbers(part, lines)
    if asked is None or (where == "offset" and asked > size):
        window = terminal.latest(file, size, numbers)
        return window if asked is None else _anew(window)
    if where == "offset":
        return terminal.onward(file, size, asked, number(request, "line"))
    if where == "before":
        return terminal.before(file, min(asked, size), numbers)
    if where == "go":
        offset = lines.offset_of(file, asked, size)
        return None if offset is None else terminal.around(file, size, offset, numbers)
    if (line := number(request, "line")) is not None:
        numbers = _counted_back(part, asked, line)
    return terminal.around(file, size, asked, numbers)


def _counted_back(part: Part, offset: int, line: int) -> NumberAt:
    """Numbers of lines a little before the line `line`, which begins at `offset`."""

    def number_at(start: int) -> int:
        part.file.seek(start)
        return line - part.file.read(offset - start).count(b"\n")

    return number_at


def _anew(window: Window) -> Window:
    return replace(window, reset=True)


def _numbers(part: Part, lines: Lines) -> NumberAt:
    return partial(lines.number_at, part.file)


def number(request: HttpRequest, name: str) -> int | None:
    text = request.GET.get(name, "")
    return int(text) if _is_number(text) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def fresh(answer: dict[str, Any]) -> JsonResponse:
    return JsonResponse(answer, headers={"Cache-Control": "no-store"})
