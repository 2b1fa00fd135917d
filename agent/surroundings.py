"""What all attempts of an agent share, and what is asked of whoever sends their files."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent import wire
from agent.code.laying import CodeLaying
from agent.files import outputs
from agent.files.outputs import Outputs
from agent.gpulock import GPULocks
from agent.gpus import GPUWatch
from agent.journal import Attempt, Journal
from agent.lacks import Lacks
from agent.process import Supervision
from agent.users import User
from agent.wire import AttemptOrder
from agent.workspace import Workspace


class Files(Protocol):
    """What the runner asks of whoever sends a run's files (agent.files.filesync).

    Every call may come twice, and the others for an attempt that was never watched: it is settled
    and has no files. `watch` comes when the command has just started, and again for each attempt
    that is still in the journal when the agent starts, with the folder where its files lie by
    then; what was acknowledged is the implementation's own to remember.
    """

    def watch(
        self,
        attempt_id: str,
        experiment_uid: str,
        project: str,
        run_name: str,
        number: int,
        run_dir: Path,
        *,
        policy: wire.SyncPolicy,
        ignore: Sequence[str],
        outputs: Outputs | None,
        secret_names: Sequence[str],
    ) -> None:
        """Send `{run_dir}/{run_name}.*`, what lies in `{run_dir}/{run_name}/`, and `outputs`; of
        text that grows nothing before the values of these secrets are masked in it."""

    def moved(self, attempt_id: str, run_dir: Path) -> None:
        """The files of this ended attempt, under the same names, lie in `run_dir` from now on."""

    def exited(self, attempt_id: str) -> None:
        """Its process is gone and its metadata is final: nothing changes from here on."""

    def reports(self, attempt_id: str) -> dict[str, wire.FileReport]:
        """File name → what to say of it in a poll. Cheap: called for each poll."""

    def left_out(self, attempt_id: str) -> list[wire.LeftOut]:
        """What is not sent, to be said in a poll. As cheap."""

    def settled(self, attempt_id: str) -> bool:
        """After `exited`: all is acknowledged, or will never be (deleted on the server, or not
        wished there)."""

    def doubt(self, attempt_id: str, names: set[str] | None = None) -> None:
        """Of an attempt that is watched: the server lacks what it acknowledged of these files,
        or may lack any (None). Offer them again."""

    def bring_home(self, attempt_id: str) -> None:
        """All is settled, and its working directory goes: what of its outputs is kept on this host
        lies in the run's own folder when this returns."""

    def leave(self, attempt_id: str) -> None:
        """All is settled: look at its files no more, but remember what was acknowledged."""

    def forget(self, attempt_id: str) -> None:
        """The attempt leaves the journal: drop what is remembered of it, not its files."""

    def nudge(self) -> None:
        """The server is back, or it is time to stop: do not wait any longer."""

    def run(self, stop: threading.Event) -> None:
        """Block until `stop`, sending whatever is to be sent."""


@dataclass(frozen=True)
class Surroundings:
    """What all attempts of an agent share."""

    journal: Journal
    workspace: Workspace
    files: Files
    gpus: GPUWatch
    locks: GPULocks
    attempts_dir: Path  # one folder an attempt, for its supervisor
    source: Path  # where commands run unless an order says otherwise
    fetch_config: Callable[[str], bytes]  # by attempt id
    lay_in: Callable[[AttemptOrder, Path], None]  # the files to resume from, into a run's folder
    code: CodeLaying
    kept: Callable[[Path, User], None]  # told of what outlives a run, before it is used
    changed: Callable[[], None]  # there is an event to send, or something new to say in a poll
    stop: threading.Event  # the agent's end, not the job's
    lacks: Lacks  # what jobs required and this host has not
    driver: Callable[[], tuple[str | None, str | None]]  # its version, and CUDA's
    as_submitter: bool = False  # whether jobs run as whom their orders name (agent.users)
    #: By attempt id: cards that ended attempts still hold, for polls to tell.
    held: dict[str, list[wire.HeldGPU]] = field(default_factory=dict)

    def supervision(self, attempt_id: str) -> Supervision:
        return Supervision(self.attempts_dir / attempt_id)

    def outputs(self, order: AttemptOrder, directory: Path) -> Outputs | None:
        """What it leaves in its working directory besides; None: nothing is to be looked for."""
        leave = self.workspace.places(order).run_dir.parent
        return outputs.of_order(order, directory, self.attempts_dir, leave)

    def note_outputs(self, attempt: Attempt, names: set[str]) -> None:
        """What an attempt that was done is to offer again: its notes went with its folder."""
        directory, order = attempt.facts.get("working_directory"), attempt.order
        found = self.outputs(order, Path(directory)) if directory else None
        if found is not None:
            found.note_again({name.removeprefix(f"{order.run_name}/") for name in names})

    def watch_files(self, order: AttemptOrder, run_dir: Path) -> None:
        attempt = self.journal.find(order.id)
        directory = attempt and attempt.facts.get("working_directory")
        self.files.watch(
            order.id,
            order.experiment_uid,
            order.project,
            order.run_name,
            order.number,
            run_dir,
            policy=order.sync,
            ignore=order.ignore,
            outputs=self.outputs(order, Path(directory)) if directory else None,
            secret_names=order.secret_names,
        )
