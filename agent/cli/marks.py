"""By what a run is known again, wherever it lies: how its files begin (docs/adr/0038).

Not by where it is: the same folder is seen from several machines, and another run may lie in it
tomorrow. A table that grew still begins with the lines that it had, so all its beginnings are
marks, line by line; an event file begins with the moment at which it was begun.
"""

import hashlib
from collections.abc import Iterator

from agent import wire
from agent.cli import eventfiles
from agent.cli.findruns import LocalFile, LocalRun

LOGS = (".log",)
TABLES = tuple(suffix for suffix in wire.CURVES_AND_LOGS if suffix not in LOGS)
MAX_FILES = 3  # of each kind
MAX_LINES = 20
MAX_BYTES = 64 * 1024
#: Before this many lines a table is a head, which other runs have too.
FEWEST_LINES = 2


def marks_of(run: LocalRun) -> list[str]:
    """At least one; that which tells most is the last.

    Raises:
        OSError: a file cannot be read.
    """
    events = sorted((f for f in run.files if wire.is_event_file(f.base)), key=_begun)
    marks = _of_others(run)
    for suffixes in (LOGS, TABLES):
        grown = [file for file in _by_name(run) if file.tail.endswith(suffixes)]
        marks += [mark for file in grown[:MAX_FILES] for mark in _of_lines(run, file)]
    marks += [mark for file in reversed(events[:MAX_FILES]) for mark in _of_events(run, file)]
    return list(dict.fromkeys(marks)) or [_of_all(run)]


def _of_others(run: LocalRun) -> list[str]:
    """Of a run without any curve or log; a file that is written anew makes it another one."""
    grown = wire.CURVES_AND_LOGS
    others = [one for one in _by_name(run) if one.size and not one.tail.endswith(grown)]
    return [_mark(run, file, _start(file)) for file in reversed(others[:MAX_FILES])]


def _of_all(run: LocalRun) -> str:
    """Of a run that has nothing but heads yet: another one as soon as it has a line."""
    digest = hashlib.sha256()
    for file in [one for one in _by_name(run) if one.size][:MAX_FILES]:
        digest.update(_mark(run, file, _start(file)).encode())
    return digest.hexdigest()


def _by_name(run: LocalRun) -> list[LocalFile]:
    """The run's own files first."""
    return sorted(run.files, key=lambda file: (file.tail[:1] != ".", file.tail))


def _begun(file: LocalFile) -> tuple[float, str]:
    return eventfiles.began(file.base) or 0.0, file.tail


def _of_lines(run: LocalRun, file: LocalFile) -> Iterator[str]:
    """Of its first lines, of one more each time."""
    lines = _start(file).split(b"\n")[:-1][:MAX_LINES]
    digest = hashlib.sha256(_head(run, file))
    for number, line in enumerate(lines, start=1):
        digest.update(line + b"\n")
        if number >= FEWEST_LINES:
            yield digest.hexdigest()


def _of_events(run: LocalRun, file: LocalFile) -> Iterator[str]:
    if first := eventfiles.first_record(file.path):
        yield _mark(run, file, first)


def _mark(run: LocalRun, file: LocalFile, start: bytes) -> str:
    return hashlib.sha256(_head(run, file) + start).hexdigest()


def _head(run: LocalRun, file: LocalFile) -> bytes:
    return f"{run.name}\0{file.tail}\0".encode("utf-8", "surrogateescape")


def _start(file: LocalFile) -> bytes:
    with file.path.open("rb") as source:
        return source.read(MAX_BYTES)
