"""A file that grows, sent step by step to a host in memory."""

import random
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import shim, wire
from agent.errors import AnswerTooLong
from agent.files import growing
from agent.files.backlog import MOST_STEPS, Backlog
from agent.files.filejournal import FileJournal
from agent.files.growing import Growing
from agent.files.regular import Mark
from agent.files.runfiles import RunFiles
from agent.files.tracked import Tracked
from agent.files.upload import Whole
from agent.store import Store
from tests.agent.filehost import UID, Direct, FileHost, Refusal

NAME = "run_001.csv"
HEAD = b"epoch,loss\n"


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(shim, "now", made)
    return made


class Bench:
    """A CSV, its sender, and the host."""

    def __init__(self, folder: Path, clock: Clock, name: str = NAME) -> None:
        self.clock = clock
        self.folder = folder
        self.name = name
        self.path = folder / name
        self.path.parent.mkdir(exist_ok=True)
        self.host = FileHost()
        self.transport = Direct(self.host)
        self.store = Store(Path(":memory:"))
        self.number = 1
        self.exited = False
        self.restart()

    def restart(self) -> None:
        """Another agent process, with the same journal."""
        run = RunFiles("a1", UID, "digits", "run_001", self.number, self.folder, self.exited)
        self.file = Growing(run, self.name, FileJournal(self.store), threading.Event())

    def lose_journal(self) -> None:
        self.store = Store(Path(":memory:"))
        self.restart()

    def write(self, content: bytes) -> None:
        self.path.write_bytes(content)

    def append(self, content: bytes) -> None:
        with open(self.path, "ab") as file:
            file.write(content)

    def step(self) -> bool:
        """One look and one step of work, as the threads would."""
        self.clock.seconds += 0.5
        self.file.see(Mark.of(self.path.stat()), self.clock())
        self.file.nudge()
        return self.file.work(self.transport)

    def sync(self) -> None:
        """Until there is nothing to do."""
        for _ in range(60):
            more = self.step()
            if not more and not self.file.is_due(self.clock() + 60):
                return
        raise AssertionError(f"it does not come to rest: {self.file.error}")

    def end(self) -> None:
        self.exited = self.file.run.exited = True
        self.sync()
        assert self.file.settled

    @property
    def stored(self) -> bytes:
        return self.host.results[self.name].content

    @property
    def generation(self) -> int:
        return self.host.results[self.name].generation


@pytest.fixture
def bench(tmp_path: Path, clock: Clock) -> Bench:
    return Bench(tmp_path, clock)


def test_since_when_it_is_behind_moves_on_with_what_arrives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script writes at each look: something is behind at each."""
    monkeypatch.setattr(shim, "wall_clock", lambda: f"{bench.clock():.1f}")
    bench.write(HEAD)
    bench.step()
    for epoch in range(5):
        bench.append(b"%d,0.5\n" % epoch)
        bench.step()
    bench.append(b"5,0.5\n")
    bench.file.see(Mark.of(bench.path.stat()), bench.clock())
    last = bench.clock()

    assert bench.file.backlog.since == f"{last:.1f}"
    for epoch in range(6, 9):  # the line is cut
        bench.clock.seconds += 0.5
        bench.append(b"%d,0.5\n" % epoch)
        bench.file.see(Mark.of(bench.path.stat()), bench.clock())
    assert bench.file.backlog.since == f"{last:.1f}"
    bench.sync()
    bench.step()
    assert bench.file.backlog.since is None


def test_of_a_long_backlog_it_is_known_roughly_since_when_what_is_left_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shim, "wall_clock", lambda: f"{bench.clock():.1f}")
    backlog = Backlog()
    for second in range(1000):
        bench.clock.seconds = second
        backlog.grew(second + 1, second)
    assert backlog.since == "0.0"

    backlog.arrived(500)

    assert backlog.since is not None
    assert 500 <= float(backlog.since) < 1000
    assert len(backlog.steps) <= MOST_STEPS


def test_one_that_is_written_anew_is_behind_since_before_that(bench: Bench) -> None:
    backlog = Backlog()
    backlog.grew(100, 1.0)
    backlog.grew(10, 2.0)
    backlog.grew(20, 3.0)

    assert backlog.since_seconds == 1.0
    backlog.arrived(10)
    assert backlog.since_seconds == 3.0


def test_a_full_disk_of_the_agents_state_is_named_with_what_to_do(
    tmp_path: Path, bench: Bench
) -> None:
    bench.store = Store(tmp_path / "files.sqlite3")
    bench.restart()
    bench.store._db.execute("PRAGMA max_page_count = 1")  # as many as there are
    bench.file.run.attempt_id = "a" * 10_000  # more than one takes
    bench.write(HEAD)

    bench.step()

    assert bench.file.why is not None
    assert "disk is full" in bench.file.why
    assert f"make room on the disk of {tmp_path}" in bench.file.why
    bench.store.close()


def test_each_byte_is_sent_once(bench: Bench) -> None:
    bench.write(HEAD)
    bench.sync()
    for row in (b"0,1.5\n", b"1,1.25\n", b"2,"):
        bench.append(row)
        bench.sync()

    assert bench.stored == bench.path.read_bytes()
    assert sum(length for _, length in bench.host.bodies) == len(bench.stored)
    assert bench.generation == 1


def test_a_file_that_did_not_change_is_not_touched(bench: Bench) -> None:
    bench.write(HEAD)
    bench.sync()
    bench.file.see(Mark.of(bench.path.stat()), bench.clock())

    assert not bench.file.is_due(bench.clock() + 3600)


@pytest.mark.parametrize("fate", ["lost_request", "lost_answer"])
def test_what_was_lost_on_the_way_is_stored_once(bench: Bench, fate: str) -> None:
    bench.write(HEAD)
    bench.sync()
    bench.append(b"0,1.5\n")
    bench.transport.fates.append(fate)
    bench.step()
    bench.append(b"1,1.25\n")

    bench.sync()

    assert bench.stored == HEAD + b"0,1.5\n1,1.25\n"
    assert bench.generation == 1


def test_a_late_request_of_an_older_generation_changes_nothing(bench: Bench) -> None:
    bench.write(HEAD)
    bench.transport.fates.append("late")
    bench.step()
    bench.write(b"step,loss,accuracy\n0,1.5,0.1\n")
    bench.sync()
    bench.write(b"epoch,f1\n0,0.2\n0,0.3\n0,0.4\n")
    bench.sync()

    bench.transport.deliver_late()
    bench.end()

    assert bench.stored == bench.path.read_bytes()


def test_a_logger_that_writes_all_of_it_anew_goes_on_in_its_generation(bench: Bench) -> None:
    rows = HEAD
    for number in range(4):
        rows += b"%d,0.5\n" % number
        replacement = bench.path.with_name("new")
        replacement.write_bytes(rows)
        replacement.rename(bench.path)
        bench.sync()

    assert bench.stored == rows
    assert bench.generation == 1
    assert sum(length for _, length in bench.host.bodies) == len(rows)


def test_a_column_that_is_added_begins_a_generation(bench: Bench) -> None:
    bench.write(HEAD + b"0,1.5\n")
    bench.sync()
    bench.write(b"epoch,loss,accuracy\n0,1.5,\n1,1.2,0.4\n")

    bench.sync()

    assert bench.stored == bench.path.read_bytes()
    assert bench.generation == 2
    assert bench.host.laid_aside == [(NAME, 1, HEAD + b"0,1.5\n")]


def test_a_file_in_the_middle_of_being_rewritten_is_waited_for(bench: Bench) -> None:
    bench.write(HEAD + b"0,1.5\n")
    bench.sync()
    bench.write(HEAD)  # the logger has come so far

    bench.step()
    bench.write(HEAD + b"0,1.5\n1,1.2\n")
    bench.sync()

    assert bench.generation == 1
    assert bench.stored == bench.path.read_bytes()


def test_a_file_that_was_cut_short_begins_a_generation(bench: Bench) -> None:
    bench.write(HEAD + b"0,1.5\n")
    bench.sync()
    bench.write(HEAD)

    bench.sync()

    assert bench.stored == HEAD
    assert bench.generation == 2


def test_a_file_that_is_short_at_every_look_is_given_up_waiting_for(bench: Bench) -> None:
    bench.write(HEAD + b"0,1.5\n" * 50)
    bench.sync()
    for number in range(20):
        bench.write(HEAD + b"%d\n" % number)
        bench.step()

    assert bench.generation > 1


def test_a_restart_goes_on_where_it_was(bench: Bench) -> None:
    bench.write(HEAD + b"0,1.5\n")
    bench.sync()
    bench.append(b"1,1.2\n")
    bench.restart()

    bench.sync()

    assert bench.host.bodies == [(NAME, len(HEAD) + 6), (NAME, 6)]
    assert bench.stored == bench.path.read_bytes()


def test_a_rewriting_while_no_agent_ran_is_found(bench: Bench) -> None:
    bench.write(HEAD + b"0,1.5\n")
    bench.sync()
    bench.write(b"other,head\n0,1.5\n1,1.2\n")
    bench.restart()

    bench.sync()

    assert bench.stored == bench.path.read_bytes()
    assert bench.generation == 2


def test_a_lost_journal_takes_a_generation_that_was_never_used(bench: Bench) -> None:
    bench.write(HEAD)
    bench.sync()
    bench.append(b"0,1.5\n")
    bench.lose_journal()

    bench.sync()

    assert bench.generation == 2
    assert bench.stored == bench.path.read_bytes()


def test_a_generation_is_in_the_journal_before_it_is_used(bench: Bench) -> None:
    bench.write(HEAD)
    bench.transport.fates.append("lost_answer")
    bench.step()

    sent = FileJournal(bench.store).find("a1", NAME)

    assert sent is not None
    assert (sent.generation, sent.acked_bytes) == (1, 0)


def test_a_new_attempt_begins_above_the_last_one(bench: Bench) -> None:
    bench.write(HEAD + b"0,1.5\n1,1.2\n")
    bench.sync()
    bench.host.newest_attempt = bench.number = 2
    bench.write(HEAD + b"0,1.5\n")
    bench.lose_journal()

    bench.sync()

    held = bench.host.results[NAME]
    assert (held.attempt, held.generation, held.content) == (2, 2, bench.path.read_bytes())


def test_a_new_attempt_of_a_run_with_more_files_than_can_be_told_begins_above_the_last_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write(HEAD)
    bench.sync()
    before = bench.generation

    def too_many(uid: str) -> dict[str, Any]:
        raise AnswerTooLong("The server answers with more than 16777216 bytes.")

    monkeypatch.setattr(bench.transport, "sync_status", too_many)
    bench.number = bench.host.newest_attempt = 2
    bench.lose_journal()
    bench.write(HEAD + b"0,1.5\n")
    bench.sync()

    assert bench.stored == bench.path.read_bytes()
    assert before < bench.generation < 2**62
    bench.lose_journal()  # and within one attempt the server finds out what goes on
    bench.write(HEAD + b"0,another\n")
    bench.sync()
    assert bench.stored == bench.path.read_bytes()


def test_bytes_of_an_attempt_that_was_given_up_go_on_beside_the_results(bench: Bench) -> None:
    bench.write(HEAD)
    bench.sync()
    bench.host.newest_attempt = 2
    bench.host.results = {}
    bench.append(b"0,1.5\n")

    bench.end()

    assert bench.host.results == {}
    assert bench.host.shelves[1][NAME].content == bench.path.read_bytes()


def test_what_the_server_lost_is_sent_again_from_there(bench: Bench) -> None:
    bench.write(HEAD + b"0,1.5\n")
    bench.sync()
    held = bench.host.results[NAME]
    held.content = HEAD
    bench.append(b"1,1.2\n")

    bench.sync()

    assert bench.stored == bench.path.read_bytes()
    assert bench.generation == 1
    assert bench.host.bodies[-1] == (NAME, 12)


def test_a_stale_generation_is_overtaken(bench: Bench) -> None:
    bench.write(HEAD)
    bench.sync()
    bench.host.results[NAME].generation = 7
    bench.append(b"0,1.5\n")

    bench.sync()

    assert bench.generation == 8
    assert bench.stored == bench.path.read_bytes()


def test_the_end_is_confirmed_by_the_hash_of_the_whole(bench: Bench) -> None:
    bench.write(HEAD)
    bench.sync()
    assert not bench.file.settled

    bench.end()

    assert bench.host.results[NAME].complete


def test_what_somebody_added_by_hand_is_healed_at_the_end(bench: Bench) -> None:
    bench.write(HEAD)
    bench.sync()
    bench.host.results[NAME].content += b"by hand\n"

    bench.end()

    assert bench.stored == HEAD
    assert bench.generation == 2


def test_an_empty_log_is_there_after_the_end_only(bench: Bench) -> None:
    bench.write(b"")
    bench.step()
    assert not bench.file.is_due(bench.clock() + 10)

    bench.end()

    assert bench.stored == b""
    assert bench.host.results[NAME].complete


def test_a_long_backlog_goes_in_chunks(bench: Bench) -> None:
    content = random.Random(1).randbytes(10_000_000)
    bench.write(content)

    bench.end()

    assert bench.stored == content
    assert [length for _, length in bench.host.bodies][:2] == [wire.MAX_CHUNK_BYTES] * 2


def test_chunks_become_smaller_on_a_line_that_breaks(bench: Bench) -> None:
    bench.write(b"x" * 3_000_000)
    bench.transport.fates.extend(["lost_request"] * 3)
    for _ in range(4):
        bench.step()

    assert bench.host.bodies == [(NAME, wire.MAX_CHUNK_BYTES // 8)]


@pytest.mark.parametrize("at", [0, 700_000, 1_999_990])
def test_a_change_in_the_middle_of_a_long_file_is_found_at_the_end_at_last(
    bench: Bench, at: int
) -> None:
    bench.write(b"x" * 2_000_000)
    bench.sync()
    with open(bench.path, "r+b") as file:
        file.seek(at)
        file.write(b"y")
    bench.append(b"z")
    bench.sync()

    bench.end()

    assert bench.stored == bench.path.read_bytes()
    assert bench.generation == 2


def test_a_deleted_run_settles_its_files(bench: Bench) -> None:
    bench.write(HEAD)
    bench.host.refuse = Refusal(410, "deleted")

    bench.step()

    assert bench.file.settled
    assert bench.file.state == "deleted on the server"
    bench.restart()
    assert bench.file.settled


def test_a_refusal_parks_the_file_for_an_hour_and_is_told_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.write(HEAD)
    bench.host.refuse = Refusal(404, "not_found")
    bench.step()
    bench.step()

    assert not bench.file.is_due(bench.clock() + 3500)
    assert bench.file.is_due(bench.clock() + 3700)
    assert bench.file.state == "refused"
    assert [record.levelname for record in caplog.records].count("WARNING") == 1

    bench.host.refuse = None
    bench.sync()
    assert bench.stored == HEAD
    assert bench.file.state == "synced"


def test_a_full_disk_of_the_agents_own_does_not_send_a_long_log_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has the chunk by then, and the journal has no room to say so."""
    bench.write(b"0123456\n" * (growing.ALWAYS_READ_BYTES // 4))
    bench.sync()

    def full(*row: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(FileJournal, "put", full)
        bench.append(b"1,0.5\n")
        assert not bench.step()
        assert bench.file.state == "waiting"
    bench.append(b"2,0.4\n")
    bench.sync()

    assert bench.stored == bench.path.read_bytes()
    assert bench.generation == 1


@pytest.mark.parametrize("status", [408, 423, 429, 503, 507])
def test_a_server_that_cannot_now_is_asked_again(bench: Bench, status: int) -> None:
    bench.write(HEAD)
    bench.host.refuse = Refusal(status, "busy")
    for _ in range(20):
        bench.file.see(Mark.of(bench.path.stat()), bench.clock())
        bench.file.work(bench.transport)
    assert bench.file.state == "waiting"
    assert bench.file.is_due(bench.clock() + 31)

    bench.host.refuse = None
    bench.sync()

    assert bench.stored == HEAD


def test_a_long_log_is_not_read_again_at_each_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write(b"x" * 3_000_000)
    bench.sync()
    read: list[int] = []
    plain: Callable[..., bytes] = growing.read_at
    fed: Callable[..., int] = growing._feed
    monkeypatch.setattr(
        growing, "read_at", lambda s, at, length: _note(read, plain(s, at, length))
    )
    monkeypatch.setattr(growing, "_feed", lambda *a: read.append(fed(*a)) or read[-1])
    for number in range(5):
        bench.append(b"line %d\n" % number)
        bench.sync()

    assert sum(read) < 5_000_000  # once all of it, then its ends
    assert bench.stored == bench.path.read_bytes()


def test_a_file_that_is_written_anew_is_read_once_a_rewrite(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = b"x" * 3_000_000
    bench.write(rows)
    bench.sync()
    read: list[int] = []
    fed: Callable[..., int] = growing._feed
    monkeypatch.setattr(growing, "_feed", lambda *a: read.append(fed(*a)) or read[-1])
    for number in range(3):
        rows += b"line %d\n" % number
        part = bench.path.with_name("new")
        part.write_bytes(rows)
        part.rename(bench.path)
        bench.sync()
        bench.sync()  # nothing has changed

    assert len(read) == 3
    assert bench.stored == rows


def _note(read: list[int], content: bytes) -> bytes:
    read.append(len(content))
    return content


def test_many_rows_are_packed_and_a_few_are_not(bench: Bench) -> None:
    few = HEAD + b"".join(b"%d,0.5\n" % row for row in range(100))
    many = few + b"".join(b"%d,0.5\n" % row for row in range(20_000))
    bench.write(few)
    bench.sync()
    bench.write(many)
    bench.sync()

    assert bench.stored == many
    assert bench.host.bodies[0] == (NAME, len(few))
    assert bench.host.bodies[1][1] < (len(many) - len(few)) / 2


@pytest.mark.parametrize("content", [random.Random(1).randbytes(50_000), b"0" * 4_000_000])
def test_what_does_not_shrink_or_shrinks_too_much_goes_as_it_is(
    bench: Bench, content: bytes
) -> None:
    bench.write(content)
    bench.sync()

    assert bench.stored == content
    assert bench.host.bodies == [(NAME, len(content))]


def test_an_outage_of_however_long_leaves_no_more_in_the_journal_than_a_line(bench: Bench) -> None:
    bench.write(HEAD + b"0,1\n")
    bench.sync()
    bench.host.refuse = Refusal(503, "away")
    for epoch in range(300):  # a logger that added a column, and writes all of it anew
        bench.write(b"epoch,loss,accuracy\n" + b"".join(b"%d,1,1\n" % n for n in range(epoch)))
        bench.step()

    with bench.store.transaction() as db:
        rows = db.execute("SELECT count(*) FROM sent_files").fetchone()[0]
    bench.host.refuse = None
    bench.sync()

    assert rows == 1
    assert bench.host.results[NAME].content == bench.path.read_bytes()


def test_one_that_its_job_does_not_wish_stays_left_out_while_it_grows(bench: Bench) -> None:
    """Between two looks at all files nobody says it again."""
    bench.write(HEAD)
    bench.sync()
    bench.file.left_out = wire.WhyLeftOut.TOO_LARGE
    bench.append(b"0,1.5\n")

    assert not bench.step()
    assert not bench.file.is_due(bench.clock() + 60)
    assert bench.stored == HEAD


# --- what an earlier agent sent as a whole ---

EVENTS = "run_001/events.out.tfevents.1709287200.gpu-01.4711.0"


class Earlier(Bench):
    """An agent before event files grew, and after upgrade() the same host's with its journal."""

    file: Tracked

    def __init__(self, folder: Path, clock: Clock) -> None:
        super().__init__(folder, clock, EVENTS)
        self.file = Whole(self.file.run, EVENTS, FileJournal(self.store), threading.Event())

    def upgrade(self) -> None:
        self.restart()


@pytest.fixture
def earlier(tmp_path: Path, clock: Clock) -> Earlier:
    return Earlier(tmp_path, clock)


def test_what_was_sent_as_a_whole_goes_on_by_what_came_after_it(earlier: Earlier) -> None:
    for content in (b"first", b"first, second"):
        earlier.write(content)
        earlier.step()
    assert (earlier.generation, earlier.stored) == (2, b"first, second")
    sent_before = len(earlier.host.bodies)

    earlier.upgrade()
    earlier.append(b", third")
    earlier.sync()
    assert not earlier.file.settled
    earlier.end()

    assert earlier.stored == b"first, second, third"
    assert earlier.generation == 2
    assert earlier.host.bodies[sent_before:] == [(EVENTS, 7), (EVENTS, 0)]
    assert earlier.host.results[EVENTS].complete


def test_what_was_confirmed_as_a_whole_and_grew_no_more_is_not_sent_again(
    earlier: Earlier,
) -> None:
    earlier.write(b"all of it")
    earlier.step()

    earlier.upgrade()
    earlier.file.run.exited = True
    earlier.file.see(Mark.of(earlier.path.stat()), earlier.clock())

    assert earlier.file.settled
    assert not earlier.file.is_due(earlier.clock() + 3600)


@pytest.mark.parametrize("fate", ["late", "lost_answer", "lost_request"])
def test_a_whole_version_that_was_on_its_way_at_the_upgrade_takes_no_place(
    earlier: Earlier, fate: str
) -> None:
    earlier.write(b"first")
    earlier.transport.fates.append(fate)
    earlier.step()

    earlier.upgrade()
    earlier.append(b", second")
    earlier.sync()
    earlier.end()
    earlier.transport.deliver_late()

    assert earlier.stored == earlier.path.read_bytes() == b"first, second"
    assert earlier.host.results[EVENTS].complete


def test_one_that_is_another_since_it_was_sent_as_a_whole_begins_anew(earlier: Earlier) -> None:
    earlier.write(b"first")
    earlier.step()

    earlier.upgrade()
    earlier.write(b"another, and longer")
    earlier.end()

    assert (earlier.generation, earlier.stored) == (2, b"another, and longer")
    assert earlier.host.laid_aside == [(EVENTS, 1, b"first")]
