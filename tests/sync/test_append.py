"""The delta: exactly once, in order, whatever is lost, late, repeated or rewritten."""

import fcntl
import os
import threading
from contextlib import suppress
from functools import partial

import pytest
from django.conf import settings as django_settings
from django.db import connection
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from experiments.errors import LostRace
from experiments.models import Job
from experiments.states import JobState, Outcome
from labsite.clock import database_now
from labsite.errors import NotFound, Refused
from sync import append, ownership, storage
from sync.errors import Deleted, Diverged, FileBusy, OffsetMismatch, StaleGeneration, WrongName
from sync.models import SyncFile
from tests import make
from tests.sync.conftest import Run, sha256

pytestmark = pytest.mark.django_db


def test_a_file_grows_chunk_by_chunk(run):
    run.delta(b"epoch,loss\n", generation=1, offset=0)
    stored = run.delta(b"1,0.5\n", generation=1, offset=11, source_mtime=1729677000)

    assert run.stored() == b"epoch,loss\n1,0.5\n"
    assert (stored.appended, stored.acked, stored.row.size) == (6, 17, 17)
    assert run.row().source_mtime == 1729677000


def test_a_chunk_that_waits_while_its_attempt_is_given_up_changes_no_result(run):
    run.delta(b"abc", generation=1, offset=0)
    as_it_was = run.target()
    run.attempt.end(Outcome.HOST_REBOOTED, database_now())
    make.attempt(Job.objects.get(), run.attempt.device)

    with pytest.raises(LostRace):
        append.append(as_it_was, append.Delta(b"def", generation=1, offset=3))

    assert run.row().size == 3


def test_a_repeated_chunk_is_stored_once(run):
    run.delta(b"abc", generation=1, offset=0)

    again = run.delta(b"abc", generation=1, offset=0)

    assert (again.duplicate, again.appended, again.acked) == (True, 0, 3)
    assert run.stored() == b"abc"


def test_an_overlap_adds_only_what_is_new(run):
    run.delta(b"abcd", generation=1, offset=0)

    stored = run.delta(b"cdef", generation=1, offset=2)

    assert (stored.appended, stored.acked) == (2, 6)
    assert run.stored() == b"abcdef"


def test_a_late_shorter_chunk_acknowledges_only_itself(run):
    run.delta(b"abcdef", generation=1, offset=0)

    assert run.delta(b"ab", generation=1, offset=0).acked == 2


def test_a_gap_is_refused_with_the_place_to_go_on_from(run):
    run.delta(b"abc", generation=1, offset=0)

    with pytest.raises(OffsetMismatch) as refused:
        run.delta(b"x", generation=1, offset=5)

    assert refused.value.facts == {"expected_offset": 3}


def test_other_bytes_diverge(run):
    run.delta(b"abc", generation=1, offset=0)

    with pytest.raises(Diverged):
        run.delta(b"abX", generation=1, offset=0)
    assert run.stored() == b"abc"


def test_a_new_generation_begins_at_zero_and_lays_the_old_one_aside(run):
    run.delta(b"epoch\n1\n", generation=1, offset=0)
    with pytest.raises(OffsetMismatch):
        run.delta(b"x", generation=2, offset=8)

    run.delta(b"epoch,lr\n", generation=2, offset=0)

    assert run.stored() == b"epoch,lr\n"
    place = run.target().place
    assert place.path.with_name("run_001.csv.g1").read_bytes() == b"epoch\n1\n"


def test_an_older_generation_is_stale(run):
    run.delta(b"new", generation=5, offset=0)

    with pytest.raises(StaleGeneration) as refused:
        run.delta(b"old", generation=4, offset=0)

    assert refused.value.facts == {"attempt": 1, "generation": 5}


def test_the_newest_five_generations_are_kept(run):
    for generation in range(1, 9):
        run.delta(b"%d" % generation, generation=generation, offset=0)

    kept = sorted(path.name for path in run.target().place.path.parent.glob("run_001.csv.g*"))
    assert kept == [f"run_001.csv.g{n}" for n in range(3, 8)]


def test_bytes_that_were_never_acknowledged_are_cut_off(run):
    run.delta(b"abc", generation=1, offset=0)
    with open(run.target().place.path, "ab") as file:
        file.write(b"torn by a crash")

    run.delta(b"def", generation=1, offset=3)

    assert run.target().place.path.read_bytes() == b"abcdef"


def test_a_disk_that_lost_bytes_asks_for_them_again(run, caplog):
    run.delta(b"abcdef", generation=1, offset=0)
    os.truncate(run.target().place.path, 2)

    with pytest.raises(OffsetMismatch) as refused:
        run.delta(b"ghi", generation=1, offset=6)

    assert refused.value.facts == {"expected_offset": 2}
    assert run.row().outdated
    assert "6 were acknowledged" in caplog.text
    run.delta(b"cdefghi", generation=1, offset=2)
    assert (run.stored(), run.row().outdated) == (b"abcdefghi", False)


def test_the_documented_line_without_offset_appends_at_the_end(run):
    run.delta(b"a\n")
    run.delta(b"b\n")

    assert run.stored() == b"a\nb\n"


def test_an_idempotency_key_makes_it_safe_to_repeat(run):
    first = run.delta(b"a\n", key="k1")
    again = run.delta(b"a\n", key="k1")

    assert (first.acked, again.acked, again.duplicate) == (2, 2, True)
    assert run.stored() == b"a\n"


def test_a_file_is_confirmed_by_the_hash_of_the_whole(run):
    run.delta(b"abc", generation=1, offset=0)
    with pytest.raises(Diverged):
        run.delta(b"", generation=1, offset=3, file_sha256=sha256(b"abX"))

    stored = run.delta(b"", generation=1, offset=3, file_sha256=sha256(b"abc"))

    assert stored.row.complete
    assert run.row().sha256 == sha256(b"abc")


def test_more_bytes_unmake_the_confirmation(run):
    run.delta(b"abc", generation=1, offset=0, file_sha256=sha256(b"abc"))
    assert run.row().complete

    run.delta(b"d", generation=1, offset=3)

    assert (run.row().complete, run.row().sha256) == (False, "")


def test_an_empty_file_is_confirmed_too(run):
    run.delta(b"", generation=1, offset=0, file_sha256=sha256(b""))

    assert run.row().complete
    assert run.target().place.path.read_bytes() == b""


def test_one_writer_at_a_time(run, monkeypatch):
    monkeypatch.setattr(storage, "LOCK_SECONDS", 0.05)
    with storage.locked(run.target().place), pytest.raises(FileBusy):
        run.delta(b"abc", generation=1, offset=0)


def test_a_full_disk_keeps_nothing(run, monkeypatch):
    run.delta(b"abc", generation=1, offset=0)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Refused) as refused:
        run.delta(b"def", generation=1, offset=3)

    assert refused.value.status == 507
    assert run.row().size == 3


# --- whose bytes ---------------------------------------------------------------------------------


def resumed(run: Run) -> Run:
    """The same job again, elsewhere."""
    run.attempt.job.refresh_from_db()
    return Run(make.attempt(run.attempt.job, make.device(gpus=1), started=True))


def test_bytes_of_an_attempt_given_up_are_kept_beside_the_results(run):
    run.delta(b"first\n", generation=1, offset=0)
    run.attempt.end(Outcome.LOST, database_now(), then=JobState.QUEUED)
    second = resumed(run)
    second.delta(b"second\n", generation=2, offset=0)

    run.delta(b"first\nlate\n", generation=1, offset=0)

    assert second.stored() == b"second\n"
    shelf = run.target().place.path
    assert shelf.parts[-4:] == (".attempts", run.uid, "1", "run_001.csv")
    assert shelf.read_bytes() == b"first\nlate\n"


def test_a_lost_attempt_writes_no_results_even_when_it_is_the_newest(run):
    run.attempt.end(Outcome.LOST, database_now(), then=JobState.FAILED)

    run.delta(b"late\n", generation=1, offset=0)

    assert not SyncFile.objects.results().exists()


def test_an_ended_attempt_still_sends_its_last_bytes(run):
    run.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)

    run.delta(b"last\n", generation=1, offset=0)

    assert run.stored() == b"last\n"


def test_another_device_finds_nothing_here(run):
    with pytest.raises(NotFound):
        ownership.target(make.device(), run.uid, "run_001.csv", None)


def test_a_deleted_run_wants_no_files(run):
    run.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    run.attempt.job.delete_run(database_now())

    with pytest.raises(Deleted):
        run.delta(b"x")


def test_nor_within_the_second_for_which_an_attempt_is_remembered(run):
    target = partial(ownership.target, run.attempt.device, run.uid, "run_001.csv", 1)
    assert target().shelf == 0
    run.attempt.end(Outcome.LOST, database_now())
    assert target().shelf == 1

    run.attempt.job.delete_run(database_now())
    with pytest.raises(Deleted):
        target()


@pytest.mark.parametrize(
    "name",
    [
        "run_002.csv", "run_0010.csv", "other.csv", "run_001", "run_001/", "/run_001.csv",
        "run_001.csv/../x", "run_001/../../x", "run_001/.x.part", "run_001..csv", "run_001.csv.g3",
        "run_001.c\0sv", "run_001.ü", "run_001." + "x" * 130, "..", "",
    ],
)  # fmt: skip
def test_no_name_reaches_beyond_the_run(run, name):
    with pytest.raises(WrongName):
        run.delta(b"x", name=name)


def test_a_symlink_is_not_followed(run, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    logs = django_settings.LAB_LOGS_DIR
    project = logs / "digits"
    project.mkdir(parents=True)
    (project / "run_001.csv").symlink_to(outside / "victim")
    (project / "run_001").symlink_to(outside)

    for send in (run.delta, run.full):
        for name in ("run_001.csv", "run_001/victim"):
            with suppress(WrongName):  # or it takes the link's own place
                send(b"x", name=name)

    assert (outside / "victim").read_text() == "untouched"


def test_nor_one_that_was_laid_where_a_file_was(run, tmp_path):
    run.delta(b"first", offset=0)
    victim = tmp_path / "victim"
    victim.write_text("not one of ours")
    path = run.target().place.path
    path.unlink()
    path.symlink_to(victim)

    with suppress(WrongName, OffsetMismatch):
        run.delta(b"more", offset=5)

    assert victim.read_text() == "not one of ours"


def test_artifacts_lie_beneath_the_runs_folder(run):
    run.full(b"png", name="run_001/images/1.png")

    assert (django_settings.LAB_LOGS_DIR / "digits/run_001/images/1.png").read_bytes() == b"png"


@pytest.mark.django_db(transaction=True)
def test_two_senders_of_the_same_file_store_each_byte_once(run):
    data = bytes(range(256)) * 64

    def send() -> None:
        try:
            for offset in range(0, len(data), 1000):
                run.delta(data[offset : offset + 1000], generation=1, offset=offset)
        finally:
            connection.close()

    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()

    assert run.stored() == data


class Faults(RuleBasedStateMachine):
    """Agent and server with a network between them that loses, repeats and delays.

    After Hypothesis models of the protocol: the server's bytes are a prefix of the agent's in
    the same generation, what was acknowledged stays, and healing converges.
    """

    def __init__(self) -> None:
        super().__init__()
        SyncFile.objects.all().delete()
        self.run = Run(make.attempt(started=True))
        self.name = f"{self.run.attempt.job.run_name}.csv"
        self.files = {1: b""}
        self.generation, self.acked, self.highest = 1, 0, 1
        self.sent: list[append.Delta] = []
        self.promised: dict[int, int] = {}

    @property
    def file(self) -> bytes:
        return self.files[self.generation]

    def chunk(self, size: int) -> append.Delta:
        data = self.file[self.acked : self.acked + size]
        return append.Delta(data, generation=self.generation, offset=self.acked)

    def deliver(self, delta: append.Delta, *, answered: bool = True) -> None:
        try:
            stored = append.append(self.run.target(self.name), delta)
        except OffsetMismatch as refused:
            if answered and delta.generation == self.generation:
                self.acked = min(refused.facts["expected_offset"], len(self.file))
        except (Diverged, StaleGeneration):
            if answered and delta.generation == self.generation:
                self.rewrite(self.file)
        else:
            self.promised[delta.generation] = max(
                self.promised.get(delta.generation, 0), stored.acked if answered else 0
            )
            if answered and delta.generation == self.generation:
                self.acked = max(self.acked, stored.acked)

    def rewrite(self, content: bytes) -> None:
        row = append.current(self.run.target(self.name))
        self.highest = max(self.highest, row.generation if row else 0) + 1
        self.generation, self.acked = self.highest, 0
        self.files[self.generation] = content

    @rule(data=st.binary(min_size=1, max_size=12))
    def the_script_appends(self, data):
        self.files[self.generation] += data

    @rule(content=st.binary(max_size=8))
    def the_script_rewrites(self, content):
        self.rewrite(content)

    @precondition(lambda self: self.acked < len(self.file))
    @rule(size=st.integers(1, 9), fate=st.sampled_from(["ok", "lost", "unanswered", "twice"]))
    def send(self, size, fate):
        delta = self.chunk(size)
        self.sent.append(delta)
        if fate == "lost":
            return
        self.deliver(delta, answered=fate != "unanswered")
        if fate == "twice":
            self.deliver(delta, answered=False)

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 99))
    def something_late_arrives(self, which):
        self.deliver(self.sent[which % len(self.sent)], answered=False)

    @rule(data=st.binary(min_size=1, max_size=9))
    def the_server_crashed_between_write_and_row(self, data):
        path = self.run.target(self.name).place.path
        if path.exists():
            with open(path, "ab") as file:
                file.write(data)

    @rule()
    def the_agent_forgets(self):
        self.acked //= 2

    @rule()
    def all_heals(self):
        for _ in range(200):
            row = append.current(self.run.target(self.name))
            if row and row.generation == self.generation and row.size == len(self.file):
                break
            self.deliver(self.chunk(7))
        if self.file:
            assert self.server() == self.file

    def server(self) -> bytes:
        row = append.current(self.run.target(self.name))
        if row is None:
            return b""
        return storage.read(self.run.target(self.name).place, 0, row.size)

    @invariant()
    def the_server_holds_a_prefix(self):
        row = append.current(self.run.target(self.name))
        if row and row.generation in self.files:
            assert self.files[row.generation].startswith(self.server())

    @invariant()
    def what_was_acknowledged_is_there(self):
        row = append.current(self.run.target(self.name))
        if row:
            assert row.size >= self.promised.get(row.generation, 0)


def test_whatever_the_network_does_the_server_holds_a_prefix(db):
    run_state_machine_as_test(
        Faults,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_lock_is_the_files_own_and_is_given_back(run):
    run.delta(b"abc")

    locks = list((django_settings.LAB_LOGS_DIR / ".locks").iterdir())
    assert locks
    for lock in locks:
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: still held
