"""The agent's file sync against the real endpoints, on real files: both sides end up equal."""

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from agent import wire
from agent.files import filesync, resume
from agent.files.filesync import FileSync
from agent.files.upload import Whole
from agent.store import Store
from agent.transport import Body, Transport
from experiments import leases
from experiments.models import Attempt, Job
from experiments.states import Outcome
from labsite.clock import database_now
from labsite.pages import runfiles
from sync import chunks, status
from sync.models import SyncFile, Upload
from sync.resume import note_files
from sync.status import SyncState
from sync.storage import Place
from tests import make
from tests.faults.proxy import FaultProxy
from tests.sync.conftest import TOKEN, Run

pytestmark = pytest.mark.django_db(transaction=True)

ENDS_SECONDS = 30.0
LOOK_SECONDS = 0.05
CHUNK_BYTES = 256 * 1024
CUTS = 10
OTHER_TOKEN = TOKEN[:-1] + "t"
LAID_ASIDE = re.compile(r"\.g\d+$")


@dataclass
class Side:
    """One attempt's files on the agent's side, and the agent that sends them."""

    url: str
    run: Run
    folder: Path  # of the project

    @property
    def attempt(self) -> Attempt:
        return self.run.attempt

    @property
    def id(self) -> str:
        return str(self.attempt.pk)

    def path(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def agent(self, journal: str = "files.sqlite3") -> Iterator[FileSync]:
        """An agent that sends, until the end of the block; its journal outlives it."""
        store = Store(self.folder.parent / journal)
        sync = FileSync(
            store,
            lambda: Transport(self.url, TOKEN),
            self.folder.parent,
            interval_seconds=LOOK_SECONDS,
        )
        stop = threading.Event()
        job = self.attempt.job
        sync.watch(
            self.id, job.uid, job.project.name, job.run_name, self.attempt.number, self.folder
        )
        thread = threading.Thread(target=sync.run, args=(stop,))
        thread.start()
        try:
            yield sync
        finally:
            stop.set()
            sync.nudge()
            thread.join(10)
            store.close()
            assert not thread.is_alive()

    def arrives(self, name: str, content: bytes) -> None:
        """Wait until the server has acknowledged exactly this."""
        wait_for(lambda: self.acknowledged(name) == content, f"{name} has arrived")

    def acknowledged(self, name: str) -> bytes | None:
        row = SyncFile.objects.results().filter(job=self.attempt.job, name=name).first()
        if row is None:
            return None
        path = Place.of(self.attempt.job, name).path
        return path.read_bytes()[: row.size] if path.is_file() else None

    def generation(self, name: str) -> int:
        return SyncFile.objects.results().get(job=self.attempt.job, name=name).generation

    def ends(self, sync: FileSync) -> None:
        """The attempt ends; wait until its files are settled, and then all are equal."""
        sync.exited(self.id)
        wait_for(lambda: sync.settled(self.id), "all is settled")
        assert self.stored() == self.local()

    def local(self) -> dict[str, str]:
        return hashes(self.folder)

    def stored(self) -> dict[str, str]:
        """Only what is whole: of each file the server's own hash must be that of its bytes."""
        root = Place.of(self.attempt.job, f"{self.attempt.job.run_name}.csv").path.parent
        rows = SyncFile.objects.results().filter(job=self.attempt.job, complete=True)
        found = {row.name: row.sha256 for row in rows}
        lie = hashes(root).items()
        assert found == {name: digest for name, digest in lie if not LAID_ASIDE.search(name)}
        return found


def hashes(folder: Path) -> dict[str, str]:
    """Of the run's files and of its artifacts."""
    found = [*folder.glob("run_001.*"), *folder.glob("run_001/**/*")]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.is_file()
    }


def wait_for(condition, what: str, seconds: float = ENDS_SECONDS) -> None:
    bell = threading.Event()
    left = seconds
    while not condition():
        assert left > 0, f"not within {seconds} s: {what}"
        bell.wait(0.05)
        left -= 0.05


@pytest.fixture
def side(live_server, run, tmp_path) -> Side:
    folder = tmp_path / "work" / "digits"
    folder.mkdir(parents=True)
    return Side(live_server.url, run, folder)


def test_every_file_of_a_run_arrives_and_is_confirmed(side):
    side.path("run_001.yaml").write_bytes(b"run: run_001\n")
    side.path("run_001.empty").touch()
    with side.agent() as sync:
        side.path("run_001.log").touch()
        with side.path("run_001.csv").open("ab", buffering=0) as csv:
            csv.write(b"epoch,loss\n")
            for epoch in range(20):
                csv.write(b"%d,0.5\n" % epoch)
        side.path("run_001.pt").write_bytes(b"\0weights" * 100_000)
        side.path("run_001/images/1.png").write_bytes(b"png")
        side.path("run_001/run_001/deep.json").write_bytes(b"{}")

        side.arrives("run_001.csv", side.path("run_001.csv").read_bytes())
        side.ends(sync)

    side.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    side.attempt.advertise(
        {name: vars(report) for name, report in sync.reports(side.id).items()}, database_now()
    )
    assert status.of(side.attempt.job, database_now()).state == SyncState.SYNCED
    assert len(side.local()) == 7
    assert side.generation("run_001.csv") == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [("run_001/ckpt", "run_001/ckpt/w.bin"), ("run_001/ckpt/w.bin", "run_001/ckpt")],
)
def test_a_file_in_the_place_of_a_folder_arrives_and_the_run_settles(side, before, after):
    with side.agent() as sync:
        side.path(before).write_bytes(b"old")
        side.arrives(before, b"old")
        path = side.folder / before
        path.unlink()
        if path.parent != side.folder / "run_001":
            path.parent.rmdir()
        side.path(after).write_bytes(b"new")
        side.arrives(after, b"new")
        side.ends(sync)

    assert status.of(Job.objects.get(), database_now()).state == SyncState.SYNCED


def test_a_csv_that_is_written_anew_with_the_same_beginning_goes_on(side):
    rows = b"epoch,loss\n"
    with side.agent() as sync:
        for epoch in range(30):
            rows += b"%d,0.5\n" % epoch
            side.path("run_001.csv").write_bytes(rows)
            threading.Event().wait(0.02)
        side.arrives("run_001.csv", rows)
        side.ends(sync)

    assert side.generation("run_001.csv") == 1


EVENTS = "run_001/tb/events.out.tfevents.1709287200.gpu-01.4711.0"
GROW = ["run_001/train.txt", "run_001/job.out", "run_001/job.err", EVENTS]


@contextmanager
def written_all_the_time(path: Path) -> Iterator[None]:
    """By a script that never leaves the file alone for as long as the block lasts."""
    enough = threading.Event()

    def write() -> None:
        with path.open("ab", buffering=0) as file:
            while not enough.wait(0.02):
                file.write(os.urandom(30))

    script = threading.Thread(target=write)
    script.start()
    try:
        yield
    finally:
        enough.set()
        script.join(10)


@pytest.mark.parametrize("name", GROW)
def test_what_is_appended_to_all_the_time_arrives_meanwhile(side, name):
    had = b""
    with side.agent() as sync:
        with written_all_the_time(side.path(name)):
            for _ in range(3):
                seen = had
                wait_for(lambda: len(side.acknowledged(name) or b"") > len(seen), "more came")  # noqa: B023
                had = side.acknowledged(name)
                assert side.path(name).read_bytes().startswith(had)
        side.ends(sync)

    assert side.generation(name) == 1


@pytest.mark.parametrize("name", GROW)
def test_an_agent_that_was_upgraded_goes_on_with_what_it_had_sent_as_a_whole(
    side, monkeypatch, name
):
    content = os.urandom(1000)
    with monkeypatch.context() as before:
        before.setattr(filesync, "kind_of", lambda _name: Whole)
        side.path(name).write_bytes(content)
        with side.agent():
            side.arrives(name, content)
    with side.path(name).open("ab") as file:
        file.write(b"while no agent ran")

    with side.agent() as sync:
        side.arrives(name, content + b"while no agent ran")
        with side.path(name).open("ab") as file:
            file.write(b"and after")
        side.ends(sync)

    assert side.acknowledged(name) == content + b"while no agent ran" + b"and after"
    assert side.generation(name) == 1
    assert not list(Place.of(side.attempt.job, name).path.parent.glob("*.g[0-9]"))


def test_the_vocabulary_of_a_checkpoint_is_confirmed_while_the_run_goes_on(side):
    """Else a next attempt would be given the checkpoint without it."""
    name = "run_001/checkpoint-500/vocab.txt"
    side.path(name).write_bytes(b"the\na\n")
    with side.agent():
        confirmed = SyncFile.objects.results().filter(name=name, complete=True)
        wait_for(confirmed.exists, "it is confirmed")

    assert confirmed.get().sha256 == hashlib.sha256(b"the\na\n").hexdigest()


def test_a_text_that_its_script_writes_anew_is_a_new_generation_and_the_old_one_is_kept(side):
    versions = [b"epoch 1: 0.5\n", b"epoch 2: 0.4\n", b"epoch 3: 0.3, the best\n", b"done\n"]
    with side.agent() as sync:
        for version in versions:
            side.path("run_001/best.txt").write_bytes(version)
            side.arrives("run_001/best.txt", version)
        side.ends(sync)

    place = Place.of(side.attempt.job, "run_001/best.txt").path
    kept = [place.with_name(f"best.txt.g{number}").read_bytes() for number in (1, 2, 3)]
    assert (side.generation("run_001/best.txt"), kept) == (4, versions[:3])


@pytest.mark.parametrize(
    "later", [b"epoch,loss,accuracy\n1,0.5,\n2,0.4,0.9\n", b"epoch,loss\n", b""]
)
def test_a_csv_that_is_widened_or_cut_is_a_new_generation_and_the_old_one_is_kept(side, later):
    first = b"epoch,loss\n1,0.5\n"
    side.path("run_001.csv").write_bytes(first)
    with side.agent() as sync:
        side.arrives("run_001.csv", first)
        side.path("run_001.csv").write_bytes(later)
        side.ends(sync)

    assert side.generation("run_001.csv") == 2
    kept = Place.of(side.attempt.job, "run_001.csv").path.with_name("run_001.csv.g1")
    assert kept.read_bytes() == first


def test_another_line_by_hand_costs_a_generation_and_nothing_else(side):
    side.path("run_001.csv").write_bytes(b"epoch,loss\n")
    with side.agent() as sync:
        side.arrives("run_001.csv", b"epoch,loss\n")
        requests.post(
            f"{side.url}/api/sync/delta/{side.run.uid}/run_001.csv",
            files={"delta": b"by hand\n"},
            auth=("device", TOKEN),
            timeout=10,
        ).raise_for_status()
        with side.path("run_001.csv").open("ab") as csv:
            csv.write(b"1,0.5\n")
        side.ends(sync)

    assert side.generation("run_001.csv") == 2


def test_bytes_that_the_servers_disk_has_lost_are_sent_again(side, caplog):
    content = b"epoch,loss\n1,0.5\n"
    side.path("run_001.csv").write_bytes(content)
    with side.agent() as sync:
        side.arrives("run_001.csv", content)
        with Place.of(side.attempt.job, "run_001.csv").path.open("r+b") as stored:
            stored.truncate(4)
        with side.path("run_001.csv").open("ab") as csv:
            csv.write(b"2,0.4\n")
        side.arrives("run_001.csv", content + b"2,0.4\n")
        side.ends(sync)

    assert side.generation("run_001.csv") == 1


@pytest.mark.parametrize("journal", ["files.sqlite3", "lost.sqlite3"])
def test_an_agent_that_was_started_again_goes_on(side, journal):
    content = b"epoch,loss\n1,0.5\n"
    side.path("run_001.csv").write_bytes(content)
    side.path("run_001.pt").write_bytes(b"weights")
    with side.agent():
        side.arrives("run_001.csv", content)
        side.arrives("run_001.pt", b"weights")
    with side.path("run_001.csv").open("ab") as csv:
        csv.write(b"2,0.4\n")

    with side.agent(journal) as sync:
        side.ends(sync)

    assert side.generation("run_001.csv") == (1 if journal == "files.sqlite3" else 2)


def test_what_an_attempt_that_was_given_up_still_sends_changes_no_result(side, tmp_path):
    side.path("run_001.csv").write_bytes(b"epoch,loss\n1,first\n")
    with side.agent("one") as first:
        side.arrives("run_001.csv", b"epoch,loss\n1,first\n")
        side.attempt.job.requeue()
        side.attempt.refresh_from_db()
        side.attempt.end(Outcome.PREEMPTED, database_now())
        again = make.attempt(Attempt.objects.get().job, side.attempt.device, started=True)
        second = Side(side.url, Run(again), tmp_path / "again" / "digits")
        second.path("run_001.csv").write_bytes(b"epoch,loss\n1,second\n")
        with second.agent("two") as sync:
            second.arrives("run_001.csv", b"epoch,loss\n1,second\n")
            with side.path("run_001.csv").open("ab") as csv:
                csv.write(b"2,late\n")
            first.exited(side.id)
            wait_for(lambda: first.settled(side.id), "the first attempt's files are settled")
            second.ends(sync)

    evidence = Place.of(again.job, "run_001.csv", shelf=1).path
    assert evidence.read_bytes() == b"epoch,loss\n1,first\n2,late\n"
    assert second.acknowledged("run_001.csv") == b"epoch,loss\n1,second\n"


@pytest.mark.parametrize("fault", ["cut", "lost answer"])
def test_a_line_that_is_cut_ten_times_costs_less_than_a_chunk_each(side, monkeypatch, fault):
    monkeypatch.setattr(wire, "MAX_WHOLE_FILE_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(wire, "MAX_UPLOAD_CHUNK_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(Whole, "_chunk_bytes", CHUNK_BYTES)
    sent = []
    blocks = Body.__iter__
    monkeypatch.setattr(Body, "__iter__", lambda body: noted(sent, blocks(body)))
    content = os.urandom(40 * CHUNK_BYTES)
    address = urlsplit(side.url)
    with FaultProxy((address.hostname, address.port)) as proxy:
        monkeypatch.setattr(side, "url", proxy.url)
        side.path("run_001.pt").write_bytes(content)
        with side.agent() as sync:
            for number in range(CUTS):
                wait_for(lambda: received(side) > (2 * number + 1) * CHUNK_BYTES, "it goes on")  # noqa: B023
                if fault == "cut":
                    proxy.reset_after_bytes = 1
                    wait_for(lambda: proxy.reset_after_bytes is None, "the line was cut")
                else:
                    proxy.lose_answers("/api/sync/full", times=1)
                    wait_for(lambda: proxy.lost.total() > number, "the answer was lost")  # noqa: B023
                sync.nudge()
            side.arrives("run_001.pt", content)
            side.ends(sync)

    assert side.generation("run_001.pt") == 1
    assert len(content) <= sum(sent) < len(content) + CUTS * CHUNK_BYTES


def noted(sent: list[int], blocks: Iterator[bytes]) -> Iterator[bytes]:
    for block in blocks:
        sent.append(len(block))
        yield block


def received(side: Side) -> int:
    """Bytes of the upload that is on its way; all of a file that is whole."""
    upload = Upload.objects.first()
    if upload is None:
        return len(side.acknowledged("run_001.pt") or b"")
    return upload.size


def test_an_agent_that_was_killed_in_the_middle_of_a_checkpoint_goes_on(side, monkeypatch):
    monkeypatch.setattr(wire, "MAX_WHOLE_FILE_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(Whole, "_chunk_bytes", CHUNK_BYTES)
    monkeypatch.setattr(wire, "MAX_UPLOAD_CHUNK_BYTES", CHUNK_BYTES)
    content = os.urandom(40 * CHUNK_BYTES)
    side.path("run_001.pt").write_bytes(content)
    with side.agent():
        wait_for(lambda: received(side) > 5 * CHUNK_BYTES, "some of it came")
    had = received(side)
    offsets = []
    receive = chunks.receive
    monkeypatch.setattr(
        chunks,
        "receive",
        lambda target, chunk: offsets.append(chunk.offset) or receive(target, chunk),
    )

    with side.agent() as sync:
        side.ends(sync)

    assert min(offsets, default=len(content)) >= had
    assert side.acknowledged("run_001.pt") == content


def test_files_of_a_run_that_was_deleted_are_settled_and_stay_here(side):
    side.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    side.attempt.job.delete_run(database_now())
    for name in ("run_001.csv", "run_001.pt"):
        side.path(name).write_bytes(b"x")

    with side.agent() as sync:
        sync.exited(side.id)
        wait_for(lambda: sync.settled(side.id), "deleted files are settled")

    assert not SyncFile.objects.exists()
    assert side.path("run_001.csv").exists()


def test_what_is_called_as_temporary_files_are_arrives_after_the_end(side):
    left = {"run_001/left.tmp": b"1", "run_001/.hidden": b"2", "run_001/.hydra/a.yaml": b"3"}
    with side.agent() as sync:
        for name, content in left.items():
            side.path(name).write_bytes(content)
        side.path("run_001/last.png").write_bytes(b"png")
        side.arrives("run_001/last.png", b"png")
        assert not SyncFile.objects.filter(name__in=left).exists()
        side.ends(sync)

    assert {name: side.acknowledged(name) for name in left} == left


SAVES = """\
import os, signal, sys
with open(sys.argv[1], "wb") as file:
    file.write(sys.stdin.buffer.read())
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_checkpoint_whose_saving_was_killed_is_no_result_and_none_to_resume_from(side):
    torch = pytest.importorskip("torch")
    first, second = saved(torch, epoch=1), saved(torch, epoch=2)
    path = side.path("run_001.pt")
    path.write_bytes(first)
    with side.agent() as sync:
        side.arrives("run_001.pt", first)
        half = second[: len(second) // 2]
        killed = subprocess.run([sys.executable, "-c", SAVES, path], input=half, check=False)
        sync.exited(side.id)
        wait_for(lambda: sync.settled(side.id), "all is settled")
        left_out = [asdict(one) for one in sync.left_out(side.id)]
        files = {name: asdict(one) for name, one in sync.reports(side.id).items()}
    side.attempt.end(Outcome.FAILED, database_now(), exit_code=killed.returncode)
    side.attempt.advertise(files, database_now(), left_out)

    assert killed.returncode == -signal.SIGKILL
    assert side.acknowledged("run_001.pt") == first
    assert path.read_bytes() == half
    job = Attempt.objects.get().job
    told = status.of(job, database_now())
    assert told.state == SyncState.SYNCED
    assert told.left_out == [{"name": "run_001.pt", "reason": "torn", "size_bytes": len(half)}]
    [shown] = runfiles.files_of(job, database_now()).left_out
    assert "cut off" in shown.words
    note_files(job)
    assert [file["sha256"] for file in job.resume_point["resume"]["files"]] == [
        hashlib.sha256(first).hexdigest()
    ]


def saved(torch, epoch: int) -> bytes:
    file = io.BytesIO()
    torch.save({"epoch": epoch, "weights": torch.rand(1000)}, file)
    return file.getvalue()


def test_the_next_attempt_is_given_the_newest_whole_checkpoint_and_all_metrics(side, tmp_path):
    with side.agent() as sync:
        for version in (b"first", b"second"):
            side.path("run_001.pt").write_bytes(version)
            side.arrives("run_001.pt", version)
        with side.path("run_001.csv").open("ab") as csv:
            csv.write(b"epoch,loss\n1,0.5\n2,0.4\n")
        side.ends(sync)
    answer = requests.post(
        f"{side.url}/api/sync/checkpoint/{side.run.uid}",
        json={"epoch": 2},
        auth=("device", TOKEN),
        timeout=10,
    )
    assert answer.json()["data"]["applied"] is True
    side.attempt.end(Outcome.HOST_REBOOTED, database_now())
    device = make.device(token=OTHER_TOKEN)
    again = make.attempt(Attempt.objects.get().job, device, accepted=False)
    folder = tmp_path / "again"
    folder.mkdir()

    [reply] = leases.poll([leases.Call(device.pk, make.poll(device))])
    [order] = reply.attempts
    with closing(Transport(side.url, OTHER_TOKEN)) as transport:
        resume.lay_in(transport, order, folder)

    assert order.id == str(again.pk)
    assert (order.resume.checkpoint, order.resume.point) == ("run_001.pt", {"epoch": 2})
    assert hashes(folder) == side.local()
