"""Somebody's wish that an agent waits no longer with what it has to send."""

from contextlib import suppress
from pathlib import Path

FILE = "push"


class Wish:
    """A file in the agent's state folder, which the agent takes away."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def make(self) -> None:
        self._path.touch()

    def heard(self) -> bool:
        """Whether it was made since this was last asked."""
        with suppress(FileNotFoundError):
            self._path.unlink()
            return True
        return False
