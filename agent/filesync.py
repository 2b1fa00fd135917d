"""Sending the files of all attempts, as they grow and after they ended.

Two threads: one for what grows (CSV, log), one for what is sent as a whole, so that no curve
waits behind a checkpoint. A file is only ever handled by the thread of its kind. What a file is
sent as stands in agent.growing and agent.upload; what has been sent, in agent.filejournal.

After the attempt's end each file is confirmed by the SHA-256 of the whole: a growing file's last
delta carries it as X-File-SHA256 (an empty delta, when nothing else is left to send); the
server compares it with what it holds, and answers 409 `diverged` if that is another file.

`.sync_state.json` beside the projects tells people how far each file is.
"""

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from agent import shim, wire
from agent.backoff import Backoff, Bell
from agent.complaint import Complaint
from agent.errors import ServerUnreachable, Unauthorized, WrongProtocol
from agent.filejournal import FileJournal
from agent.growing import GrowingFile
from agent.store import Store
from agent.syncedfile import Origin, RunDeleted, SyncedFile
from agent.syncstate import SyncState
from agent.transport import Transport
from agent.upload import WholeFile

logger = logging.getLogger(__name__)

#: A row must be at the server within a second of being written.
LOOK_SECONDS = 0.5
HOPELESS_SECONDS = 60.0  # between tries while the server does not accept this agent at all
GROWING = (".csv", ".log", ".jsonl", ".tsv")
#: Never sent: what is still being written under a name of its own, to be renamed.
UNFINISHED = (".tmp", ".part", ".partial", ".temp", ".swp", "~")
MAX_ARTIFACTS = 2000  # of one run
MAX_REPORTED = 50  # in a poll, of one attempt: polls are at most 1 MiB


class _Watched:
    """One attempt's files. `files` is replaced as a whole, so that any thread may read it."""

    def __init__(self, origin: Origin, run_dir: Path) -> None:
        self.origin = origin
        self.run_dir = run_dir
        self.files: dict[str, SyncedFile] = {}
        self.exited = False
        self.all_found = False  # its folder was looked through after its end
        self.deleted = False
        self._known: dict[str, int] | None = None
        self._asking = threading.Lock()

    @property
    def settled(self) -> bool:
        found = self.exited and self.all_found
        return self.deleted or (found and all(file.settled for file in self.files.values()))

    def floor(self, transport: Transport, name: str) -> int:
        """The highest generation of a file that the server knows; 0: none."""
        with self._asking:
            if self._known is None:
                self._known = _generations(transport.sync_status(self.origin.experiment_uid))
        return self._known.get(name, 0)


def _generations(answer: dict[str, object]) -> dict[str, int]:
    data = answer.get("data")
    files = data.get("files") if isinstance(data, dict) else None
    if not isinstance(files, dict):
        raise ServerUnreachable("The answer about the state of the files is not understood")
    return {
        name: file["generation"]
        for name, file in files.items()
        if isinstance(file, dict) and isinstance(file.get("generation"), int)
    }


class FileSync:
    """See agent.runner.Files for what may be asked of it, and by whom."""

    def __init__(
        self,
        store: Store,
        connect: Callable[[], Transport],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._journal = FileJournal(store)
        self._connect = connect
        self._look_seconds = look_seconds
        self._watched: dict[str, _Watched] = {}
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._bells = (Bell(), Bell())
        self._state = SyncState()

    # --- what the runner asks ---

    def watch(
        self,
        attempt_id: str,
        experiment_uid: str,
        project: str,
        run_name: str,
        number: int,
        run_dir: Path,
    ) -> None:
        origin = Origin(attempt_id, experiment_uid, project, run_name, number)
        with self._turn:
            watched = self._watched.setdefault(attempt_id, _Watched(origin, run_dir))
            watched.run_dir = run_dir
        self.nudge()

    def moved(self, attempt_id: str, run_dir: Path) -> None:
        watched = self._find(attempt_id)
        if watched is not None:
            watched.run_dir = run_dir
            watched.all_found = False

    def exited(self, attempt_id: str) -> None:
        watched = self._find(attempt_id)
        if watched is not None:
            watched.exited = True
        self.nudge()

    def reports(self, attempt_id: str) -> dict[str, wire.FileReport]:
        watched = self._find(attempt_id)
        if watched is None:
            return {}
        first = sorted(watched.files.values(), key=lambda file: (file.settled, "/" in file.name))
        return {
            file.name: wire.FileReport(
                file.sent.generation, file.size, min(file.sent.acked_bytes, file.size)
            )
            for file in first[:MAX_REPORTED]
        }

    def settled(self, attempt_id: str) -> bool:
        watched = self._find(attempt_id)
        return watched is None or watched.settled

    def forget(self, attempt_id: str) -> None:
        with self._turn:
            self._watched.pop(attempt_id, None)
        self._journal.drop(attempt_id)

    def nudge(self) -> None:
        for bell in self._bells:
            bell.ring()

    def run(self, stop: threading.Event) -> None:
        """Block until `stop`, or until one of the two threads fails."""
        self._stop = stop
        growing = _Lane(self._pass_growing, self._bells[0], self._look_seconds)
        whole = _Lane(self._pass_whole, self._bells[1], self._look_seconds)
        with ThreadPoolExecutor(1, thread_name_prefix="whole files") as pool:
            other = pool.submit(whole.run, stop, self._connect)
            other.add_done_callback(lambda _: self._bells[0].ring())
            growing.run(stop, self._connect, other.done)
        other.result()

    # --- the two threads ---

    def _find(self, attempt_id: str) -> _Watched | None:
        with self._turn:
            return self._watched.get(attempt_id)

    def _all(self) -> list[_Watched]:
        with self._turn:
            return [one for one in self._watched.values() if not one.deleted]

    def _pass_growing(self, transport: Transport) -> None:
        watched = self._all()
        for one in watched:
            self._discover(one)
        try:
            self._send(transport, GrowingFile)
        finally:
            for one in watched:
                self._state.note(one.origin, one.run_dir, one.files.values(), one.deleted)
            self._state.write()

    def _pass_whole(self, transport: Transport) -> None:
        self._send(transport, WholeFile)

    def _send(self, transport: Transport, kind: type[SyncedFile]) -> None:
        """A step of each file that is due, small ones first, for as long as one has more."""
        pending = [
            (one, file)
            for one in self._all()
            for file in one.files.values()
            if isinstance(file, kind) and file.due
        ]
        pending.sort(key=lambda pair: pair[1].size)
        while pending and not self._stop.is_set():
            pending = [(one, file) for one, file in pending if _step(transport, one, file)]

    def _discover(self, watched: _Watched) -> None:
        """Look for files that are new."""
        final = watched.exited
        names = [name for name in _names(watched) if name not in watched.files]
        if names:
            made = {name: self._made(watched, name) for name in names}
            watched.files = {**watched.files, **made}
        watched.all_found = final

    def _made(self, watched: _Watched, name: str) -> SyncedFile:
        if name.endswith(GROWING):
            return GrowingFile(watched.origin, name, self._journal, watched.floor)
        return WholeFile(watched.origin, name, self._journal, watched.floor, self._stop)


def _step(transport: Transport, watched: _Watched, file: SyncedFile) -> bool:
    if watched.deleted:
        return False
    try:
        return file.step(transport, watched.run_dir / file.name, watched.exited)
    except RunDeleted:
        logger.info("%s was deleted on the server: its files stay here", file.label)
        watched.deleted = True
        return False


class _Lane:
    """One thread's loop, and how long it waits."""

    def __init__(self, once: Callable[[Transport], None], bell: Bell, seconds: float) -> None:
        self._once = once
        self._bell = bell
        self._seconds = seconds
        self._backoff = Backoff()
        self._complaint = Complaint(logger)

    def run(
        self,
        stop: threading.Event,
        connect: Callable[[], Transport],
        failed: Callable[[], bool] = lambda: False,
    ) -> None:
        with closing(connect()) as transport:
            while not (stop.is_set() or failed()):
                self._bell.wait(self._pass(transport))

    def _pass(self, transport: Transport) -> float:
        """Return how long to wait after it."""
        began = shim.now()
        try:
            self._once(transport)
        except (Unauthorized, WrongProtocol) as exc:
            self._complaint.about(f"The server does not take files from this agent: {exc}")
            return HOPELESS_SECONDS
        except ServerUnreachable as exc:
            self._complaint.about(f"files wait: {exc}")
            return self._backoff.next_seconds(exc.retry_after_seconds)
        except sqlite3.OperationalError as exc:
            self._complaint.about(f"files wait, the journal cannot be written: {exc}")
            return self._backoff.next_seconds()
        self._complaint.over("files are sent again")
        self._backoff.reset()
        return max(0.0, began + self._seconds - shim.now())


# --- names --------------------------------------------------------------------------------------


def _names(watched: _Watched) -> Iterator[str]:
    """Of the run's files: `run_001.csv`, `run_001/images/1.png`."""
    run_name = watched.origin.run_name
    try:
        entries = list(os.scandir(watched.run_dir))
    except OSError:
        return
    for entry in entries:
        mine = entry.name.startswith(f"{run_name}.")
        if mine and _is_sent(entry.name) and entry.is_file(follow_symlinks=False):
            yield entry.name
    if any(entry.name == run_name and not entry.is_symlink() for entry in entries):
        yield from _artifacts(watched.run_dir / run_name, run_name)


def _artifacts(folder: Path, prefix: str) -> Iterator[str]:
    count = 0
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if wire.is_name(name))
        below = Path(at).relative_to(folder)
        for name in sorted(names):
            path = (Path(prefix) / below / name).as_posix()
            if _is_sent(name) and len(path) <= 512 and not Path(at, name).is_symlink():
                count += 1
                if count > MAX_ARTIFACTS:
                    return
                yield path


def _is_sent(name: str) -> bool:
    return wire.is_name(name) and not name.endswith(UNFINISHED)
