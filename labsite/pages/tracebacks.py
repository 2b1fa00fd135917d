"""The last traceback in a log's tail, as frames and the line that says what was wrong.

Understands what Python prints, also behind a prefix ("[rank0]: ") and in several parts (while one
error was handled another came: the last part is the one the program ended with). Of a program that
started others (torchrun, multiprocessing) the part that tells of the error itself goes before the
one that says only that a child failed.
"""

import re
from dataclasses import dataclass

from labsite.pages.ansi import plain

_BEGIN = re.compile(r"^(?P<prefix>.*?)Traceback \(most recent call last\):\s*$")
_FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?$')
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(?::(?: .*)?)?$")
_LIBRARY = re.compile(r"(^|/)(site-packages|dist-packages|lib/python3[.\d]*)/|^<frozen ")
#: Says that a child failed, and not why.
_OF_PARENTS = re.compile(
    r"ChildFailedError|ProcessRaisedException|ProcessExitedException|CalledProcessError"
    r"|^SystemExit|DataLoader worker .* exited unexpectedly"
)
MAX_FRAMES = 60
#: An exception whose message goes on over lines is followed so far.
MAX_MESSAGE_LINES = 12


@dataclass(frozen=True)
class Frame:
    file: str
    line: int
    function: str
    source: str  # the line of code, where it was printed

    @property
    def is_library(self) -> bool:
        """Somebody else's code: a package's, or Python's own."""
        return bool(_LIBRARY.search(self.file))


@dataclass(frozen=True)
class Traceback:
    exception: str  # "torch.OutOfMemoryError: CUDA out of memory. …"
    more: list[str]  # the other lines of its message
    frames: list[Frame]  # the outermost first
    at: int  # which of the lines it begins with

    @property
    def own(self) -> Frame | None:
        """The innermost frame in the researcher's own code."""
        return next((frame for frame in reversed(self.frames) if not frame.is_library), None)


def last_traceback(lines: list[str]) -> Traceback | None:
    """Args:
    lines: the log's last lines, without line ends and colours.
    """
    found = [one for at in _beginnings(lines) if (one := _read(lines, at)) is not None]
    telling = [one for one in found if not _OF_PARENTS.search(one.exception)]
    return (telling or found or [None])[-1]


def lines_of(data: bytes) -> list[str]:
    """What read a log's tail as text; of a line that was written over, what was seen last."""
    texts = (
        line.rstrip("\r").rsplit("\r", 1)[-1]
        for line in data.decode("utf-8", "replace").split("\n")
    )
    return [plain(text).rstrip() for text in texts]


def _beginnings(lines: list[str]) -> list[int]:
    return [at for at, line in enumerate(lines) if _BEGIN.match(line)][-20:]


def _read(lines: list[str], begin: int) -> Traceback | None:
    """None where the log ends before it says what was wrong."""
    prefix = _BEGIN.match(lines[begin])["prefix"]
    rest = _without(prefix, lines[begin + 1 :])
    frames: list[Frame] = []
    for at, line in enumerate(rest):
        if frame := _FRAME.match(line):
            source = rest[at + 1].strip() if at + 1 < len(rest) else ""
            is_source = not _FRAME.match(rest[at + 1]) if source else False
            frames.append(
                Frame(
                    frame["file"],
                    int(frame["line"][:9]),
                    frame["function"] or "",
                    source[:200] if is_source and rest[at + 1].startswith("    ") else "",
                )
            )
        elif line and not line[0].isspace() and _EXCEPTION.match(line):
            return Traceback(line, _message(rest[at + 1 :]), frames[-MAX_FRAMES:], begin)
        elif line and not line[0].isspace() and not line.startswith(("|", "+")):
            return None  # something else was printed in between
    return None


def _without(prefix: str, lines: list[str]) -> list[str]:
    if not prefix.strip():
        return [line.removeprefix(prefix) for line in lines]
    kept = []
    for line in lines:
        if not line.startswith(prefix.rstrip()):
            if _EXCEPTION.match(line):  # "ERROR Traceback …": only its first line has the prefix
                kept.append(line)
                continue
            if line[:1].isspace():
                kept.append(line)
            continue
        kept.append(line[len(prefix) :])
    return kept


def _message(lines: list[str]) -> list[str]:
    found = []
    for line in lines[:MAX_MESSAGE_LINES]:
        if not line.strip() or _BEGIN.match(line):
            break
        found.append(line)
    return found
