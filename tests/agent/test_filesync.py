"""Whole files step by step, and all files of a run with real threads over HTTP."""

import hashlib
import json
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from agent import shim, wire
from agent.files import filesync, syncstate
from agent.files.filejournal import FileJournal, Sent
from agent.files.filesync import FileSync
from agent.files.globs import Globs
from agent.files.growing import Growing
from agent.files.keeping import Keeping
from agent.files.masks import Masks
from agent.files.outputs import Outputs
from agent.files.regular import Mark
from agent.files.runfiles import RunFiles
from agent.files.syncstate import SyncState
from agent.files.upload import Whole
from agent.store import Store
from agent.transport import Transport
from tests.agent.conftest import closed, eventually
from tests.agent.filehost import UID, Direct, FileHost, Refusal, ServedHost, serving_files
from tests.agent.torn import stored_zip

NAME = "run_001.pt"
CHECKPOINT = stored_zip(b"weights" * 100)


# --- whole files, step by step ---


class Bench:
    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.host = FileHost()
        self.transport = Direct(self.host)
        self.run = RunFiles("a1", UID, "digits", "run_001", 1, folder)
        self.journal = FileJournal(Store(Path(":memory:")))
        self.restart()

    def restart(self) -> None:
        self.file = Whole(self.run, NAME, self.journal, threading.Event())

    def replace(self, content: bytes) -> None:
        part = self.path.with_name("new")
        part.write_bytes(content)
        part.rename(self.path)

    def look(self) -> None:
        self.file.see(Mark.of(self.path.stat()), shim.now())

    def sync(self) -> None:
        self.look()
        self.file.work(self.transport)

    @property
    def held(self) -> tuple[int, bytes]:
        held = self.host.results[NAME]
        return held.generation, held.content


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_checkpoint_is_sent_when_it_held_still_for_a_second(bench: Bench) -> None:
    bench.replace(b"weights")
    bench.look()
    now = shim.now()

    assert not bench.file.is_due(now + 0.5)
    assert bench.file.is_due(now + 1.5)


def test_one_that_is_replaced_more_often_than_that_is_sent_all_the_same(bench: Bench) -> None:
    now = shim.now()
    for number in range(10):
        bench.replace(b"version %d" % number)
        bench.file.see(Mark.of(bench.path.stat()), now + number / 2)

    assert not bench.file.is_due(now + 2.9)
    assert bench.file.is_due(now + 4.5)
    bench.file.work(bench.transport)
    assert bench.held == (1, b"version 9")


def test_one_that_is_written_in_place_all_the_time_is_never_whole(bench: Bench) -> None:
    now = shim.now()
    for number in range(10):
        bench.path.write_bytes(b"half" * number)
        bench.file.see(Mark.of(bench.path.stat()), now + number / 2)

    assert not bench.file.is_due(now + 4.5)


def test_each_version_has_a_number_of_its_own(bench: Bench) -> None:
    for number, content in enumerate((b"first", b"second", b"third"), 1):
        bench.replace(content)
        bench.sync()

        assert bench.held == (number, content)
    assert bench.file.settled


def test_a_version_that_is_late_does_not_take_the_place_of_a_newer_one(bench: Bench) -> None:
    bench.replace(b"old")
    bench.transport.fates.append("late")
    bench.sync()
    bench.replace(b"new")
    bench.sync()

    bench.transport.deliver_late()

    assert bench.held == (2, b"new")


def test_a_lost_answer_is_asked_for_again_under_the_same_number(bench: Bench) -> None:
    bench.replace(b"weights")
    bench.transport.fates.append("lost_answer")
    bench.sync()
    bench.restart()
    bench.sync()

    assert bench.held == (1, b"weights")
    assert bench.file.settled


def test_what_was_only_touched_is_not_sent_again(bench: Bench) -> None:
    bench.replace(b"weights")
    bench.sync()
    bench.replace(b"weights")
    bench.sync()

    assert bench.host.bodies == [(NAME, 7)]
    assert bench.file.settled


def test_a_file_that_moves_while_it_is_read_is_left_for_later(bench: Bench) -> None:
    bench.replace(b"half of the wei")
    bench.look()
    bench.replace(b"half of the weights")
    bench.file.work(bench.transport)

    assert bench.host.bodies == []


def test_a_lost_journal_takes_a_number_above_the_server_s(bench: Bench) -> None:
    for content in (b"first", b"second"):
        bench.replace(content)
        bench.sync()
    bench.journal.forget("a1")
    bench.run.on_server = None
    bench.restart()
    bench.sync()

    assert bench.held == (3, b"second")


def test_an_empty_file_is_sent(bench: Bench) -> None:
    bench.path.with_name("run_001.yaml").touch()
    file = Whole(bench.run, "run_001.yaml", bench.journal, threading.Event())
    file.see(Mark.of(bench.path.with_name("run_001.yaml").stat()), shim.now())
    file.work(bench.transport)

    assert bench.host.results["run_001.yaml"].content == b""


def test_a_checkpoint_that_is_cut_off_leaves_the_one_before_at_the_server(bench: Bench) -> None:
    bench.path.write_bytes(CHECKPOINT)
    bench.sync()
    bench.path.write_bytes(CHECKPOINT[:-1])
    bench.sync()

    assert bench.held == (1, CHECKPOINT)
    assert not bench.file.settled
    assert not bench.file.is_due(shim.now() + 3600)
    assert bench.file.state == "syncing"
    assert bench.file.why == (
        "it is still being written: only the beginning of a checkpoint is there"
    )


def test_one_that_was_being_written_is_sent_once_it_is_whole(bench: Bench) -> None:
    bench.path.write_bytes(CHECKPOINT[:-1])
    bench.sync()
    with bench.path.open("ab") as file:
        file.write(CHECKPOINT[-1:])
    bench.look()

    assert bench.file.is_due(shim.now() + 1.5)
    bench.file.work(bench.transport)
    assert bench.held == (1, CHECKPOINT)


def test_since_when_one_is_behind_is_told_of_the_version_that_is_not_there(bench: Bench) -> None:
    began = shim.now() - 100
    bench.replace(b"first")
    bench.file.see(Mark.of(bench.path.stat()), began)
    assert bench.file.backlog.since_seconds == began
    bench.file.work(bench.transport)
    bench.replace(b"second")
    bench.look()

    assert bench.file.backlog.since_seconds > began + 99


def test_a_refusal_of_the_version_before_is_not_why_a_torn_one_waits(bench: Bench) -> None:
    bench.replace(b"weights")
    bench.host.refuse = Refusal(404, "not_found")
    bench.sync()
    bench.replace(CHECKPOINT[:-1])
    bench.sync()

    assert bench.file.state == "syncing"
    assert "beginning" in str(bench.file.why)


def test_a_stale_number_is_overtaken(bench: Bench) -> None:
    bench.replace(b"first")
    bench.sync()
    bench.host.results[NAME].generation = 9
    bench.replace(b"second")
    bench.sync()
    bench.sync()

    assert bench.held == (10, b"second")


def test_a_file_over_the_server_s_limit_waits_an_hour(bench: Bench) -> None:
    bench.replace(b"weights")
    bench.host.refuse = Refusal(413, "too_large", limit=3)
    bench.sync()

    assert bench.file.state == "refused"
    assert not bench.file.settled
    assert not bench.file.is_due(shim.now() + 3000)


def test_a_refused_file_is_offered_again_when_the_server_was_away(bench: Bench) -> None:
    bench.replace(b"weights")
    bench.host.refuse = Refusal(404, "not_found")
    bench.sync()
    bench.host.refuse = None

    bench.file.nudge()
    bench.sync()

    assert bench.file.state == "synced"


@pytest.mark.parametrize("other", ["run_001/ckpt", "run_001/ckpt/a/b"])
def test_what_takes_the_place_of_a_folder_or_a_file_is_newer_than_that(
    bench: Bench, other: str
) -> None:
    """Or a late request of what was there before would be as new."""
    name, path = "run_001/ckpt/a", bench.path.parent / "run_001" / "ckpt" / "a"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    bench.journal.put("a1", other, Sent(generation=7))
    for no_other in ("run_001/ckpt/ab", "run_001/ckpt/a0", "run_001/ckpt2", "run_001/ck"):
        bench.journal.put("a1", no_other, Sent(generation=90))
    file = Whole(bench.run, name, bench.journal, threading.Event())
    file.see(Mark.of(path.stat()), 0.0)

    file.work(bench.transport)

    assert bench.host.results[name].generation == 8


# --- all of it ---


@pytest.fixture
def served() -> Iterator[ServedHost]:
    with serving_files(FileHost()) as made:
        yield made


class Lab:
    """A FileSync with its threads, and one run."""

    def __init__(self, root: Path, served: ServedHost) -> None:
        self.root = root
        self.run_dir = root / "digits"
        self.run_dir.mkdir()
        self.served = served
        self.host = served.host
        self.policy = wire.SyncPolicy()
        self.outputs: Outputs | None = None
        self.keeping: Keeping | None = None
        self.interval_seconds = 0.02
        self.secret_names: list[str] = []
        self.told_of: list[dict[str, wire.FileReport]] = []  # reports at that moment
        self.start()

    def start(self) -> None:
        self.stop = threading.Event()
        store = Store(self.root / "files.sqlite3")
        self.sync = FileSync(
            store,
            lambda: Transport(self.served.url, "t"),
            self.root,
            self.interval_seconds,
            keeping=self.keeping,
            news=lambda: self.told_of.append(self.sync.reports("a1")),
        )
        self.sync.watch(
            *("a1", UID, "digits", "run_001", 1, self.run_dir),
            policy=self.policy,
            outputs=self.outputs,
            secret_names=self.secret_names,
        )
        self.thread = threading.Thread(target=self.sync.run, args=(self.stop,))
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        self.sync.nudge()
        self.thread.join(5)
        assert not self.thread.is_alive()

    def write(self, name: str, content: bytes) -> None:
        path = self.run_dir / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def append(self, name: str, content: bytes) -> None:
        with open(self.run_dir / name, "ab") as file:
            file.write(content)

    def has(self, name: str, content: bytes) -> Callable[[], bool]:
        def has() -> bool:
            held = self.host.results.get(name)
            return held is not None and held.content == content

        return has

    def settle(self) -> None:
        self.sync.exited("a1")
        eventually(lambda: self.sync.settled("a1"))

    def states(self) -> set[object]:
        try:
            return {file["state"] for file in self.told().values()}
        except (OSError, ValueError, KeyError, TypeError):
            return set()

    def told(self) -> dict[str, dict[str, object]]:
        state = json.loads((self.root / ".sync_state.json").read_text())
        return state["runs"][f"{UID}-1"]["files"]


@pytest.fixture
def lab(tmp_path: Path, served: ServedHost) -> Iterator[Lab]:
    made = Lab(tmp_path, served)
    yield made
    if made.thread.is_alive():
        made.end()


def test_a_run_arrives_whole(lab: Lab) -> None:
    files = {
        "run_001.csv": b"epoch,loss\n0,1\n",
        "run_001.log": b"",
        "run_001.yaml": b"run: 1\n",
        "run_001.pt": bytes(100_000),
        "run_001/images/1.png": b"\x89PNG",
    }
    (lab.run_dir / "run_001" / "images").mkdir(parents=True)
    for name, content in files.items():
        lab.write(name, content)
    assert not lab.sync.settled("a1")

    lab.settle()

    assert {name: held.content for name, held in lab.host.results.items()} == files
    assert all(held.complete for held in lab.host.results.values())
    assert lab.sync.reports("a1")["run_001.csv"].acked_bytes == 15


def test_rows_arrive_while_the_run_goes_on_and_the_line_fails(lab: Lab) -> None:
    expected = b""
    for number in range(12):
        lab.served.fates.append(("ok", "lost_answer", "lost_request", "cut")[number % 4])
        expected += b"%d,0.5\n" % number
        lab.append("run_001.csv", b"%d,0.5\n" % number)
        lab.sync.nudge()
        eventually(lambda: bool(lab.host.bodies))
    eventually(lab.has("run_001.csv", expected))
    lab.settle()

    assert lab.host.results["run_001.csv"].generation == 1


def test_a_large_file_is_in_the_way_of_neither_a_row_nor_the_metadata(
    lab: Lab, served: ServedHost
) -> None:
    served.open_gate.clear()
    lab.write("run_001.pt", bytes(9_000_000))
    eventually(lambda: lab.sync.reports("a1"))
    lab.append("run_001.csv", b"0,1\n")
    eventually(lab.has("run_001.csv", b"0,1\n"), 3)
    assert "run_001.pt" not in lab.host.results

    served.open_gate.set()
    lab.settle()

    assert len(lab.host.results["run_001.pt"].content) == 9_000_000


def test_a_progress_bar_is_sent_no_more_often_than_it_is_looked_at(lab: Lab) -> None:
    lab.end()
    lab.interval_seconds = 0.2
    lab.start()
    sent = 0
    really = lab.host.delta

    def count(name: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        nonlocal sent
        sent += 1
        return really(name, headers, body)

    lab.host.delta = count  # type: ignore[method-assign]
    began = shim.now()
    for _ in range(100):
        lab.append("run_001.log", b"\r 1%")
        threading.Event().wait(0.01)

    assert sent <= 1 + (shim.now() - began) / lab.interval_seconds
    eventually(lab.has("run_001.log", b"\r 1%" * 100))


def test_days_without_a_server_cost_nothing_but_time(lab: Lab) -> None:
    lab.host.refuse = Refusal(503, "down")
    lab.append("run_001.csv", b"0,1\n")
    eventually(lambda: lab.sync.reports("a1").get("run_001.csv"))
    lab.append("run_001.csv", b"1,1\n")
    lab.sync.exited("a1")
    eventually(lambda: lab.states() == {"waiting"})
    assert not lab.sync.settled("a1")

    lab.host.refuse = None
    lab.sync.nudge()
    eventually(lambda: lab.sync.settled("a1"))

    assert lab.host.results["run_001.csv"].content == b"0,1\n1,1\n"
    eventually(lambda: lab.told()["run_001.csv"]["state"] == "synced")


def test_files_that_were_put_aside_are_sent_from_there(lab: Lab) -> None:
    lab.host.refuse = Refusal(503, "down")
    lab.append("run_001.csv", b"0,1\n")
    eventually(lambda: lab.sync.reports("a1"))
    lab.sync.exited("a1")
    aside = lab.run_dir / ".old" / "a"
    aside.mkdir(parents=True)
    (lab.run_dir / "run_001.csv").rename(aside / "run_001.csv")
    threading.Event().wait(0.1)  # looks in between find nothing
    assert not lab.sync.settled("a1")

    lab.sync.moved("a1", aside)
    lab.host.refuse = None
    lab.sync.nudge()
    eventually(lambda: lab.sync.settled("a1"))

    assert lab.host.results["run_001.csv"].content == b"0,1\n"


def test_another_agent_process_goes_on(lab: Lab) -> None:
    lab.append("run_001.csv", b"0,1\n")
    eventually(lab.has("run_001.csv", b"0,1\n"))
    lab.end()
    lab.append("run_001.csv", b"1,1\n")
    lab.start()

    lab.settle()

    assert lab.host.results["run_001.csv"].content == b"0,1\n1,1\n"
    assert lab.host.results["run_001.csv"].generation == 1


def test_a_deleted_run_is_settled_and_its_files_stay(lab: Lab) -> None:
    lab.host.refuse = Refusal(410, "deleted")
    lab.append("run_001.csv", b"0,1\n")

    lab.settle()

    assert (lab.run_dir / "run_001.csv").exists()


def test_it_is_told_when_all_that_a_run_has_left_was_looked_at_and_when_it_has_arrived(
    lab: Lab,
) -> None:
    lab.write("run_001.csv", b"1,0.5\n")
    eventually(lab.has("run_001.csv", b"1,0.5\n"))
    assert lab.told_of == []
    lab.write("run_001/final.pt", b"weights")

    lab.settle()
    eventually(lambda: len(lab.told_of) == 2)

    seen, arrived = lab.told_of
    assert seen.keys() == arrived.keys() == {"run_001.csv", "run_001/final.pt"}
    assert all(one.acked_bytes == one.size_bytes for one in arrived.values())


def test_an_attempt_that_was_never_watched_is_settled(lab: Lab) -> None:
    lab.sync.exited("a2")
    lab.sync.moved("a2", lab.run_dir)
    lab.sync.leave("a2")

    assert lab.sync.settled("a2")
    assert lab.sync.reports("a2") == {}


def test_what_is_forgotten_is_not_looked_at(lab: Lab) -> None:
    lab.settle()
    lab.sync.leave("a1")
    lab.append("run_001.csv", b"0,1\n")
    threading.Event().wait(0.1)

    assert lab.host.bodies == []
    assert lab.sync.settled("a1")


def test_the_end_of_the_agent_ends_an_upload(lab: Lab, served: ServedHost) -> None:
    served.trickles = True
    lab.write("run_001.pt", bytes(30_000_000))
    lab.sync.exited("a1")
    eventually(lambda: served.trickled)

    lab.end()

    eventually(lambda: "large files" not in {thread.name for thread in threading.enumerate()}, 2)
    assert served.trickled < 30_000_000


def test_a_mistake_of_ours_with_one_file_leaves_the_others_alone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistake(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Whole, "_step", mistake)
    lab.write("run_001.yaml", b"run: 1\n")
    lab.append("run_001.csv", b"0,1\n")
    lab.sync.exited("a1")

    eventually(lab.has("run_001.csv", b"0,1\n"))
    eventually(lambda: "waiting" in lab.states())
    assert not lab.sync.settled("a1")


def test_what_has_arrived_of_a_file_that_grows_is_not_lost_with_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(filesync, "GONE_SECONDS", 0.1)
    lab.append("run_001.csv", b"0,1\n")
    eventually(lab.has("run_001.csv", b"0,1\n"))
    eventually(lambda: lab.sync.reports("a1")["run_001.csv"].acked_bytes == 4)
    (lab.run_dir / "run_001.csv").unlink()
    eventually(lambda: not lab.sync.reports("a1"))
    assert "deleted before" not in caplog.text

    lab.host.refuse = Refusal(503, "busy")
    lab.append("run_001.log", b"Epoch 0\n")
    # Not only as it was made: of an empty file nothing is lost.
    eventually(lambda: [one.size_bytes for one in lab.sync.reports("a1").values()] == [8])
    (lab.run_dir / "run_001.log").unlink()
    eventually(lambda: not lab.sync.reports("a1"))
    assert "run_001.log was deleted before all of it was sent" in caplog.text


def test_the_state_for_people_is_written_once_there_is_room_although_nothing_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncstate, "WRITE_SECONDS", 0.0)
    monkeypatch.setattr(syncstate, "WRITING_SHARE", 1e9)
    state = SyncState(tmp_path)
    state.note(RunFiles("a1", UID, "digits", "run_001", 1, tmp_path), {})
    part = tmp_path / ".sync_state.json.part"
    part.mkdir()  # no room

    assert state.write() is True
    part.rmdir()
    assert state.write() is False
    assert UID in (tmp_path / ".sync_state.json").read_text()
    assert state.write() is False


def test_memory_does_not_grow_with_the_file(lab: Lab, served: ServedHost) -> None:
    served.discards = True
    for name in ("run_001.pt", "run_001.csv"):
        with open(lab.run_dir / name, "wb") as file:
            file.truncate(200_000_000)
    tracemalloc.start()
    lab.sync.exited("a1")
    eventually(lambda: lab.states() == {"refused"}, 60)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 16_000_000


def test_thousands_of_texts_are_in_no_curves_way(lab: Lab) -> None:
    """Labels of images, a file each."""
    lab.end()
    sync, run = lab.sync, RunFiles("a1", UID, "digits", "run_001", 1, lab.run_dir)
    curves = ["run_001.csv", "run_001/tb/events.out.tfevents.1.host.2.0"]
    names = [*(f"run_001/{number}.txt" for number in range(100)), *reversed(curves)]
    files = {name: filesync.kind_of(name)(run, name, sync._journal, lab.stop) for name in names}
    lane = filesync._Lane()
    sync._lanes["growing"] = lane

    for file in files.values():
        sync._put(file)

    assert {one.name for one in (lane.get(), lane.get()) if one} == set(curves)
    assert filesync._first_of_growing(files)[:2] == curves


def test_a_short_file_that_rests_is_not_remembered(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    file = Growing(bench.run, NAME, bench.journal, threading.Event())
    bench.path.write_bytes(b"0 0.5 0.5 1 1\n" * 1000)
    file.see(Mark.of(bench.path.stat()), shim.now())
    file.work(bench.transport)

    assert bench.host.results[NAME].content == bench.path.read_bytes()
    assert file._prefix is None


def test_what_is_confirmed_is_not_remembered(tmp_path: Path) -> None:
    """A run may have thousands of files that grew, and each would hold up to 128 KiB."""
    bench = Bench(tmp_path)
    file = Growing(bench.run, NAME, bench.journal, threading.Event())
    bench.path.write_bytes(b"0 0.5 0.5 1 1\n" * 1000)
    bench.run.exited = True
    file.see(Mark.of(bench.path.stat()), shim.now())
    while file.work(bench.transport):
        pass

    assert file.confirmed
    assert file._prefix is None


def test_a_push_is_heard_where_nothing_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be of a run that was done long ago."""
    monkeypatch.setattr(filesync, "IDLE_SECONDS", 0.02, raising=False)
    looks, stop = threading.Semaphore(0), threading.Event()
    store = Store(tmp_path / "files.sqlite3")
    transport = Transport("http://127.0.0.1:9", "t")
    sync = FileSync(store, lambda: transport, tmp_path, is_pushed=lambda: bool(looks.release()))
    thread = threading.Thread(target=sync.run, args=(stop,))
    thread.start()

    heard = [looks.acquire(timeout=5) for _ in range(3)]
    stop.set()
    sync.nudge()
    thread.join(5)

    assert heard == [True] * 3


def test_a_poll_is_told_of_a_bounded_number_of_files(lab: Lab) -> None:
    for number in range(100):
        lab.write(f"run_001/{number}.txt", b"x")
    lab.write("run_001.yaml", b"run: 1\n")
    eventually(lambda: "run_001.yaml" in lab.sync.reports("a1"))

    assert len(lab.sync.reports("a1")) == 64


@pytest.mark.parametrize(
    "content", ["", "[]", '{"runs": [1]}', '{"runs": {"a": 1, "b": {}, "c": {"ended": 1}}}']
)
def test_what_somebody_wrote_over_the_state_for_people_stops_nothing(
    lab: Lab, content: str
) -> None:
    lab.end()
    (lab.root / ".sync_state.json").write_text(content)
    lab.start()
    lab.append("run_001.csv", b"0,1\n")

    eventually(lambda: lab.states() == {"synced"})
    assert lab.host.results["run_001.csv"].content == b"0,1\n"


def test_a_folder_that_cannot_be_read_now_has_lost_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(run: RunFiles) -> dict[str, Mark]:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(RunFiles, "look", hangs)
        lab.append("run_001.csv", b"0,1\n")
        lab.sync.exited("a1")
        threading.Event().wait(0.1)
        assert not lab.sync.settled("a1")

    lab.sync.nudge()
    eventually(lambda: lab.sync.settled("a1"))

    assert lab.host.results["run_001.csv"].content == b"0,1\n"


def test_a_folder_within_that_cannot_be_read_keeps_nothing_else_from_being_sent(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A container of root's made it; what had been seen in it before is not lost either."""
    monkeypatch.setattr(filesync, "GONE_SECONDS", 0.0)
    lab.write("run_001/mine.txt", b"x")
    eventually(lab.has("run_001/mine.txt", b"x"))

    with monkeypatch.context() as broken:
        broken.setattr(os, "scandir", closed("run_001"))
        lab.append("run_001.csv", b"0,1\n")
        lab.sync.exited("a1")
        eventually(lab.has("run_001.csv", b"0,1\n"))
        eventually(lambda: lab.host.results["run_001.csv"].complete)
        eventually(lambda: "Permission denied" in caplog.text)
        assert set(lab.sync.reports("a1")) == {"run_001.csv", "run_001/mine.txt"}
        assert not lab.sync.settled("a1")
        told = lab.sync.left_out("a1")
        assert [(one.name, one.reason.value) for one in told] == [("run_001", "closed")]

    eventually(lambda: lab.sync.settled("a1"))
    assert lab.sync.left_out("a1") == []


# --- what a job does not wish to have at the server ---


def again(lab: Lab, policy: wire.SyncPolicy) -> None:
    """The same run, with other wishes."""
    lab.end()
    lab.policy = policy
    lab.start()


def aged(lab: Lab, name: str, content: bytes, seconds: float) -> None:
    """Written so long ago."""
    path = lab.run_dir / name
    path.write_bytes(content)
    now = path.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))


def test_of_last_checkpoints_the_newest_is_sent_and_the_others_are_told_of(lab: Lab) -> None:
    lab.end()  # while these are made, which on a busy machine may take a second
    (lab.run_dir / "run_001").mkdir()
    for epoch in range(4):
        aged(lab, f"run_001/epoch={epoch}.ckpt", b"weights", 40 - 10 * epoch)
    lab.write("run_001/hparams.yaml", b"lr: 1")
    lab.policy = wire.SyncPolicy(checkpoints=wire.Checkpoints.LAST)
    lab.start()

    lab.settle()

    assert sorted(lab.host.results) == ["run_001/epoch=3.ckpt", "run_001/hparams.yaml"]
    assert sorted(one.name for one in lab.sync.left_out("a1")) == [
        f"run_001/epoch={epoch}.ckpt" for epoch in range(3)
    ]
    assert not {one.name for one in lab.sync.left_out("a1")} & set(lab.sync.reports("a1"))
    eventually(lambda: "kept here" in str(lab.told()["run_001/epoch=0.ckpt"]["state"]))
    assert (lab.run_dir / "run_001" / "epoch=0.ckpt").exists()


def test_a_file_above_the_limit_is_told_of_and_lets_the_run_settle(lab: Lab) -> None:
    again(lab, wire.SyncPolicy(max_file_bytes=100))
    lab.write("run_001.pt", bytes(101))
    lab.write("run_001.best.pt", bytes(100))
    lab.append("run_001.csv", b"0,1\n" * 100)

    lab.settle()

    assert sorted(lab.host.results) == ["run_001.best.pt", "run_001.csv"]
    assert lab.sync.left_out("a1") == [wire.LeftOut("run_001.pt", wire.WhyLeftOut.TOO_LARGE, 101)]


def test_what_grows_beyond_the_limit_comes_no_further_unless_it_is_a_curve_or_a_log(
    lab: Lab,
) -> None:
    again(lab, wire.SyncPolicy(max_file_bytes=100))
    events, large = "run_001/events.out.tfevents.1.host.2.0", "run_001/large.txt"
    (lab.run_dir / "run_001").mkdir()
    lab.write(large, bytes(101))
    lab.write("run_001/metrics.jsonl", bytes(101))
    lab.append(events, bytes(100))
    eventually(lab.has(events, bytes(100)))
    eventually(lab.has("run_001/metrics.jsonl", bytes(101)))

    lab.append(events, bytes(1))
    eventually(lambda: len(lab.sync.left_out("a1")) == 2)
    lab.append(events, bytes(1))
    lab.settle()

    too_large = wire.WhyLeftOut.TOO_LARGE
    assert sorted(lab.sync.left_out("a1"), key=lambda one: one.name) == [
        wire.LeftOut(events, too_large, 102), wire.LeftOut(large, too_large, 101)
    ]  # fmt: skip
    assert large not in lab.host.results
    assert len(lab.host.results[events].content) <= 102


def test_a_torn_checkpoint_is_told_of_after_the_end_and_the_one_before_is_sent(lab: Lab) -> None:
    lab.end()
    (lab.run_dir / "run_001").mkdir()
    aged(lab, "run_001/epoch=0.ckpt", b"weights", 30)
    aged(lab, "run_001/epoch=1.ckpt", CHECKPOINT, 20)
    aged(lab, "run_001/epoch=2.ckpt", CHECKPOINT[:-9], 10)
    lab.policy = wire.SyncPolicy(checkpoints=wire.Checkpoints.LAST)
    lab.start()

    lab.settle()

    size = len(CHECKPOINT) - 9
    assert list(lab.host.results) == ["run_001/epoch=1.ckpt"]
    assert sorted(lab.sync.left_out("a1"), key=lambda one: one.name) == [
        wire.LeftOut("run_001/epoch=0.ckpt", wire.WhyLeftOut.NOT_WISHED, 7),
        wire.LeftOut("run_001/epoch=2.ckpt", wire.WhyLeftOut.TORN, size),
    ]
    assert "run_001/epoch=2.ckpt" not in lab.sync.reports("a1")
    eventually(lambda: "cut off" in str(lab.told().get("run_001/epoch=2.ckpt")))


def test_while_its_run_goes_on_a_torn_one_waits_and_people_are_told(lab: Lab) -> None:
    lab.write("run_001.pt", CHECKPOINT)
    eventually(lab.has("run_001.pt", CHECKPOINT))
    lab.write("run_001.pt", CHECKPOINT[:-9])

    eventually(lambda: "beginning" in str(lab.told()["run_001.pt"]))
    assert lab.sync.left_out("a1") == []
    lab.settle()
    assert lab.has("run_001.pt", CHECKPOINT)()
    assert lab.sync.left_out("a1") == [
        wire.LeftOut("run_001.pt", wire.WhyLeftOut.TORN, len(CHECKPOINT) - 9)
    ]


def test_a_log_that_cannot_be_masked_is_told_of(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Masks(["hf_Zx81QmVsecret"])
    monkeypatch.setattr(RunFiles, "masks_by", lambda _run, _ask: known)
    lab.secret_names = ["HF_TOKEN"]
    again(lab, wire.SyncPolicy())
    monkeypatch.setattr(Growing, "_lay_stars", refused)
    lab.append("run_001.log", b"with hf_Zx81QmVsecret\n")

    lab.settle()

    assert lab.sync.left_out("a1") == [
        wire.LeftOut("run_001.log", wire.WhyLeftOut.UNMASKED, len(b"with hf_Zx81QmVsecret\n"))
    ]
    assert not [file for file in lab.host.results.values() if file.content]


def refused(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_the_newest_of_several_checkpoints_is_sent_first(lab: Lab, served: ServedHost) -> None:
    served.open_gate.clear()
    lab.write("run_001.pt", bytes(8_500_000))
    eventually(lambda: lab.sync.reports("a1"))
    threading.Event().wait(1.2)  # a worker has it by now, and waits at the gate
    (lab.run_dir / "run_001").mkdir()
    for seconds in (20, 10, 30):
        aged(lab, f"run_001/{seconds}.pt", bytes(8_500_000), seconds)
    lab.sync.exited("a1")
    eventually(lambda: len(lab.sync.reports("a1")) == 4)
    threading.Event().wait(0.1)

    served.open_gate.set()
    eventually(lambda: lab.sync.settled("a1"))

    whole = list(dict.fromkeys(name for name, _length in lab.host.bodies))
    assert whole == ["run_001.pt", "run_001/10.pt", "run_001/20.pt", "run_001/30.pt"]


def outputs(lab: Lab, notes: str) -> Outputs:
    code = lab.root / "code"
    for folder in (code / "runs", lab.root / notes):
        folder.mkdir(parents=True, exist_ok=True)
    made = Outputs(code, Globs(["runs/**"]), Globs(()), lab.root / notes)
    made.note_before()
    return made


def test_outputs_arrive_while_the_run_goes_on_and_after_it(lab: Lab) -> None:
    lab.end()
    lab.outputs = outputs(lab, "one")
    lab.start()
    metrics = lab.root / "code" / "runs" / "metrics.csv"
    metrics.write_bytes(b"0,1\n")
    eventually(lab.has("run_001/runs/metrics.csv", b"0,1\n"))
    with metrics.open("ab") as file:
        file.write(b"1,1\n")

    lab.settle()

    assert lab.host.results["run_001/runs/metrics.csv"].content == b"0,1\n1,1\n"
    assert lab.host.results["run_001/runs/metrics.csv"].complete


def test_two_runs_in_one_working_directory_say_so(lab: Lab) -> None:
    lab.end()
    lab.outputs = outputs(lab, "one")
    lab.start()
    assert lab.sync.left_out("a1") == []
    lab.sync.watch("a2", UID, "digits", "run_002", 1, lab.run_dir, outputs=outputs(lab, "two"))

    shared = wire.LeftOut(str(lab.root / "code"), wire.WhyLeftOut.SHARED)
    eventually(lambda: lab.sync.left_out("a1") == lab.sync.left_out("a2") == [shared])


def test_outputs_that_did_not_arrive_leave_the_working_directory_before_it_goes(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those as well that are no files of the run: too many, or under names of no use."""
    monkeypatch.setattr("agent.files.outputs.MAX_FILES", 3)
    lab.end()
    lab.outputs = outputs(lab, "one")
    lab.start()
    runs, elsewhere = lab.root / "code" / "runs", tmp_path / "elsewhere"
    elsewhere.write_bytes(b"not ours")
    (runs / "-odd").write_bytes(b"odd")
    (runs / "link").symlink_to(elsewhere)
    home = lab.run_dir / "run_001" / "runs"
    home.mkdir(parents=True)
    (home / "-odd").write_bytes(b"of another")
    (runs / "a").write_bytes(b"first")
    eventually(lambda: lab.host.results.keys() >= {"run_001/runs/a"})
    (runs / "b").write_bytes(b"one too many")
    lab.settle()

    lab.sync.bring_home("a1")

    assert {path.name: path.read_bytes() for path in home.iterdir()} == {
        "-odd": b"of another",
        "-odd.output": b"odd",
        "b": b"one too many",
    }
    assert elsewhere.exists()


def test_outputs_of_a_deleted_run_leave_the_working_directory_too(lab: Lab) -> None:
    lab.end()
    lab.outputs = outputs(lab, "one")
    lab.start()
    lab.host.refuse = Refusal(410, "deleted")
    (lab.root / "code" / "runs" / "a").write_bytes(b"first")
    lab.settle()

    lab.sync.bring_home("a1")

    assert (lab.run_dir / "run_001" / "runs" / "a").read_bytes() == b"first"


def test_what_is_settled_is_noted_to_be_kept_for_its_days(lab: Lab) -> None:
    lab.end()
    lab.keeping = Keeping(Store(lab.root / "kept.sqlite3"), days=7)
    lab.start()
    lab.append("run_001.csv", b"0,1\n")
    lab.settle()
    lab.sync.leave("a1")

    lab.keeping.look(8 * 86_400)

    assert not (lab.run_dir / "run_001.csv").exists()


def test_what_the_server_has_lost_is_kept_until_it_has_it_again(lab: Lab) -> None:
    lab.end()
    lab.keeping = Keeping(Store(lab.root / "kept.sqlite3"), days=7)
    lab.start()
    lab.append("run_001.csv", b"0,1\n")
    lab.settle()
    lab.sync.leave("a1")
    lab.host.results.clear()
    lab.host.refuse = Refusal(507, "disk_full")

    lab.sync.watch("a1", UID, "digits", "run_001", 1, lab.run_dir)
    lab.sync.doubt("a1", {"run_001.csv"})
    lab.keeping.look(8 * 86_400)

    assert (lab.run_dir / "run_001.csv").exists()
    lab.host.refuse = None
    lab.settle()
    lab.sync.leave("a1")
    lab.keeping.look(8 * 86_400)
    assert lab.host.results["run_001.csv"].complete
    assert not (lab.run_dir / "run_001.csv").exists()


# --- what is read ---


def counting(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each file is opened from now on."""
    opened: dict[str, int] = {}
    really = RunFiles.open

    def count(run: RunFiles, name: str) -> BinaryIO:
        opened[name] = opened.get(name, 0) + 1
        return really(run, name)

    monkeypatch.setattr(RunFiles, "open", count)
    return opened


def test_while_nothing_changes_nothing_is_opened(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.append("run_001.csv", b"0,1\n")
    lab.write("run_001.pt", b"weights")
    eventually(lambda: len(lab.host.results) == 2)
    eventually(lambda: lab.states() == {"synced"})
    opened = counting(monkeypatch)

    threading.Event().wait(0.5)  # some 20 looks

    assert opened == {}


def test_a_run_of_many_files_is_seldom_looked_at_but_for_its_curves(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often there is news of what was sent."""
    name = "run_001/metrics.csv"
    lab.write(name, b"")
    looks, really = [], RunFiles.look

    def slowly(run: RunFiles) -> dict[str, Mark]:
        looks.append(1)
        threading.Event().wait(0.2)
        return really(run)

    monkeypatch.setattr(RunFiles, "look", slowly)
    lab.sync.nudge()
    eventually(lambda: looks)
    for row in range(1, 11):
        lab.append(name, b"0,1\n")
        eventually(lab.has(name, b"0,1\n" * row))

    assert len(looks) < 4

    lab.settle()  # what somebody wishes is done at once


def test_a_checkpoint_is_read_once_a_version_however_often_the_line_is_cut(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    really = hashlib.sha256

    def hashing(content: bytes = b"") -> object:
        if not content:
            read.append(1)  # a reading of the whole; a chunk is hashed at once
        return really(content)

    bench.replace(b"weights")
    bench.look()
    monkeypatch.setattr("agent.files.upload.hashlib.sha256", hashing)
    for fate in ("lost_request", "lost_answer", "lost_request", "ok"):
        bench.transport.fates.append(fate)
        bench.file.nudge()
        bench.file.work(bench.transport)
    bench.file.work(bench.transport)

    assert bench.file.settled
    assert read == [1]
