"""What lies here and has not arrived at the server: for `lab-agent status` and `push`.

It is found as the agent itself finds it: from its journals, which are only read, and by a look at
the files. So it is true whether or not the agent runs. Why a file waits, only an agent that runs
can tell; it does in `.sync_state.json`.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agent import shim
from agent.files import filesync, outputs, syncstate
from agent.files.filejournal import FileJournal
from agent.files.globs import Globs
from agent.files.growing import Growing
from agent.files.outputs import Outputs
from agent.files.runfiles import RunFiles
from agent.files.tracked import STILL_SECONDS, Tracked
from agent.files.userfolders import UserFolders
from agent.journal import Attempt, Journal
from agent.presence import Record
from agent.store import StoreReader
from agent.wire import AttemptState
from agent.workspace import run_dir_of

NOBODY_SENDS = "no agent runs, so nobody sends it"


@dataclass(frozen=True)
class FileBehind:
    """A file that has not arrived. `behind_bytes` may be 0: all is there, and not confirmed."""

    name: str  # with a slash at its end: a folder that cannot be looked at
    size_bytes: int
    acked_bytes: int
    behind_bytes: int
    generation: int | None
    state: str  # as .sync_state.json has it
    why: str
    since: str | None  # ISO 8601
    grows: bool  # it is added to, not replaced
    is_confirmed: bool  # the version of that generation is whole at the server

    @property
    def is_held_up(self) -> bool:
        """Whether something is in its way, beyond that others are sent first."""
        return self.state in ("waiting", "refused")


@dataclass(frozen=True)
class RunBehind:
    project: str
    run: str
    experiment_uid: str
    attempt: int
    ended: bool
    folder: str
    files: list[FileBehind]

    @property
    def name(self) -> str:
        return f"{self.project}/{self.run}"

    @property
    def behind_bytes(self) -> int:
        return sum(file.behind_bytes for file in self.files)

    def is_called(self, name: str) -> bool:
        """Whether a person who says `name` means this one."""
        return name in (self.name, self.run, self.experiment_uid)


class Glance:
    """The journals of one agent, read without disturbing it. See glance_at()."""

    def __init__(
        self, folder: Path, record: Record, attempts: StoreReader, files: StoreReader
    ) -> None:
        self._folder, self._record = folder, record
        self._journal = Journal(attempts)
        self._files = FileJournal(files)
        self._told = syncstate.read(workspace_of(record) / syncstate.NAME)

    def runs(self) -> list[RunBehind]:
        """All that are under way, each with what is behind of it."""
        attempts = [one for one in self._journal.attempts() if one.run_dir is not None]
        return [self._run(attempt) for attempt in attempts]

    def knows(self, name: str) -> bool:
        """Whether a run of that name was here, as far as that is remembered."""
        known = [*self._journal.attempts(), *self._journal.done()]
        return any(is_called(attempt, name) for attempt in known)

    def _run(self, attempt: Attempt) -> RunBehind:
        run = self._run_files(attempt)
        told = self._told.get(syncstate.key_of(run.experiment_uid, run.number), {})
        files = [
            self._file(file, told.get("files", {}).get(file.name, {}))
            for file in self._seen(run)
            if not file.has_arrived
        ]
        files += [_closed(folder, exc) for folder, exc in run.closed.items()]
        return RunBehind(
            run.project,
            run.run_name,
            run.experiment_uid,
            run.number,
            run.exited,
            str(run.run_dir),
            files,
        )

    def _run_files(self, attempt: Attempt) -> RunFiles:
        """As the agent has them: what it looks for, and what it leaves out."""
        order, root = attempt.order, workspace_of(self._record)
        assert attempt.run_dir is not None
        run = RunFiles(
            attempt.id,
            order.experiment_uid,
            order.project,
            order.run_name,
            order.number,
            Path(attempt.run_dir),
            exited=attempt.state is AttemptState.EXITED,
            rights_in=UserFolders(root).rights_in,
            policy=order.sync,
            ignore=Globs(order.ignore, everywhere=True),
            outputs=outputs_of(attempt, self._folder, root),
        )
        if run.outputs is not None:
            run.outputs.at_once = True
            run.outputs.rights = partial(run.rights_in, run.run_dir)
        return run

    def _seen(self, run: RunFiles) -> list[Tracked]:
        nobody, files, marks = threading.Event(), dict[str, Tracked](), run.look()
        for name, mark in sorted(marks.items()):
            files[name] = file = filesync.kind_of(name)(run, name, self._files, nobody)
            file.see(mark, shim.now() - STILL_SECONDS)  # whether it holds still is not known here
        filesync.look_inside(files, marks)
        filesync.mark_left_out(files.values(), run.policy)
        return list(files.values())

    def _file(self, file: Tracked, told: dict[str, Any]) -> FileBehind:
        """`told`: what the agent said of it last."""
        acked, behind = file.sent.acked_bytes if file.sent else 0, file.behind_bytes
        generation = file.sent.generation if file.sent else None
        if told.get("generation") == generation and told.get("acked_bytes", 0) > acked:
            acked = told["acked_bytes"]  # of an upload in chunks, which no journal notes
            behind = max(0, file.seen.size - acked)
        return FileBehind(
            file.name,
            file.seen.size,
            acked,
            behind,
            generation,
            *self._reason(file, told),
            grows=isinstance(file, Growing),
            is_confirmed=file.sent is not None and file.sent.complete,
        )

    def _reason(self, file: Tracked, told: dict[str, Any]) -> tuple[str, str, str | None]:
        record = self._record
        if not record.alive:
            return "waiting", NOBODY_SENDS, record.stopped_at or record.answered_at
        if told.get("state") == "refused":
            return "refused", told["why"], told["since"]
        if record.trouble:
            return "waiting", record.trouble, record.answered_at or record.started_at
        if "why" in told:
            return told["state"], told["why"], told["since"]
        return file.state, file.why or "", None


def _closed(folder: str, exc: OSError) -> FileBehind:
    """Nobody knows what is in it; a person has to open it."""
    why = f"it cannot be looked at: {exc.strerror}"
    return FileBehind(
        f"{folder}/", 0, 0, 0, None, "refused", why, None, grows=False, is_confirmed=False
    )


@contextmanager
def glance_at(folder: Path, record: Record) -> Iterator[Glance]:
    """
    Args:
        folder: of an agent's state, with its note `record`.

    Raises:
        sqlite3.Error: its journals cannot be read, here or at a look.
    """
    with (
        closing(StoreReader(folder / "journal.sqlite3")) as attempts,
        closing(StoreReader(folder / "files.sqlite3")) as files,
    ):
        yield Glance(folder, record, attempts, files)


def runs_behind(folder: Path, record: Record) -> list[RunBehind] | None:
    """The runs of one agent of which something has not arrived; None: its journals, or a run's
    folder, cannot be read."""
    try:
        with glance_at(folder, record) as glance:
            return [run for run in glance.runs() if run.files]
    except (OSError, sqlite3.Error):
        return None


def outputs_of(attempt: Attempt, folder: Path, workspace: Path) -> Outputs | None:
    """What an attempt leaves in its working directory. `folder`: of the agent's state."""
    directory = attempt.facts.get("working_directory")
    if not directory:
        return None
    leave = run_dir_of(attempt.order, workspace).parent
    return outputs.of_order(attempt.order, Path(directory), folder / "attempts", leave)


def size_words(size_bytes: int) -> str:
    """For a person: "2.1 MB"."""
    size = float(size_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size_bytes} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def workspace_of(record: Record) -> Path:
    return Path(record.workspace or record.workdir)


def is_called(attempt: Attempt, name: str) -> bool:
    """Whether a person who says `name` means that attempt's run."""
    order = attempt.order
    return RunBehind(
        order.project, order.run_name, order.experiment_uid, order.number, True, "", []
    ).is_called(name)
