"""Since when a file is behind: when what has not arrived of it was first seen."""

from dataclasses import dataclass, field

from agent import shim

MOST_STEPS = 64  # of a file that grows at each look; beyond that every other is forgotten


@dataclass(frozen=True)
class Step:
    """By then it was so long."""

    size: int
    seconds: float  # of CLOCK_BOOTTIME
    time: str  # ISO 8601, for people


@dataclass
class Backlog:
    steps: list[Step] = field(default_factory=list)  # each is longer than the one before

    @property
    def since(self) -> str | None:
        """None: it is not behind."""
        return self.steps[0].time if self.steps else None

    @property
    def since_seconds(self) -> float:
        return self.steps[0].seconds if self.steps else 0.0

    def grew(self, size: int, now_seconds: float) -> None:
        """It is behind, and so long now. One that is shorter was written anew."""
        first = self.steps[:1]
        if first and size < self.steps[-1].size:
            self.steps = [Step(size, first[0].seconds, first[0].time)]
        elif not first or size > self.steps[-1].size:
            self.steps.append(Step(size, now_seconds, shim.wall_clock()))
        if len(self.steps) > MOST_STEPS:
            del self.steps[1:-1:2]

    def arrived(self, acked_bytes: int) -> None:
        """Of these bytes nothing is behind any more."""
        while len(self.steps) > 1 and self.steps[0].size <= acked_bytes:
            del self.steps[0]

    def clear(self) -> None:
        self.steps.clear()
