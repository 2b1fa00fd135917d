"""Sending the files of all attempts: while they grow, and after the end until each is confirmed.

One thread looks at what there is (stat only; once at the ends of each checkpoint); workers send
what has changed, each file by one worker at a time. Files wait in three lanes, so that neither a
curve nor the metadata ever waits behind a checkpoint; of checkpoints the newest goes first. What a
job does not wish to have at the server (wishes) is left out, and so is a checkpoint that was cut
off (torn). How a file is sent stands in growing and upload, what was acknowledged in filejournal,
and `.sync_state.json` (syncstate) tells people.
"""

import itertools
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path

from agent import shim, wire
from agent.backoff import Bell
from agent.complaint import Complaint
from agent.files import wishes
from agent.files.filejournal import FileJournal
from agent.files.globs import Globs
from agent.files.growing import Growing
from agent.files.keeping import Keeping
from agent.files.outputs import Outputs
from agent.files.regular import Mark
from agent.files.runfiles import MAX_LEFT_OUT, RunFiles, shown
from agent.files.syncstate import SyncState
from agent.files.tracked import Tracked
from agent.files.upload import Whole
from agent.store import Store
from agent.transport import Transport

logger = logging.getLogger(__name__)

#: Between two looks. A row is to be at the server within a second of being written.
SYNC_INTERVAL = 0.5
IDLE_SECONDS = 2.0  # where there is nothing to look at: somebody may push what was sent long ago
LOOKING_SHARE = 0.05  # of the time, at most: a run of 100 000 images is looked at less often
MOST_GLANCED = 64  # of its files that grow, which are looked at in between
GONE_SECONDS = 5.0  # a file missing for less may be on its way to another folder, or replaced
MAX_REPORTED = 64  # files of one attempt in a poll, which is 1 MiB at most
WORKERS = {"growing": 3, "small": 1, "large": 1}  # lane → threads
END_SECONDS = 0.5  # for each worker to leave what it is sending


class _Lane:
    """Files that wait for a worker; the smallest rank first, and of one rank the first come."""

    def __init__(self) -> None:
        self._waiting: queue.PriorityQueue[tuple[float, int, Tracked | None]] = (
            queue.PriorityQueue()
        )
        self._turns = itertools.count()

    def put(self, file: Tracked | None, rank: float = 0) -> None:
        """None: the end, for one worker."""
        rank = rank if file else float("-inf")
        self._waiting.put((rank, next(self._turns), file))

    def get(self) -> Tracked | None:
        return self._waiting.get()[2]


class _Watched:
    def __init__(self, run: RunFiles) -> None:
        self.run = run
        self.files: dict[str, Tracked] = {}
        self.all_seen = False  # looked at after its end, and all that was known is there
        self.told = 0  # of all_seen and settled, at the last look
        #: Names of files that the server lacks although it acknowledged them; None: all it may.
        self.doubted: set[str] | None = set()
        self.shared = False  # another run worked in the folder that its outputs are in
        self.complaint = Complaint(logger)
        self.not_before = 0.0  # to be looked at again, unless somebody wishes it now:
        self.is_wanted = False
        self.growing: list[str] = []  # some of its files that grow

    @property
    def settled(self) -> bool:
        return self.all_seen and all(file.settled for file in self.files.values())

    @property
    def left_out(self) -> list[wire.LeftOut]:
        """What is to be said of files that are not sent. At any time: a worker may be the one to
        find that it cannot."""
        run = self.run
        kept = [
            wire.LeftOut(file.name, file.left_out, file.seen.size)
            for file in self.files.values()
            if file.left_out is not None and not file.confirmed
        ]
        where = run.outputs.directory if run.outputs and self.shared else None
        shared = [wire.LeftOut(shown(str(where)), wire.WhyLeftOut.SHARED)] if where else []
        return [*shared, *run.left_out, *kept][:MAX_LEFT_OUT]

    def has_lost(self, file: Tracked, now_seconds: float) -> bool:
        is_gone = not file.queued and now_seconds - file.seen_at >= GONE_SECONDS
        return is_gone and not self.run.is_closed(file.name)

    def complain(self) -> None:
        """Of what could not be looked at, though the folder could; or say that all can again."""
        run_dir, closed = self.run.run_dir, self.run.closed
        if not closed:
            self.complaint.over(f"{run_dir} can be looked at again")
        for part, exc in list(closed.items())[:1]:
            self.complaint.about(f"{run_dir / part} cannot be looked at, and all else is: {exc}")


class FileSync:
    """See agent.surroundings.Files for what may be asked of it."""

    def __init__(
        self,
        store: Store,
        connect: Callable[[], Transport],
        folder: Path,
        interval_seconds: float = SYNC_INTERVAL,
        rights_in: Callable[[Path], AbstractContextManager[None]] = lambda run_dir: nullcontext(),
        is_pushed: Callable[[], bool] = lambda: False,
        keeping: Keeping | None = None,
        news: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            store: for the journal of files; better not the one of attempts.
            connect: makes a transport; each worker gets its own.
            folder: for `.sync_state.json`.
            rights_in: whose rights files in such a folder are opened with.
            is_pushed: whether somebody has asked, since the last look, to wait no longer.
            keeping: told of the runs that are settled.
            news: called when what a run has left was looked at after its end, and when all of it
                is settled.
        """
        self._journal = FileJournal(store)
        self._connect = connect
        self._interval_seconds = interval_seconds
        self._rights_in = rights_in
        self._is_pushed = is_pushed
        self._keeping = keeping
        self._news = news
        self._state = SyncState(folder)
        self._watched: dict[str, _Watched] = {}
        self._left: list[_Watched] = []  # forgotten, and to be told of once more
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._bell = Bell()
        self._lanes: dict[str, _Lane] = {name: _Lane() for name in WORKERS}

    # --- what the runner asks ---

    def watch(
        self,
        attempt_id: str,
        experiment_uid: str,
        project: str,
        run_name: str,
        number: int,
        run_dir: Path,
        *,
        policy: wire.SyncPolicy | None = None,
        ignore: Sequence[str] = (),
        outputs: Outputs | None = None,
        secret_names: Sequence[str] = (),
    ) -> None:
        if outputs is not None:
            outputs.rights = partial(self._rights_in, run_dir)
        run = RunFiles(
            attempt_id,
            experiment_uid,
            project,
            run_name,
            number,
            run_dir,
            rights_in=self._rights_in,
            policy=policy or wire.SyncPolicy(),
            ignore=Globs(ignore, everywhere=True),
            outputs=outputs,
            secret_names=tuple(secret_names),
        )
        if self._keeping is not None:
            self._keeping.under_way(attempt_id)
        with self._turn:
            watched = self._watched.setdefault(attempt_id, _Watched(run))
            watched.run.run_dir = run_dir
            watched.all_seen = False
            watched.is_wanted = True
        self._bell.ring()

    def moved(self, attempt_id: str, run_dir: Path) -> None:
        with self._turn:
            if watched := self._watched.get(attempt_id):
                watched.run.run_dir = run_dir
                watched.all_seen = False
                watched.is_wanted = True
        if self._keeping is not None:
            self._keeping.moved(attempt_id, run_dir)
        self._bell.ring()

    def exited(self, attempt_id: str) -> None:
        with self._turn:
            if watched := self._watched.get(attempt_id):
                watched.run.exited = True
                watched.is_wanted = True
        self._bell.ring()

    def reports(self, attempt_id: str) -> dict[str, wire.FileReport]:
        with self._turn:
            watched = self._watched.get(attempt_id)
            files = list(watched.files.values()) if watched else []
        files = [file for file in files if file.left_out is None or file.confirmed]
        files.sort(key=lambda file: ("/" in file.name, file.settled))
        return {file.name: file.report() for file in files[:MAX_REPORTED]}

    def left_out(self, attempt_id: str) -> list[wire.LeftOut]:
        with self._turn:
            watched = self._watched.get(attempt_id)
            return watched.left_out if watched else []

    def settled(self, attempt_id: str) -> bool:
        with self._turn:
            watched = self._watched.get(attempt_id)
            return watched is None or watched.settled

    def doubt(self, attempt_id: str, names: set[str] | None = None) -> None:
        with self._turn:
            if watched := self._watched.get(attempt_id):
                watched.doubted = names
                watched.all_seen = False
                watched.is_wanted = True
        self._bell.ring()

    def bring_home(self, attempt_id: str) -> None:
        with self._turn:
            watched = self._watched.get(attempt_id)
            files = list(watched.files.values()) if watched else []
        arrived = {file.name for file in files if file.has_its_copy}
        for file in files:
            if file.name not in arrived and file.run.is_output(file.name):
                file.run.bring_home(file.name)
        if watched is not None:
            watched.run.bring_rest_home(arrived)

    def leave(self, attempt_id: str) -> None:
        with self._turn:
            if watched := self._watched.pop(attempt_id, None):
                self._left.append(watched)
        if watched is not None and self._keeping is not None:
            self._keeping.note(watched.run, watched.files.values())
        self._bell.ring()

    def forget(self, attempt_id: str) -> None:
        self._journal.forget(attempt_id)

    def nudge(self) -> None:
        with self._turn:
            for watched in self._watched.values():
                watched.is_wanted = True
                for file in watched.files.values():
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
            if self._is_pushed():
                self.nudge()
            busy = self._look_at_all()
            busy = self._state.write() or busy
            self._bell.wait(self._interval_seconds if busy else IDLE_SECONDS)
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
        _note_shared(everything)
        for watched in left:
            self._state.note(watched.run, watched.files, watched.left_out)
        for watched in everything:
            began = shim.now()
            if began < watched.not_before and not watched.is_wanted:
                self._glance_at(watched)
                continue
            watched.is_wanted = False
            self._look_at(watched)
            self._state.note(watched.run, watched.files, watched.left_out)
            ended = shim.now()
            watched.not_before = ended + (ended - began) * len(everything) / LOOKING_SHARE
        return bool(everything)

    def _glance_at(self, watched: _Watched) -> None:
        """At its curves and logs only, between two looks at all that it has."""
        try:
            marks = watched.run.glance(watched.growing)
        except OSError:
            return  # the next look tells
        with self._turn:
            now = shim.now()
            for name, mark in marks.items():
                watched.files[name].see(mark, now)
            self._queue([watched.files[name] for name in marks], now)

    def _look_at(self, watched: _Watched) -> None:
        exited, run_dir = watched.run.exited, watched.run.run_dir
        try:
            marks = watched.run.look()
            made = self._made(watched, marks)
        except OSError as exc:  # a disk that hangs: nothing is gone by that
            return watched.complaint.about(f"{run_dir} cannot be looked at: {exc}")
        except sqlite3.Error as exc:
            return watched.complaint.about(f"{run_dir}: {self._journal.why_unusable(exc)}")
        watched.complain()
        look_inside(made, marks)
        now = shim.now()
        with self._turn:
            for name, mark in marks.items():
                made[name].see(mark, now)
            gone = {name for name, file in made.items() if watched.has_lost(file, now)}
            for name in gone - marks.keys():
                _tell_lost(made.pop(name))
            watched.files = made
            watched.growing = _first_of_growing(made)
            mark_left_out(made.values(), watched.run.policy)
            whole = watched.run.run_dir == run_dir and not watched.run.closed
            watched.all_seen = exited and whole and made.keys() == marks.keys()
            self._queue((file for file in made.values() if file.seen_at == now), now)
            told, watched.told = watched.told, watched.all_seen + watched.settled
        if watched.told > told:
            self._news()

    def _made(self, watched: _Watched, marks: dict[str, Mark]) -> dict[str, Tracked]:
        """The files known so far and those that are new."""
        made = dict(watched.files)
        for name in marks.keys() - made.keys():
            made[name] = kind_of(name)(watched.run, name, self._journal, self._stop)
        with self._turn:
            doubted, watched.doubted = watched.doubted, set()
        for name in made if doubted is None else doubted & made.keys():
            made[name].doubt()
        return made

    def _queue(self, files: Iterable[Tracked], now_seconds: float) -> None:
        for file in files:
            if file.is_due(now_seconds):
                file.queued = True
                self._put(file)

    def _put(self, file: Tracked) -> None:
        if isinstance(file, Growing):
            self._lanes["growing"].put(file, rank=_rank(file.name))
        elif file.seen.size > wire.MAX_WHOLE_FILE_BYTES:
            self._lanes["large"].put(file, rank=-file.seen.mtime_ns)
        else:
            self._lanes["small"].put(file, rank=-file.seen.mtime_ns)

    # --- the workers ---

    def _serve(self, lane: _Lane) -> None:
        with closing(self._connect()) as transport:
            while (file := lane.get()) is not None:
                if self._stop.is_set():
                    return
                if self._work(file, transport):
                    self._put(file)  # behind the others: a long backlog is one of many
                else:
                    file.queued = False
                    if file.run.exited and file.settled:  # else a progress bar would set the pace
                        self._bell.ring()

    def _work(self, file: Tracked, transport: Transport) -> bool:
        try:
            return file.work(transport)
        except Exception as exc:
            logger.exception("%s could not be sent", file.name)
            file.give_way(exc)
            return False


def kind_of(name: str) -> type[Tracked]:
    """How a file of that name is sent."""
    return Growing if wire.grows(name) else Whole


def _rank(name: str) -> int:
    """Of files that grow: curves and logs before text, of which a run may have thousands (a label
    for each image)."""
    return 0 if name.endswith(wire.CURVES_AND_LOGS) or wire.is_event_file(name) else 1


def _first_of_growing(files: dict[str, Tracked]) -> list[str]:
    """Curves and logs first, and the run's own before those beneath its name."""
    names = [name for name, file in files.items() if isinstance(file, Growing)]
    return sorted(names, key=lambda name: (_rank(name), name.count("/")))[:MOST_GLANCED]


def look_inside(files: Mapping[str, Tracked], marks: Mapping[str, Mark]) -> None:
    for name, mark in marks.items():
        file = files[name]
        if isinstance(file, Whole):
            file.look_inside(mark)


def mark_left_out(files: Iterable[Tracked], policy: wire.SyncPolicy) -> None:
    """Say of each file of one run whether it is to be sent; curves and logs always are."""
    others = [file for file in files if not file.name.endswith(wire.CURVES_AND_LOGS)]
    reasons = wishes.left_out(others, policy)
    for file in others:
        if file.left_out is not wire.WhyLeftOut.UNMASKED:
            file.left_out = reasons.get(file.name)
        if file.left_out is None and file.is_torn and file.run.exited:
            file.left_out = wire.WhyLeftOut.TORN  # until then it may become whole


def _tell_lost(file: Tracked) -> None:
    if file.is_lacking:
        logger.warning("%s was deleted before all of it was sent", file.name)


def _note_shared(everything: list[_Watched]) -> None:
    """Two runs whose outputs come out of one folder at a time: whose a new file is, nobody can
    tell, so both have it, and both say so."""
    by_root: dict[Path, list[_Watched]] = {}
    for watched in everything:
        if watched.run.outputs is not None and not watched.run.exited:
            by_root.setdefault(watched.run.outputs.directory, []).append(watched)
    for together in by_root.values():
        for watched in together if len(together) > 1 else ():
            watched.shared = True
