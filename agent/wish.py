"""Somebody's wish that an agent waits no longer with what it has to send."""

import os
from collections.abc import Collection
from pathlib import Path

FILE = "push"


class Wish:
    """A file in the agent's state folder, which the agent takes away.

    Several may be made at a time, and one in the moment in which the agent takes another: a file
    is taken by a rename, and none is written over, so that no id is lost.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def make(self, attempt_ids: Collection[str] = ()) -> None:
        """
        Args:
            attempt_ids: those of which the server lacks something that it had acknowledged.
        """
        wished, mine = set(attempt_ids), self._of_my_own("new")
        while True:
            mine.write_text("\n".join(sorted(wished)))
            try:
                os.link(mine, self._path)
            except FileExistsError:
                wished.update(self.heard() or ())  # one wish for both
            except OSError:  # a file system without links: the last one counts
                mine.replace(self._path)
                return
            else:
                mine.unlink()
                return

    def heard(self) -> list[str] | None:
        """What it names, if it was made since this was last asked."""
        taken = self._of_my_own("heard")
        try:
            self._path.rename(taken)
        except FileNotFoundError:
            return None
        attempt_ids = taken.read_text(errors="replace").split()
        taken.unlink()
        return attempt_ids

    def _of_my_own(self, kind: str) -> Path:
        return self._path.with_name(f".{FILE}.{kind}.{os.getpid()}")
