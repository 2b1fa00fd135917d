"""How long to wait before trying again."""

import random
import threading
from collections.abc import Callable

FLOOR_SECONDS = 0.5
CEILING_SECONDS = 30.0


class Backoff:
    """Full jitter: each wait is drawn between nothing and a bound that doubles from 0.5 to 30 s.

    A hundred agents whose server comes back then do not ask all at once.
    """

    def __init__(
        self,
        floor_seconds: float = FLOOR_SECONDS,
        ceiling_seconds: float = CEILING_SECONDS,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._floor = floor_seconds
        self._ceiling = ceiling_seconds
        self._draw = draw
        self._bound = floor_seconds

    def next_seconds(self, at_least: float | None = None) -> float:
        """The next wait; never shorter than `at_least`, which the server asked for."""
        seconds = self._draw(0.0, self._bound)
        self._bound = min(self._ceiling, 2 * self._bound)
        return max(seconds, at_least or 0.0)

    def reset(self) -> None:
        self._bound = self._floor


class Bell:
    """Something to wait at that may be rung early: there is news, or it is time to stop."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def ring(self) -> None:
        self._rung.set()

    def wait(self, seconds: float | None) -> bool:
        """Wait until rung, at most `seconds`. Return whether it was, and be silent again."""
        rung = self._rung.wait(seconds)
        self._rung.clear()
        return rung
