"""File sync as a state machine: the agent's own code, the real handlers, a database and files.

Hypothesis plays the script, the network, the processes and the power against each other, in any
order: rows are appended, CSVs rewritten and widened, checkpoints replaced; requests and answers
are lost, late, doubled and damaged; the server dies before or after any write, fsync, rename and
commit, with or without the bytes that nobody had synced; clocks step; an attempt is given up in
the middle of a request of its own; the agent dies at its journal, or loses it; people send files
by curl.

What must hold after every step is in the invariants below; their numbers are those of
docs/protocol.md.

    make model                           5 000 lives of 60 steps, in shards, each with a report
    make model LIVES=250 SHARDS=1 SEED=7    one shard once more
"""

import hashlib
import itertools
import json
import os
import random
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.db import connection
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent import wire
from agent.files import audit
from agent.files.filejournal import FileJournal, Sent
from agent.files.growing import Growing
from agent.files.regular import Mark
from agent.files.runfiles import RunFiles
from agent.files.tracked import Tracked
from agent.files.upload import Whole
from agent.store import Store
from devices import auth
from experiments.models import Attempt, Job
from experiments.states import JobState, Outcome
from labsite.clock import database_now
from sync import append, chunks, displacing, ownership, storage
from sync.models import SyncFile
from sync.storage import Place
from tests import make
from tests.faults.disk import Died, Disk
from tests.sync.inprocess import Ask, Server, Told, transport

ROWS = st.binary(min_size=1, max_size=12)
#: So small that every file of a life is read in blocks, and most checkpoints go in chunks.
LIMITS = {"MAX_CHUNK_BYTES": 24, "MAX_WHOLE_FILE_BYTES": 12, "MAX_UPLOAD_CHUNK_BYTES": 9}
BLOCK_BYTES = 7
#: What becomes of a request.
FATES = ("lost request", "lost answer", "late", "twice", "flipped", "killed", "power", "meanwhile")
LAST_POINT = 40  # of a request, at which something may happen
HEALING_STEPS = 120
MOST_ATTEMPTS = 5
FOR_EVER = 1e6
ATTEMPT = "a1"  # as a host's journal knows it
COUNTS: Counter[str] = Counter()
CLOCKED = (append, chunks, displacing)
_tokens = itertools.count(1)
#: Where an inode's number is never given again: the agent tells files by it, and a life that is
#: repeated must go as it went before, whatever else happens on the machine.
_MEMORY = "/dev/shm"


@dataclass
class Fate:
    """What happens to one request; all others arrive and are answered."""

    kind: str
    request: int = 0  # of the step
    point: int = 0  # of the request
    chance: random.Random = field(default_factory=random.Random)


@dataclass
class Side:
    """One attempt on its host: the folder, the agent's memory, and what its script ever wrote."""

    attempt: Attempt
    token: str
    folder: Path
    store: Store = field(default_factory=lambda: Store(Path(":memory:")))
    versions: dict[str, list[bytes]] = field(default_factory=dict)
    files: dict[str, Tracked] = field(default_factory=dict)
    exited: bool = False
    saved: str = ""  # where its script saved last: a file, or one in a folder called as that
    ticks: int = 1_000_000  # of the host's clock, in seconds

    def path(self, name: str) -> Path:
        return self.folder / name

    def write(self, name: str, content: bytes, *, anew: bool = False) -> None:
        self.versions.setdefault(name, []).append(content)
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if anew:  # as torch.save() beside it and a rename
            path.unlink(missing_ok=True)
        path.write_bytes(content)
        self.ticks += 1
        os.utime(path, ns=(0, self.ticks * 10**9))

    def save(self, name: str, content: bytes) -> None:
        """What its script saves now here and now there: one cannot be beside the other."""
        if self.saved not in ("", name):
            self.path(self.saved).unlink()
            with suppress(FileNotFoundError):
                self.path(name).rmdir()
            self.files.pop(self.saved, None)
        self.saved = name
        self.write(name, content, anew=True)

    def current(self, name: str) -> bytes:
        return self.versions.get(name, [b""])[-1]


class _Journal(FileJournal):
    """At which the agent may die: before a line is written, or when it just was."""

    dies = ""

    def put(self, attempt_id: str, name: str, sent: Sent) -> None:
        if self.dies == "before":
            raise Died("journal")
        super().put(attempt_id, name, sent)
        if self.dies == "after":
            raise Died("journal")


def owns_results(attempt: Attempt) -> bool:
    """By the rule, asked in another way than the server does."""
    now = Attempt.objects.get(pk=attempt.pk)
    later = Attempt.objects.filter(job_id=now.job_id, number__gt=now.number)
    return not later.exists() and now.outcome != Outcome.LOST


class Lives(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        in_memory = _MEMORY if os.path.isdir(_MEMORY) else None
        self.home = Path(tempfile.mkdtemp(prefix="model-", dir=in_memory))
        django_settings.LAB_LOGS_DIR = self.home / "logs"
        self.disk = storage.os = Disk(self.home / "logs")
        # Or how fast the machine is would decide what is asked of the database.
        auth.TOKEN_SECONDS = ownership.RECENT_SECONDS = FOR_EVER
        self.server = Server(self.disk)
        self.server.counts = COUNTS
        self._watching = self.server.watched()
        self._watching.__enter__()
        self.sides: list[Side] = []
        self.late: list[tuple[Ask, Attempt]] = []
        self.acked: dict[tuple[str, int, int], int] = {}
        self.by_hand: set[tuple[str, int, int]] = set()
        self.by_hand_whole: list[bytes] = []
        self.sent = 0  # since the last power cut, or since all was well
        self.written = itertools.count(1)  # checkpoints, each another
        COUNTS["lives"] += 1
        self.begin_attempt(make.job(gpus=1))

    def teardown(self) -> None:
        """Each life ends well, and is forgotten."""
        if hasattr(self, "home"):
            try:
                self.all_heals()
                self.the_run_is_deleted()
            finally:
                self._watching.__exit__(None, None, None)
                storage.os = os
                for module in CLOCKED:
                    module.database_now = database_now
                auth.TOKEN_SECONDS = ownership.RECENT_SECONDS = 1.0
                shutil.rmtree(self.home)

    # --- who is there ---

    def begin_attempt(self, job: Job, files: dict[str, bytes] | None = None) -> None:
        token = f"labd_{next(_tokens):08d}_" + "s" * 43
        attempt = make.attempt(job, make.device(gpus=1, token=token), started=True)
        folder = self.home / f"host{len(self.sides) + 1}"
        folder.mkdir()
        side = Side(attempt, token, folder)
        self.sides.append(side)
        for name in self.names:
            side.write(name, (files or {}).get(name, b""))
        self.start_agent(side)

    @property
    def newest(self) -> Side:
        return self.sides[-1]

    @property
    def job(self) -> Job:
        return self.newest.attempt.job

    @property
    def names(self) -> tuple[str, str]:
        return f"{self.job.run_name}.csv", f"{self.job.run_name}.bin"

    @property
    def csv(self) -> str:
        return self.names[0]

    @property
    def checkpoint(self) -> str:
        return self.names[1]

    @property
    def saves(self) -> tuple[str, str]:
        """The one is a folder on the path of the other."""
        return f"{self.job.run_name}/ckpt", f"{self.job.run_name}/ckpt/w.bin"

    def here(self, side: Side) -> list[str]:
        """All that lies on that host."""
        return [*self.names, *([side.saved] if side.saved else [])]

    def start_agent(self, side: Side, dies: str = "") -> None:
        job = side.attempt.job
        run = RunFiles(
            ATTEMPT, job.uid, job.project.name, job.run_name, side.attempt.number, side.folder
        )
        run.exited = side.exited
        journal = _Journal(side.store)
        journal.dies = dies
        kinds = {self.csv: Growing, self.checkpoint: Whole}
        side.files = {
            name: kinds.get(name, Whole)(run, name, journal, threading.Event())
            for name in self.here(side)
        }
        for file in side.files.values():
            file._chunk_bytes = wire.MAX_UPLOAD_CHUNK_BYTES

    # --- the script ---

    @rule(content=st.binary(max_size=20), how=st.sampled_from(("append", "anew", "widen", "save")))
    def the_script_writes(self, content: bytes, how: str) -> None:
        self.write(self.checkpoint if how == "save" else self.csv, content, how)

    def write(self, name: str, content: bytes, how: str = "append") -> None:
        side = self.newest
        if name == self.checkpoint:
            size = 3 * sum(content[:1])  # some are small, most go in chunks
            return side.write(name, b"%d:" % next(self.written) + b"w" * (size % 41), anew=True)
        now = side.current(name)
        side.write(name, {"append": now + content, "anew": content, "widen": content + now}[how])

    # --- the agent ---

    @rule(which=st.integers(0, 1), row=st.binary(max_size=12))
    def send_well(self, which: int, row: bytes) -> None:
        self.send(which, row, None)

    @rule(
        which=st.integers(0, 1),
        row=ROWS,
        kind=st.sampled_from(FATES),
        request=st.sampled_from((0, 0, 0, 1, 2)),
        point=st.integers(0, LAST_POINT),
        chance=st.randoms(use_true_random=False),
    )
    def send_badly(
        self, which: int, row: bytes, kind: str, request: int, point: int, chance: random.Random
    ) -> None:
        self.send(which, row, Fate(kind, request, point, chance))

    def send(self, which: int, row: bytes, fate: Fate | None) -> None:
        """What there is, and a row or a checkpoint more."""
        self.sent += 1
        if row:
            self.write(self.names[which], row)
        self.step(self.newest, self.names[which], fate)

    @rule(
        elsewhere=st.booleans(),
        kind=st.sampled_from(("ok", *FATES)),
        request=st.sampled_from((0, 0, 0, 1, 2)),
        point=st.integers(0, LAST_POINT),
        chance=st.randoms(use_true_random=False),
    )
    def the_script_saves(
        self, elsewhere: bool, kind: str, request: int, point: int, chance: random.Random
    ) -> None:
        """A folder where a file was, or the reverse; or where it saved before."""
        self.sent += 1
        side = self.newest
        file, beneath = self.saves
        was = side.saved or beneath
        name = (beneath if was == file else file) if elsewhere else was
        COUNTS["in another's place"] += bool(side.saved) and name != was
        side.save(name, b"%d:" % next(self.written) + b"s" * (3 * point % 41))
        if name not in side.files:
            known = side.files[self.checkpoint]
            made = Whole(known.run, name, known._journal, threading.Event())
            made._chunk_bytes = wire.MAX_UPLOAD_CHUNK_BYTES
            side.files[name] = made
        self.step(side, name, Fate(kind, request, point, chance))

    @precondition(lambda self: len(self.sides) > 1)
    @rule(which=st.integers(0, 2), side=st.integers(0, 9))
    def one_that_was_given_up_sends(self, which: int, side: int) -> None:
        earlier = self.sides[side % (len(self.sides) - 1)]
        results = self.results()

        here = self.here(earlier)
        self.step(earlier, here[which % len(here)])

        assert self.results() == results, "I10"

    @precondition(lambda self: self.sent)
    @rule(
        which=st.integers(0, 1), how=st.sampled_from(("now", "before", "after", "without journal"))
    )
    def the_agent_dies(self, which: int, how: str) -> None:
        """Now, or around the next line of its journal."""
        if how == "without journal":
            self.newest.store = Store(Path(":memory:"))
            # Which of two names is the newer only that knew.
            self.late = [one for one in self.late if self.saves[0] not in one[0].path]
        self.start_agent(self.newest, how)
        if how in ("before", "after"):
            self.write(self.names[which], b"+")
            with suppress(Died):
                self.step(self.newest, self.names[which])
            self.start_agent(self.newest)
        COUNTS["agents dead"] += 1

    def step(self, side: Side, name: str, fate: Fate | None = None) -> None:
        """One step of a worker of the agent, its file having stood still."""
        file = side.files[name]
        line = transport(side.token, _Requests(self, side, fate or Fate("ok")))
        mark = Mark.of(side.path(name).stat())
        file.see(mark, 0.0)
        if mark.size or file.sent is not None or file.run.exited or isinstance(file, Whole):
            file.work(line)

    # --- the network ---

    @precondition(lambda self: self.late)
    @rule(which=st.integers(0, 99))
    def something_late_arrives(self, which: int) -> None:
        """It may come again later, any number of times."""
        ask, attempt = self.late[which % len(self.late)]
        results = self.results()

        self.deliver(ask, attempt)

        if not owns_results(attempt):
            assert self.results() == results, "I10"

    # --- the server, and people ---

    @precondition(lambda self: self.sent > 1)
    @rule(chance=st.randoms(use_true_random=False))
    def the_power_goes(self, chance: random.Random) -> None:
        self.sent = 0
        self.disk.lose_power(lambda: chance.random() < 0.5)
        self.server.restart()
        COUNTS["power cuts"] += 1

    @precondition(lambda self: self.sent)
    @rule(hours=st.integers(-40, 40))
    def the_clock_steps(self, hours: int) -> None:
        """The server's; that of a host shows in nothing but the times of its files."""
        for module in CLOCKED:
            module.database_now = lambda: database_now() + timedelta(hours=hours)
        self.newest.ticks += 100 * hours  # also backwards

    @precondition(lambda self: self.sent)
    @rule(
        row=st.just(b"") | st.binary(max_size=12),
        other=st.binary(max_size=3),
        point=st.integers(0, LAST_POINT),
        dies=st.booleans(),
    )
    def somebody_uses_curl(self, row: bytes, other: bytes, point: int, dies: bool) -> None:
        """The documented lines, without offset and generation: a row, or else both files as they
        are, or changed."""
        sends = [(f"delta/{self.job.uid}/{self.csv}", row)]
        if not row:
            changed = {name: other + self.newest.current(name) for name in self.names}
            self.by_hand_whole += changed.values()
            sends = [(f"full/{self.job.uid}/{name}", changed[name]) for name in self.names]
        for path, content in sends:
            ask = _by_hand(self.newest, path, content)
            self.deliver(ask, self.newest.attempt, self.killing(point) if dies else None)
            self.note_by_hand(path.rpartition("/")[2])
        there = [name for name in self.saves if self.row(name) is not None]
        if there and not dies:
            other = self.saves[there == [self.saves[0]]]
            results = self.results()
            told = self.deliver(_by_hand(self.newest, f"full/{self.job.uid}/{other}", b"hand"),
                                self.newest.attempt)  # fmt: skip
            assert told is not None
            assert told.status in (409, 423), told
            assert self.results() == results
        COUNTS["curl"] += 1

    def note_by_hand(self, name: str) -> None:
        row = self.row(name)
        if row is not None:
            self.by_hand.add((name, row.attempt, row.generation))

    @precondition(lambda self: self.sent > 2 and len(self.sides) < MOST_ATTEMPTS)
    @rule(lost=st.booleans(), resumes=st.booleans())
    def another_attempt(self, lost: bool, resumes: bool) -> None:
        """Begins with what the server has, or anew; the earlier one may still send."""
        given = {name: self.stored(name) or b"" for name in self.names} if resumes else {}
        COUNTS["attempts"] += 1
        self.give_up(Outcome.LOST if lost else Outcome.PREEMPTED)
        self.begin_attempt(Job.objects.select_related("project").get(pk=self.job.pk), given)

    def give_up(self, outcome: Outcome) -> None:
        attempt = Attempt.objects.get(pk=self.newest.attempt.pk)
        if attempt.ended_at is None:
            attempt.end(outcome, database_now(), then=JobState.QUEUED)

    def killing(self, number: int, then: Callable[[str], None] | None = None) -> Any:
        """A trouble: at the point of this number the server dies, or `then` happens."""
        points = itertools.count()
        happens = then or self.server.die

        def trouble(point: str) -> None:
            if next(points) == number:
                happens(point)

        return trouble

    def deliver(self, ask: Ask, attempt: Attempt, trouble: Any = None) -> Told | None:
        """Have the server answer, and note what it has promised."""
        assert len(ask.body) <= max(LIMITS.values()) or "X-Sync-Attempt" not in ask.headers, "I22"
        owns = owns_results(attempt)
        told = self.server.answer(ask, trouble)
        if told is not None:
            assert told.status < 500, (ask, told)
            still = owns_results(attempt)
            if told.status == 200 and "/delta/" in ask.path and owns and still:
                self.promise(ask, json.loads(told.content)["data"])
        return told

    def promise(self, ask: Ask, data: dict[str, Any]) -> None:
        key = (self.csv, self.newest.attempt.number, data["generation"])
        self.acked[key] = max(self.acked.get(key, 0), data["acked_bytes"])

    # --- the end of it ---

    @precondition(lambda self: self.sent > 1)
    @rule()
    def all_heals(self) -> None:
        """The script ends, the network is well: I12, I13."""
        self.sent = 0
        side = self.newest
        side.exited = True
        for file in side.files.values():
            file.run.exited = True
            file.nudge()
        self.settles(side)
        if doubted := self.lacking(side):
            for name in doubted:
                side.files[name].doubt()
            self.settles(side)
        for name, file in side.files.items():
            assert file.settled, ("I13", name, file.error)
            self.check_equal(name, side.current(name))
        COUNTS["healed"] += 1
        side.exited = False
        self.start_agent(side)

    def settles(self, side: Side) -> None:
        for _ in range(HEALING_STEPS):
            for name in self.here(side):
                self.step(side, name)
            if all(file.settled for file in side.files.values()):
                break

    def lacking(self, side: Side) -> set[str]:
        """What the audit finds, or `lab-agent push`, of what lies there."""
        line = transport(side.token, self.server.answer)
        told, sent = line.sync_status(self.job.uid)["data"], _Journal(side.store).of(ATTEMPT)
        found = audit.lacking(told, side.attempt.number, sent) or set()
        found &= set(self.here(side))
        COUNTS["doubted"] += len(found)
        return found

    def the_run_is_deleted(self) -> None:
        """What its agent still has is settled by that, and what is late changes nothing."""
        attempt = Attempt.objects.get(pk=self.newest.attempt.pk)
        attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
        attempt.job.delete_run(database_now())
        rows = list(SyncFile.objects.filter(job=attempt.job).values())
        for name in self.names:
            self.write(name, b"+")
        for name in self.here(self.newest):
            self.step(self.newest, name)
        told = [self.deliver(ask, attempt) for ask, attempt in self.late]

        assert all(file.settled for file in self.newest.files.values())
        assert {each.status for each in told} <= {410}
        assert list(SyncFile.objects.filter(job=attempt.job).values()) == rows

    def check_equal(self, name: str, here: bytes) -> None:
        row = self.row(name)
        assert row is not None, ("I12", name)
        assert self.stored(name) == here, ("I12", name)
        assert row.complete, ("I12", name)
        assert row.sha256 == hashlib.sha256(here).hexdigest(), ("I12", name)

    # --- what is there ---

    def row(self, name: str) -> SyncFile | None:
        return SyncFile.objects.results().filter(job=self.job, name=name).first()

    def stored(self, name: str) -> bytes | None:
        """As a reader gets it."""
        row = self.row(name)
        if row is None:
            return None
        try:
            with storage.open_file(Place.of(self.job, name)) as file:
                return file.read(storage.readable_size(name, row.size, file))
        except FileNotFoundError:
            return b""

    def results(self) -> list[Any]:
        """All of the run's results: rows and bytes."""
        rows = SyncFile.objects.results().filter(job=self.job).order_by("name")
        facts = ("name", "attempt", "generation", "size", "sha256", "complete")
        found = list(rows.values_list(*facts))
        return [*found, *(self.stored(row[0]) for row in found if row[3])]

    @invariant()
    def the_metrics_are_a_beginning_of_what_was_written(self) -> None:
        """I4, I6."""
        row = self.row(self.csv) if self.exists else None
        if row is None or not row.size or (row.name, *row.version) in self.by_hand:
            return
        written = self.sides[row.attempt - 1].versions[self.csv]
        stored = self.stored(self.csv)
        assert any(version.startswith(stored) for version in written), ("I4", stored)

    @invariant()
    def a_checkpoint_is_whole(self) -> None:
        """I7."""
        row = self.row(self.checkpoint) if self.exists else None
        if row is None or (not row.size and not row.complete):
            return
        written = [v for side in self.sides for v in side.versions[self.checkpoint]]
        assert self.stored(self.checkpoint) in [*written, *self.by_hand_whole], "I7"

    @invariant()
    def what_cannot_be_beside_each_other_is_not(self) -> None:
        """Of a file and a folder of one name the newer is there, whole, and the trash has what
        was in its place."""
        if not self.exists:
            return
        rows = [row for name in self.saves if (row := self.row(name)) is not None]
        assert len(rows) < 2, rows
        for row in rows:
            written = [v for side in self.sides for v in side.versions.get(row.name, [])]
            assert not row.complete or self.stored(row.name) in written
        for row in SyncFile.objects.filter(job=self.job, displaced__gt=0, complete=True):
            last = Path(row.name).name
            kept = self.home / "logs" / storage.TRASH / str(row.pk) / last
            assert hashlib.sha256(kept.read_bytes()).hexdigest() == row.sha256

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        """I5: it is there; or laid aside, when the server died while a newer version began."""
        row = self.row(self.csv) if self.exists else None
        for (_, attempt, generation), length in self.acked.items() if self.exists else ():
            assert row is not None, "I5"
            assert row.version >= (attempt, generation), "I5"
            if row.version == (attempt, generation):
                assert max(self.readable_bytes(row), self.bytes_aside(row)) >= length, "I5"

    def readable_bytes(self, row: SyncFile) -> int:
        return min(row.size, storage.size_of(Place.of(self.job, self.csv)))

    def bytes_aside(self, row: SyncFile) -> int:
        place = Place.of(self.job, self.csv)
        return storage.size_of(replace(place, name=f"{place.name}.g{row.generation}"))

    @property
    def exists(self) -> bool:
        return hasattr(self, "sides") and bool(self.sides)


class _Requests:
    """The requests of one step, and what becomes of the one that `fate` is about."""

    def __init__(self, life: Lives, side: Side, fate: Fate) -> None:
        self._life, self._side, self._fate = life, side, fate
        self._number = itertools.count()

    def __call__(self, ask: Ask) -> Told | None:
        if next(self._number) != self._fate.request or self._fate.kind == "ok":
            return self._deliver(ask)
        COUNTS[self._fate.kind] += 1
        return getattr(self, "_" + self._fate.kind.replace(" ", "_"))(ask)

    def _deliver(self, ask: Ask, trouble: Any = None) -> Told | None:
        return self._life.deliver(ask, self._side.attempt, trouble)

    def _lost_request(self, ask: Ask) -> None:
        return None

    def _lost_answer(self, ask: Ask) -> None:
        self._deliver(ask)

    def _late(self, ask: Ask) -> None:
        self._life.late.append((ask, self._side.attempt))

    def _twice(self, ask: Ask) -> Told | None:
        """I11: the second time changes nothing, and is answered alike."""
        first = self._deliver(ask)
        results = self._life.results()
        again = self._deliver(ask)
        assert self._life.results() == results, "I11"
        assert first is not None
        assert again is not None
        assert _essence(first) == _essence(again), ("I11", ask, first, again)
        return again

    def _flipped(self, ask: Ask) -> Told | None:
        return self._deliver(ask.flipped())

    def _killed(self, ask: Ask) -> Told | None:
        return self._deliver(ask, self._life.killing(self._fate.point))

    def _power(self, ask: Ask) -> Told | None:
        told = self._killed(ask)
        self._life.the_power_goes(self._fate.chance)
        return told

    def _meanwhile(self, ask: Ask) -> Told | None:
        """In the middle of it another request comes, or the attempt is given up."""
        life = self._life

        def happens(point: str) -> None:
            if connection.in_atomic_block:
                return  # whoever writes waits for the transaction's end
            if life.late and self._fate.chance.random() < 0.5:
                life.server.answer(life.late[-1][0])
            elif life.newest is self._side:
                life.another_attempt(lost=False, resumes=False)

        return self._deliver(ask, life.killing(self._fate.point, happens))


def _essence(told: Told) -> Any:
    """Of an answer, what is the same the second time."""
    content = json.loads(told.content)
    data = content.get("data", content)
    kept = ("acked_bytes", "generation", "complete", "expected_offset", "code")
    return told.status // 100, {name: data.get(name) for name in kept}


def _by_hand(side: Side, path: str, content: bytes) -> Ask:
    headers = {
        "Authorization": f"Bearer {side.token}",
        "Content-Type": "application/octet-stream",
    }
    return Ask("POST", f"/api/sync/{path}", headers, content)
