"""Which paths below a folder are meant: `lightning_logs/**`, `*.png`, `wandb/**/media`.

A path is walked down part by part, so that no folder is looked into in which nothing can match.
"""

import fnmatch
from collections.abc import Iterable

ANY_DEPTH = "**"


class Globs:
    """A few patterns. One that names a folder means all that is in it."""

    def __init__(self, patterns: Iterable[str], *, everywhere: bool = False) -> None:
        """
        Args:
            everywhere: as in a .gitignore: a pattern without a slash holds at any depth, and a
                wildcard for names that begin with a dot too.
        """
        self._dots = everywhere
        self._patterns = [_parts_of(pattern, everywhere) for pattern in patterns]

    @property
    def start(self) -> "Progress":
        return self._settled({(number, 0) for number in range(len(self._patterns))})

    def step(self, progress: "Progress", name: str) -> "Progress":
        """How far the patterns are after one more part of the path; empty: none can match."""
        steps = set()
        for number, place in progress:
            parts = self._patterns[number]
            if place == len(parts) or not self._fits(parts[place], name):
                continue
            steps.add((number, place if parts[place] == ANY_DEPTH else place + 1))
        return self._settled(steps)

    def matched(self, progress: "Progress") -> bool:
        return any(place == len(self._patterns[number]) for number, place in progress)

    def match(self, path: str) -> bool:
        progress = self.start
        for name in path.split("/"):
            progress = self.step(progress, name)
        return self.matched(progress)

    def _fits(self, part: str, name: str) -> bool:
        if name.startswith(".") and not (self._dots or part.startswith(".")):
            return False
        return part == ANY_DEPTH or fnmatch.fnmatchcase(name, part)

    def _settled(self, steps: set[tuple[int, int]]) -> "Progress":
        """`**` stands for no folder too."""
        waiting = list(steps)
        while waiting:
            number, place = waiting.pop()
            parts, after = self._patterns[number], (number, place + 1)
            if place < len(parts) and parts[place] == ANY_DEPTH and after not in steps:
                steps.add(after)
                waiting.append(after)
        return frozenset(steps)


#: (number of a pattern, how many of its parts are behind us)
Progress = frozenset[tuple[int, int]]


def _parts_of(pattern: str, everywhere: bool) -> list[str]:
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if everywhere and len(parts) == 1 and not pattern.startswith("/"):
        parts = [ANY_DEPTH, *parts]
    return [*parts, ANY_DEPTH]
