"""What the server has not as it acknowledged it, for `lab-agent push`: the server itself is asked.

An agent finds that out by its audit, within the hour or later; who pushes does not want to wait.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from agent import shim
from agent.errors import AgentError
from agent.files import filesync
from agent.files.audit import IN_TURN, Audit
from agent.files.behind import FileBehind, RunBehind, is_called
from agent.files.filejournal import FileJournal
from agent.files.growing import Growing
from agent.journal import Attempt, Journal
from agent.store import StoreReader
from agent.transport import Transport
from agent.wire import AttemptState

ASK_SECONDS = 1.0
HEEDED_SECONDS = 30.0  # within which an agent offers again what it is told is lacking
WHY = "the server has not what it acknowledged, and the agent is told so"
WHY_NOT = "the server has not what it acknowledged, and the agent does not send it again"


class Missing:
    """Of the runs of one agent. Found when it is made, and looked at again until there is none."""

    def __init__(
        self, folder: Path, connect: Callable[[], Transport], names: Iterable[str]
    ) -> None:
        """
        Args:
            folder: of the agent's state.
            names: of runs; none: what is under way, and the newest that are done.
        """
        self._folder, self._connect = folder, connect
        #: Why the server could not be asked for all of them the last time, if so.
        self.trouble: str | None = None
        self._found: dict[str, tuple[Attempt, set[str]]] = {}
        self._told: set[str] = set()  # ids of those that news() has told
        self._told_at = self._asked_at = shim.now()
        with closing(StoreReader(folder / "journal.sqlite3")) as attempts:
            self._unasked = _chosen(Journal(attempts), list(names))
        self._ask()

    def news(self) -> list[tuple[Attempt, set[str]]]:
        """What was found since this was last called; whoever calls has it sent again."""
        new = [one for id_, one in self._found.items() if id_ not in self._told]
        if new:
            self._told |= {attempt.id for attempt, _names in new}
            self._told_at = shim.now()
        return new

    def left(self) -> list[RunBehind]:
        is_open = self._found or self._unasked
        if is_open and shim.now() - self._asked_at >= ASK_SECONDS:
            self._ask()
        return [
            _behind(attempt, names, self._is_heeded) for attempt, names in self._found.values()
        ]

    @property
    def _is_heeded(self) -> bool:
        return shim.now() - self._told_at < HEEDED_SECONDS

    def _ask(self) -> None:
        """Of what has not been asked yet, and of what was lacking. A server that goes away in
        between changes nothing of what it has said by then."""
        self.trouble = None
        with (
            closing(StoreReader(self._folder / "journal.sqlite3")) as attempts,
            closing(StoreReader(self._folder / "files.sqlite3")) as files,
            closing(self._connect()) as transport,
        ):
            audit = Audit(self._connect, Journal(attempts), FileJournal(files), lambda *_: None)
            try:
                for attempt, _names in list(self._found.values()):
                    self._note(attempt, audit.lacks(transport, attempt))
                while self._unasked:
                    self._note(self._unasked[0], audit.lacks(transport, self._unasked[0]))
                    del self._unasked[0]
            except AgentError as exc:
                self.trouble = str(exc)
        self._asked_at = shim.now()

    def _note(self, attempt: Attempt, names: set[str]) -> None:
        if names:
            self._found[attempt.id] = attempt, names
        else:
            self._found.pop(attempt.id, None)


def _chosen(journal: Journal, names: list[str]) -> list[Attempt]:
    if not names:
        return [*journal.attempts(), *journal.done()[:IN_TURN]]
    known = [*journal.attempts(), *journal.done()]
    return [one for one in known if any(is_called(one, name) for name in names)]


def _behind(attempt: Attempt, names: set[str], is_heeded: bool) -> RunBehind:
    order = attempt.order
    return RunBehind(
        order.project,
        order.run_name,
        order.experiment_uid,
        order.number,
        attempt.state is AttemptState.EXITED,
        str(attempt.run_dir),
        [_file(attempt, name, is_heeded) for name in sorted(names)],
    )


def _file(attempt: Attempt, name: str, is_heeded: bool) -> FileBehind:
    try:
        size = os.stat(Path(attempt.run_dir or "", name)).st_size
    except OSError:
        size = 0  # an output, which lies in the working directory
    state, why = ("syncing", WHY) if is_heeded else ("refused", WHY_NOT)
    grows = issubclass(filesync.kind_of(name), Growing)
    return FileBehind(name, size, 0, size, None, state, why, None, grows=grows, is_confirmed=False)
