"""What no other test says of the guards of the protocol, and that each of them is missed
(tests.sync.guards)."""

import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from django.conf import settings

from agent.errors import NotTheServer
from agent.files import upload
from agent.files.filejournal import FileJournal, Sent
from agent.files.growing import Growing
from agent.files.regular import Mark
from agent.files.runfiles import RunFiles
from agent.files.tracked import stored
from agent.files.upload import Whole
from agent.store import Store
from experiments.models import Job
from experiments.states import JobState, Outcome
from labsite.clock import database_now
from labsite.errors import Refused
from sync import storage
from sync.append import Delta, append
from sync.errors import FileBusy, WrongName
from sync.models import SyncFile
from tests import make
from tests.faults.disk import Died, Disk, Failing
from tests.sync.conftest import TOKEN, Run, sha256
from tests.sync.inprocess import Ask, Server, Told, transport
from tests.sync.test_http import post, x

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).parents[2]


@pytest.fixture
def disk(monkeypatch) -> Disk:
    made = Disk(settings.LAB_LOGS_DIR)
    monkeypatch.setattr(storage, "os", made)
    return made


def test_a_damaged_chunk_is_not_kept(client, run: Run):
    answer = post(
        client, f"delta/{run.uid}/run_001.csv", b"abX", **x(x_chunk_sha256=sha256(b"abc"))
    )

    assert answer.status_code == 422
    assert not SyncFile.objects.exists()


def test_a_power_cut_takes_nothing_that_was_acknowledged(run: Run, disk: Disk):
    sends = [
        lambda: run.delta(b"epoch,loss\n", generation=1, offset=0),
        lambda: run.delta(b"1,0.5\n", generation=1, offset=11),
        lambda: run.full(b"weights"),
        lambda: run.full(b"more weights", generation=2),
        lambda: run.full(b"png", name="run_001/images/1.png"),
    ]
    for send in sends:
        send()

        disk.lose_power(keeps=lambda: False)

        for row in SyncFile.objects.all():
            assert len(run.stored(row.name)) == row.size, row.name
    assert run.stored() == b"epoch,loss\n1,0.5\n"
    assert run.stored("run_001.pt") == b"more weights"


def test_nor_what_followed_a_crash_in_the_middle_of_a_rename(run: Run, disk: Disk):
    """Killed when the file has its name and the folder is not synced: the name is not safe."""
    run.delta(b"epoch,loss\n", generation=1, offset=0)

    def die(point: str) -> None:
        if point == "after rename":
            raise Died(point)

    disk.on_point = die
    with suppress(Died):
        run.full(b"epoch,loss\n1,0.5\n", "run_001.csv")
    disk.on_point = lambda point: None
    run.delta(b"2,0.4\n", generation=1, offset=11)

    disk.lose_power(keeps=lambda: False)

    assert run.stored() == b"epoch,loss\n2,0.4\n"


def test_a_short_write_goes_on(run: Run, disk: Disk):
    run.delta(b"epoch,loss\n", generation=1, offset=0)
    disk.on_point = Failing(1, None)

    run.delta(b"1,0.5\n", generation=1, offset=11)

    assert disk.on_point.calls == 2
    assert run.stored() == b"epoch,loss\n1,0.5\n"


def test_a_line_by_hand_in_the_middle_of_a_chunk_waits(run: Run, disk: Disk, monkeypatch):
    monkeypatch.setattr(storage, "LOCK_SECONDS", 0.0)
    target, refused = run.target(), []

    def meanwhile(point: str) -> None:
        if point != "before write" or refused:
            return
        refused.append(None)
        with suppress(FileBusy):
            append(target, Delta(b"by hand\n"))
            refused.pop()

    disk.on_point = meanwhile
    with suppress(Refused):
        run.delta(b"epoch,loss\n", generation=1, offset=0)

    assert refused
    assert run.stored() == b"epoch,loss\n"


def test_what_is_sent_for_an_earlier_attempt_is_evidence(run: Run):
    run.delta(b"first\n", generation=1, offset=0)
    run.attempt.end(Outcome.PREEMPTED, database_now(), then=JobState.QUEUED)
    make.attempt(Job.objects.get(), make.device(gpus=1), started=True)

    run.delta(b"first\nlate\n", generation=1, offset=0)

    assert run.row().size == 6
    assert SyncFile.objects.get(shelf=1).size == 11


def test_another_runs_files_are_not_reached(run: Run):
    with pytest.raises(WrongName):
        run.delta(b"x", name="run_0010.csv")


def test_nor_what_lies_in_its_folder(run: Run):
    with pytest.raises(WrongName):
        run.delta(b"x", name="run_0010/metrics.csv")


def test_no_name_leads_upwards(run: Run):
    with pytest.raises(WrongName):
        run.delta(b"x", name="run_001/../../run_002.csv")


def test_a_chunk_that_comes_again_is_stored_once(run: Run):
    run.chunk(b"0123456789", 0, 4)
    run.chunk(b"0123456789", 2, 4)

    assert run.chunk(b"0123456789", 6, 4).row.size == 10


@pytest.mark.parametrize("lie", [{"generation": 2}, {"acked_bytes": 4}, {"acked_bytes": None}])
def test_an_answer_that_does_not_fit_acknowledges_nothing(lie):
    with pytest.raises(NotTheServer):
        stored({"data": {"generation": 1, "acked_bytes": 3, **lie}}, Sent(1), 3)


def test_an_answer_to_something_else_acknowledges_nothing():
    with pytest.raises(NotTheServer):
        stored({"data": {"generation": 1, "acked_bytes": 4}}, Sent(1), 3)


def test_a_damaged_chunk_is_healed_at_the_end_at_last(run: Run, disk: Disk, tmp_path):
    server, spoilt = Server(disk), []

    def meets(ask: Ask) -> Told | None:
        if "/delta/" in ask.path and not spoilt:
            spoilt.append(ask)
            ask = ask.flipped()
        return server.answer(ask)

    (tmp_path / "run_001.csv").write_bytes(b"epoch,loss\n1,0.5\n")
    files = RunFiles("a1", run.uid, "digits", "run_001", 1, tmp_path, exited=True)
    file = Growing(files, "run_001.csv", FileJournal(Store(Path(":memory:"))), threading.Event())
    line = transport(TOKEN, meets)
    for _ in range(9):
        file.see(Mark.of((tmp_path / "run_001.csv").stat()), 0.0)
        file.work(line)

    assert file.settled
    assert run.stored() == b"epoch,loss\n1,0.5\n"


def test_a_checkpoint_that_is_written_while_it_is_read_is_left_for_later(tmp_path, monkeypatch):
    path = tmp_path / "run_001.pt"
    path.write_bytes(b"weights")
    run = RunFiles("a1", "20260101_a1b2", "digits", "run_001", 1, tmp_path)
    file = Whole(run, path.name, FileJournal(Store(Path(":memory:"))), threading.Event())
    file.see(mark := Mark.of(path.stat()), 0.0)
    monkeypatch.setattr(upload, "read_mark", lambda source: replace(mark, mtime_ns=1))

    with path.open("rb") as source:
        assert file._hash(source, mark) is None


def test_each_guard_is_missed_when_it_is_taken_out():
    command = [sys.executable, "-m", "tests.sync.guards", "-x"]
    done = subprocess.run(
        command, cwd=ROOT, env=_apart(), capture_output=True, text=True, timeout=300, check=False
    )

    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "xfailed" in done.stdout


def _apart() -> dict[str, str]:
    """Without this process's own folders: that one makes its own."""
    ours = ("LAB_DATA_DIR", "LAB_SOCKET_DIR", "PYTEST_CURRENT_TEST")
    return {name: value for name, value in os.environ.items() if name not in ours}
