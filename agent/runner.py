"""One attempt from its order to its end."""

import threading
from pathlib import Path
from typing import Protocol

from agent import wire


class Files(Protocol):
    """What the runner asks of whoever sends a run's files (agent.filesync).

    Every call may come twice. `watch` comes before the command starts, and again for each
    attempt that is still in the journal when the agent starts; what was acknowledged by then is
    the implementation's own to remember.
    """

    def watch(
        self,
        attempt_id: str,
        experiment_uid: str,
        project: str,
        run_name: str,
        number: int,
        run_dir: Path,
    ) -> None:
        """Send `{run_dir}/{run_name}.*` and what lies in `{run_dir}/{run_name}/`."""

    def moved(self, attempt_id: str, run_dir: Path) -> None:
        """The files of this ended attempt, under the same names, lie in `run_dir` from now on."""

    def exited(self, attempt_id: str) -> None:
        """Its process is gone and its metadata is final: nothing changes from here on."""

    def reports(self, attempt_id: str) -> dict[str, wire.FileReport]:
        """File name → what to say of it in a poll. Cheap: called for each poll."""

    def settled(self, attempt_id: str) -> bool:
        """After `exited`: all is acknowledged, or will never be (deleted on the server)."""

    def forget(self, attempt_id: str) -> None:
        """The attempt leaves the journal: drop what is remembered of it, not its files."""

    def nudge(self) -> None:
        """The server is back, or it is time to stop: do not wait any longer."""

    def run(self, stop: threading.Event) -> None:
        """Block until `stop`, sending whatever is to be sent."""
