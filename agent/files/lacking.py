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


class Lacking:
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
        self._began = self._asked_at = shim.now()
        self._names = list(names)
        self.found = self._ask(self._chosen)

    def left(self) -> list[RunBehind]:
        if self.found and shim.now() - self._asked_at >= ASK_SECONDS:
            self.found = self._ask(lambda journal: [attempt for attempt, _names in self.found])
            self._asked_at = shim.now()
        return [_behind(attempt, names, self._is_heeded) for attempt, names in self.found]

    @property
    def _is_heeded(self) -> bool:
        return shim.now() - self._began < HEEDED_SECONDS

    def _chosen(self, journal: Journal) -> list[Attempt]:
        if not self._names:
            return [*journal.attempts(), *journal.done()[:IN_TURN]]
        known = [*journal.attempts(), *journal.done()]
        return [one for one in known if any(is_called(one, name) for name in self._names)]

    def _ask(self, which: Callable[[Journal], list[Attempt]]) -> list[tuple[Attempt, set[str]]]:
        with (
            closing(StoreReader(self._folder / "journal.sqlite3")) as attempts,
            closing(StoreReader(self._folder / "files.sqlite3")) as files,
            closing(self._connect()) as transport,
        ):
            journal = Journal(attempts)
            audit = Audit(self._connect, journal, FileJournal(files), lambda *_: None)
            try:
                found = [(one, audit.lacks(transport, one)) for one in which(journal)]
            except AgentError:
                return []  # a server that is away is told of by what waits for it
        return [(attempt, names) for attempt, names in found if names]


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
