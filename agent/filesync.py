"""Sending the files of all attempts: while they grow, and after the end until each is confirmed.

One thread looks (stat only) at what there is; workers send what has changed, each file by one
worker at a time. Files wait in three lanes, so that neither a curve nor the metadata ever waits
behind a checkpoint. How a file is sent stands in agent.growing and agent.upload, what was
acknowledged in agent.filejournal, and `.sync_state.json` tells people.
"""

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from agent import growing, shim, wire
from agent.backoff import Bell
from agent.complaint import Complaint
from agent.filejournal import FileJournal
from agent.growing import Growing
from agent.runfiles import Mark, RunFiles
from agent.store import Store
from agent.syncstate import SyncState
from agent.tracked import Tracked
from agent.transport import Transport
from agent.upload import Whole

logger = logging.getLogger(__name__)

#: Between two looks. A row is to be at the server within a second of being written.
SYNC_INTERVAL = 0.5
LOOKING_SHARE = 0.05  # of the time, at most: a run of 100 000 images is looked at less often
GONE_SECONDS = 5.0  # a file missing for less may be on its way to another folder, or replaced
LARGE_BYTES = 8 * 1024 * 1024
MAX_REPORTED = 64  # files of one attempt in a poll, which is 1 MiB at most
WORKERS = {"growing": 3, "small": 1, "large": 1}  # lane → threads
END_SECONDS = 0.5  # for each worker to leave what it is sending

_Lane = queue.SimpleQueue[Tracked | None]


class _Watched:
    def __init__(self, run: RunFiles) -> None:
        self.run = run
        self.files: dict[str, Tracked] = {}
        self.all_seen = False  # looked at after its end, and all that was known is there
        self.complaint = Complaint(logger)

    @property
    def settled(self) -> bool:
        return self.all_seen and all(file.settled for file in self.files.values())


class FileSync:
    """See agent.runner.Files for what may be asked of it."""

    def __init__(
        self,
        store: Store,
        connect: Callable[[], Transport],
        folder: Path,
        interval_seconds: float = SYNC_INTERVAL,
    ) -> None:
        """
        Args:
            store: for the journal of files; better not the one of attempts.
            connect: makes a transport; each worker gets its own.
            folder: for `.sync_state.json`.
        """
        self._journal = FileJournal(store)
        self._connect = connect
        self._interval_seconds = interval_seconds
        self._state = SyncState(folder)
        self._watched: dict[str, _Watched] = {}
        self._left: list[_Watched] = []  # forgotten, and to be told of once more
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._bell = Bell()
        self._lanes: dict[str, _Lane] = {name: queue.SimpleQueue() for name in WORKERS}

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
        run = RunFiles(attempt_id, experiment_uid, project, run_name, number, run_dir)
        with self._turn:
            watched = self._watched.setdefault(attempt_id, _Watched(run))
            watched.run.run_dir = run_dir
            watched.all_seen = False
        self._bell.ring()

    def moved(self, attempt_id: str, run_dir: Path) -> None:
        with self._turn:
            if watched := self._watched.get(attempt_id):
                watched.run.run_dir = run_dir
                watched.all_seen = False
        self._bell.ring()

    def exited(self, attempt_id: str) -> None:
        with self._turn:
            if watched := self._watched.get(attempt_id):
                watched.run.exited = True
        self._bell.ring()

    def reports(self, attempt_id: str) -> dict[str, wire.FileReport]:
        with self._turn:
            watched = self._watched.get(attempt_id)
            files = list(watched.files.values()) if watched else []
        files.sort(key=lambda file: ("/" in file.name, file.settled))
        return {file.name: file.report() for file in files[:MAX_REPORTED]}

    def settled(self, attempt_id: str) -> bool:
        with self._turn:
            watched = self._watched.get(attempt_id)
            return watched is None or watched.settled

    def forget(self, attempt_id: str) -> None:
        with self._turn:
            if watched := self._watched.pop(attempt_id, None):
                self._left.append(watched)
        self._journal.forget(attempt_id)
        self._bell.ring()

    def nudge(self) -> None:
        with self._turn:
            files = [file for watched in self._watched.values() for file in watched.files.values()]
        for file in files:
            file.nudge()
        self._bell.ring()

    # --- the thread that looks ---

    def run(self, stop: threading.Event) -> None:
        workers = [
            threading.Thread(target=self._serve, args=(lane,), name=f"{name} files", daemon=True)
            for name, lane in self._lanes.items()
            for _ in range(WORKERS[name])
        ]
        for worker in workers:
            worker.start()
        while not stop.is_set():
            began = shim.now()
            busy = self._look_at_all()
            busy = self._state.write() or busy
            took = shim.now() - began
            pause = max(self._interval_seconds, took / LOOKING_SHARE)
            self._bell.wait(pause if busy else None)
        self._end(workers)

    def _end(self, workers: list[threading.Thread]) -> None:
        self._stop.set()  # an upload in the middle of its body ends too
        for name, lane in self._lanes.items():
            for _ in range(WORKERS[name]):
                lane.put(None)
        for worker in workers:
            worker.join(END_SECONDS / len(workers))

    def _look_at_all(self) -> bool:
        """Return whether there is anything to look at again."""
        with self._turn:
            everything = list(self._watched.values())
            left, self._left = self._left, []
        for watched in everything:
            self._look_at(watched)
        for watched in left + everything:
            self._state.note(watched.run, watched.files)
        return bool(everything)

    def _look_at(self, watched: _Watched) -> None:
        exited, run_dir = watched.run.exited, watched.run.run_dir
        try:
            marks = watched.run.look()
            made = self._made(watched, marks)
        except (OSError, sqlite3.Error) as exc:  # a disk that hangs: nothing is gone by that
            return watched.complaint.about(f"{run_dir} cannot be looked at: {exc}")
        watched.complaint.over(f"{run_dir} can be looked at again")
        now = shim.now()
        with self._turn:
            for name, mark in marks.items():
                made[name].see(mark, now)
            gone = {name for name, file in made.items() if _is_gone(file, now)}
            for name in gone - marks.keys():
                _tell_lost(made.pop(name))
            watched.files = made
            same_place = watched.run.run_dir == run_dir
            watched.all_seen = exited and same_place and made.keys() == marks.keys()
            due = [file for file in made.values() if file.seen_at == now and file.is_due(now)]
            for file in due:
                file.queued = True
        for file in due:
            self._lane_of(file).put(file)

    def _made(self, watched: _Watched, marks: dict[str, Mark]) -> dict[str, Tracked]:
        """The files known so far and those that are new."""
        made = dict(watched.files)
        for name in marks.keys() - made.keys():
            kind = Growing if name.endswith(growing.SUFFIXES) else Whole
            made[name] = kind(watched.run, name, self._journal, self._stop)
        return made

    def _lane_of(self, file: Tracked) -> _Lane:
        if isinstance(file, Growing):
            return self._lanes["growing"]
        return self._lanes["large" if file.seen.size > LARGE_BYTES else "small"]

    # --- the workers ---

    def _serve(self, lane: _Lane) -> None:
        with closing(self._connect()) as transport:
            while (file := lane.get()) is not None:
                if self._stop.is_set():
                    return
                if self._work(file, transport):
                    lane.put(file)  # behind the others: a long backlog is one of many
                else:
                    file.queued = False
                    self._bell.ring()

    def _work(self, file: Tracked, transport: Transport) -> bool:
        try:
            return file.work(transport)
        except Exception as exc:
            logger.exception("%s could not be sent", file.name)
            file.give_way(exc)
            return False


def _is_gone(file: Tracked, now_seconds: float) -> bool:
    return not file.queued and now_seconds - file.seen_at >= GONE_SECONDS


def _tell_lost(file: Tracked) -> None:
    if not file.settled:
        logger.warning("%s was deleted before all of it was sent", file.name)
