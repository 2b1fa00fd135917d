"""Somebody's wish that an agent waits no longer with what it has to send."""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

FILE = "push"


class Wish:
    """A file in the agent's state folder, which the agent takes away."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def make(self, attempt_ids: Collection[str] = ()) -> None:
        """
        Args:
            attempt_ids: those of which the server lacks something that it had acknowledged.
        """
        new = self._path.with_name(f".{FILE}.{os.getpid()}")
        new.write_text("\n".join(attempt_ids))
        new.replace(self._path)

    def heard(self) -> list[str] | None:
        """What it names, if it was made since this was last asked."""
        with suppress(FileNotFoundError):
            attempt_ids = self._path.read_text(errors="replace").split()
            self._path.unlink()
            return attempt_ids
        return None
