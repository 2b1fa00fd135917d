"""The life of one attempt: what it asks of its surroundings, in which order."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import shim, wire
from agent.attempts import Attempts
from agent.code.cache import CodeCache
from agent.code.laying import CodeLaying
from agent.errors import Rejected, ServerUnreachable, Unauthorized
from agent.gpulock import GPULocks
from agent.gpus import GPUWatch
from agent.journal import Journal
from agent.lacks import Lacks
from agent.reconcile import Plan
from agent.runner import Run
from agent.store import Store
from agent.surroundings import Surroundings
from agent.transport import Transport
from agent.wire import AttemptOrder, GPUProcess, GPUReading
from agent.workspace import Workspace
from tests.agent.conftest import clear, eventually
from tests.agent.server import make_order

GIB = 1024**3


class Files:
    """Keeps what it is told; settles an attempt when the test says so."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.wishes: dict[str, Any] = {}
        self.is_settled = True

    def watch(self, attempt_id: str, *run: Any, **wishes: Any) -> None:
        self.told.append(("watch", attempt_id))
        self.wishes = wishes

    def moved(self, attempt_id: str, run_dir: Path) -> None:
        self.told.append(("moved", attempt_id))

    def exited(self, attempt_id: str) -> None:
        self.told.append(("exited", attempt_id))

    def left_out(self, attempt_id: str) -> list[wire.LeftOut]:
        return []

    def reports(self, attempt_id: str) -> dict[str, wire.FileReport]:
        return {}

    def settled(self, attempt_id: str) -> bool:
        return self.is_settled

    def doubt(self, attempt_id: str, names: set[str] | None = None) -> None:
        self.told.append(("doubt", attempt_id))

    def bring_home(self, attempt_id: str) -> None:
        self.told.append(("bring home", attempt_id))

    def leave(self, attempt_id: str) -> None:
        self.told.append(("leave", attempt_id))

    def forget(self, attempt_id: str) -> None:
        self.told.append(("forget", attempt_id))

    def nudge(self) -> None: ...

    def run(self, stop: threading.Event) -> None: ...


class House:
    """Surroundings for one attempt, and a card whose reading the test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.card = GPUReading("GPU-0", 0, "H100", memory_used_bytes=GIB)
        self.files = Files()
        self.store = Store(folder / "journal.sqlite3")
        self.journal = Journal(self.store)
        self.stop = threading.Event()
        self.watch = GPUWatch(lambda: [self.card], interval_seconds=0.05)
        self.watching = threading.Thread(target=self.watch.run, args=(self.stop,))
        self.watching.start()
        self.config: Any = b""
        self.around = Surroundings(
            journal=self.journal,
            workspace=Workspace(folder / "logs_lab", self.journal),
            files=self.files,
            gpus=self.watch,
            locks=GPULocks(folder),
            attempts_dir=folder / "attempts",
            source=folder,
            fetch_config=self.fetch_config,
            lay_in=lambda order, run_dir: None,
            code=CodeLaying(
                lambda: Transport("http://127.0.0.1:9", None),
                CodeCache(folder / "code"),
                folder / "attempts",
                lambda run_dir: nullcontext(),
                lambda path, user: None,
            ),
            kept=lambda path, user: None,
            changed=lambda: None,
            stop=self.stop,
            lacks=Lacks(self.store),
            driver=lambda: ("550.54", "12.4"),
        )

    def fetch_config(self, attempt_id: str) -> bytes:
        if isinstance(self.config, list):
            item = self.config.pop(0)
            if isinstance(item, Exception):
                raise item
            return bytes(item)
        return bytes(self.config)

    def accept(self, **fields: Any) -> AttemptOrder:
        order = wire.decode(AttemptOrder, make_order(**fields))
        self.journal.accept(order)
        (self.around.attempts_dir / order.id).mkdir(parents=True)
        return order

    def said(self, order: AttemptOrder) -> list[str]:
        with self.store.transaction() as db:
            rows = db.execute(
                "SELECT type FROM events WHERE attempt_id = ? ORDER BY seq", (order.id,)
            )
            return [row["type"] for row in rows]

    def acknowledge(self) -> None:
        for outgoing in self.journal.outgoing():
            self.journal.settle(outgoing)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.stop.set()
    made.watch.nudge()
    made.watching.join()
    for folder in made.around.attempts_dir.glob("*"):
        clear(folder.name)
    made.store.close()


def living(house: House, order: AttemptOrder) -> threading.Thread:
    thread = threading.Thread(target=Run(house.around, order).live)
    thread.start()
    return thread


def test_a_card_is_released_only_when_its_memory_is_back(house: House) -> None:
    order = house.accept(gpus=["GPU-0"])
    eventually(lambda: house.watch.memory_used(["GPU-0"]))
    ours = GPUProcess(4242, "kim", 8 * GIB, order.id)

    def hold() -> None:
        house.card = replace(house.card, memory_used_bytes=9 * GIB, processes=[ours])

    house.around.files.exited = lambda attempt_id: hold()  # type: ignore[method-assign]
    thread = living(house, order)
    eventually(lambda: house.said(order) == ["started", "exited"])
    house.stop.wait(0.2)
    assert house.said(order) == ["started", "exited"]

    house.card = replace(house.card, memory_used_bytes=9 * GIB, processes=[])
    house.stop.wait(0.2)
    assert house.said(order) == ["started", "exited"]
    house.card = replace(house.card, memory_used_bytes=GIB, processes=[])

    eventually(lambda: house.said(order) == ["started", "exited", "released"])
    [released] = [o for o in house.journal.outgoing() if o.attempt_id == order.id][-1:]
    house.acknowledge()
    house.acknowledge()
    [released] = house.journal.outgoing()
    assert released.event.gpu_uuids == ["GPU-0"]
    house.acknowledge()
    thread.join(10)


def test_what_lay_in_the_working_directory_before_the_start_is_no_output(house: House) -> None:
    logs = house.folder / "lightning_logs"
    logs.mkdir()
    (logs / "old.csv").write_text("of an earlier run")
    order = house.accept(
        command=["sh", "-c", "echo x > lightning_logs/new.csv"],
        outputs=["lightning_logs/**"],
        ignore=["*.tmp"],
        sync={"checkpoints": "last", "max_file_bytes": 7},
    )

    thread = living(house, order)
    eventually(lambda: "exited" in house.said(order))

    outputs = house.files.wishes["outputs"]
    assert list(outputs.look(exited=True)) == ["lightning_logs/new.csv"]
    assert house.files.wishes["ignore"] == ["*.tmp"]
    assert house.files.wishes["policy"] == wire.SyncPolicy(wire.Checkpoints.LAST, 7)
    house.acknowledge()
    house.acknowledge()
    house.acknowledge()
    thread.join(10)


def test_an_output_of_an_attempt_that_is_done_is_found_again_and_no_other(house: House) -> None:
    """Its folder with the notes of what was its own is gone by then."""
    command = ["sh", "-c", "mkdir runs; echo x > runs/a; echo x > runs/b"]
    order = house.accept(command=command, outputs=["runs/**"])
    thread = living(house, order)
    eventually(lambda: "exited" in house.said(order))
    for _ in range(3):
        house.acknowledge()
    thread.join(10)
    [done] = house.journal.done()
    assert not (house.around.attempts_dir / order.id).exists()
    house.files.is_settled = False

    Attempts(house.around).offer_again(done, {f"{order.run_name}/runs/a"})

    assert list(house.files.wishes["outputs"].look(exited=True)) == ["runs/a"]


def test_a_poll_has_room_whatever_names_files_have(house: House) -> None:
    orders = [house.accept() for _ in range(40)]
    long = {f"run_001/{'가' * 500}{number}": wire.FileReport(1, 1, 0) for number in range(64)}
    house.files.reports = lambda attempt_id: long  # type: ignore[method-assign]

    reports = Attempts(house.around).reports()

    assert {report.id for report in reports} == {order.id for order in orders}
    assert len(wire.dumps(wire.Poll("i1", 1, attempts=reports))) < wire.MAX_POLL_BYTES


def test_a_poll_says_whether_files_are_to_come(house: House) -> None:
    order = house.accept()

    def to_come() -> bool:
        [report] = Attempts(house.around).reports()
        return report.files_to_come

    assert to_come()
    house.journal.exited(order.id, exit_code=0)
    assert not to_come()
    house.files.is_settled = False
    assert to_come()


def test_memory_that_does_not_come_back_is_said_with_the_pid(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wire, "RELEASE_SECONDS", 0.0)
    order = house.accept(gpus=["GPU-0"])
    ours = GPUProcess(4242, "kim", 8 * GIB, order.id)
    house.card = replace(house.card, processes=[ours])

    thread = living(house, order)

    eventually(lambda: "4242" in caplog.text)
    [report] = Attempts(house.around).reports()
    assert [(one.uuid, one.processes) for one in report.held_gpus] == [("GPU-0", [ours])]
    house.stop.set()
    thread.join(10)
    assert "released" not in house.said(order)


def test_after_a_reboot_nothing_is_held_whatever_the_cards_say(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = house.accept(gpus=["GPU-0"])
    house.journal.starting(order.id, "an-earlier-boot", {}, {"GPU-0": 0})
    house.journal.exited(order.id, cause=wire.ExitCause.HOST_REBOOTED)
    house.card = replace(house.card, memory_used_bytes=9 * GIB)

    thread = living(house, order)

    eventually(lambda: "released" in house.said(order))
    house.stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_an_attempt_leaves_when_its_events_and_files_are_settled(house: House) -> None:
    house.files.is_settled = False
    order = house.accept()
    thread = living(house, order)
    eventually(lambda: len(house.said(order)) == 3)
    for _ in range(3):
        house.acknowledge()
    assert house.journal.find(order.id) is not None

    house.files.is_settled = True

    thread.join(10)
    assert house.journal.find(order.id) is None
    assert not (house.around.attempts_dir / order.id).exists()
    assert [what for what, _ in house.files.told] == ["watch", "exited", "leave"]


def test_files_are_watched_also_when_the_start_could_not_be_noted_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that nobody watches count as settled, and would never be sent."""
    order = house.accept()
    run = Run(house.around, order)
    with monkeypatch.context() as patch:
        patch.setattr(house.journal, "running", _disk_full)
        with pytest.raises(sqlite3.OperationalError):
            run.live()

    thread = threading.Thread(target=run.live)
    thread.start()

    eventually(lambda: len(house.said(order)) == 3)
    house.stop.set()
    thread.join(10)
    assert ("watch", order.id) in house.files.told


def test_jobs_that_have_filled_the_journals_disk_can_be_stopped(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [house.accept(command=["sh", "-c", "exec sleep 100"]) for _ in range(2)]
    attempts = Attempts(house.around)
    attempts.carry_out(Plan(starts=orders))
    eventually(lambda: all("started" in house.said(order) for order in orders))
    monkeypatch.setattr(house.journal, "wish_stop", _disk_full)

    attempts.carry_out(Plan(stops={order.id: "cancelled" for order in orders}))

    eventually(lambda: all("exited" in house.said(order) for order in orders))
    assert all(house.around.supervision(one.id).ended().cause == "stopped" for one in orders)


def test_a_host_without_a_thread_to_spare_starts_the_job_a_little_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that passes, as the daemon takes it; any other would be the end of the agent."""

    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    order, attempts = house.accept(), Attempts(house.around)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        with pytest.raises(OSError, match="thread"):
            attempts.carry_out(Plan(starts=[order]))

    attempts.carry_out(Plan(starts=[order]))

    eventually(lambda: "exited" in house.said(order))


def test_a_lease_that_cannot_be_noted_keeps_no_answer_from_being_carried_out(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    order = house.accept(on_device_lost="requeue")
    (house.around.attempts_dir / order.id / "fence").mkdir()
    (house.around.attempts_dir / order.id / "fence.tmp").mkdir()
    reply = wire.PollReply("server-1", "r", [], False, 1.0, [order])

    Attempts(house.around).renew(reply, shim.now())

    assert "cannot be renewed" in caplog.text


def _disk_full(*_: Any) -> None:
    raise sqlite3.OperationalError("database or disk is full")


def test_a_config_is_asked_for_until_the_server_answers(house: House) -> None:
    unknown = Unauthorized(401, "not_authenticated", {})
    house.config = [ServerUnreachable("down"), unknown, b"lr: 1\n"]
    digest = "d4f1cfb1e9f2a5e6e8fd0ee4a19bdc05a3fb71c1f1ff1d6e5d0c7d8b31ab7b8c"
    order = house.accept(config_sha256=digest)

    thread = living(house, order)

    eventually(lambda: "start_failed" in house.said(order))  # the digest is another one
    assert house.config == []
    house.stop.set()
    thread.join(10)


def test_a_config_that_the_server_refuses_is_a_start_that_failed(house: House) -> None:
    house.config = [Rejected(404, "not_found", {"detail": "no such config"})]
    order = house.accept(config_sha256="0" * 64)

    thread = living(house, order)

    eventually(lambda: "start_failed" in house.said(order))
    assert "no such config" in house.journal.outgoing()[0].event.message
    house.stop.set()
    thread.join(10)


def test_a_stop_wished_while_the_server_is_away_prevents_the_start(house: House) -> None:
    house.config = [ServerUnreachable("down") for _ in range(1000)]
    order = house.accept(config_sha256="0" * 64)
    thread = living(house, order)

    house.journal.wish_stop(order.id, "cancelled")

    eventually(lambda: "exited" in house.said(order))
    assert house.journal.outgoing()[0].event.cause is wire.ExitCause.STOPPED
    house.stop.set()
    thread.join(10)


def test_an_agent_that_ends_before_the_start_leaves_the_attempt_as_accepted(
    house: House,
) -> None:
    house.config = [ServerUnreachable("down") for _ in range(1000)]
    order = house.accept(config_sha256="0" * 64)
    thread = living(house, order)

    house.stop.set()
    thread.join(10)

    found = house.journal.find(order.id)
    assert found is not None
    assert found.state is wire.AttemptState.ACCEPTED
    assert house.said(order) == []


# --- cards that several servers of one host share ---


def can_be_had(house: House) -> bool:
    """Whether another server of this host would get the card now."""
    return not GPULocks(house.folder).look([house.card])[0].used_elsewhere


def shim_order(house: House, order: AttemptOrder) -> "shim.Order":
    return {
        "folder": str(house.around.attempts_dir / order.id),
        "executable": "/bin/sleep",
        "arguments": ["sleep", "1000"],
        "directory": "/",
        "environment": {"LAB_ATTEMPT_ID": order.id},
        "log": str(house.folder / "job.log"),
        "time_limit_seconds": None,
        "grace_seconds": 1.0,
        "fence_seconds": None,
        "cgroup": None,
        "user": None,
    }


def test_a_job_whose_card_another_server_has_goes_back_and_never_starts(house: House) -> None:
    other = GPULocks(house.folder)
    other.take("theirs", ["GPU-0"]).close()
    order = house.accept(gpus=["GPU-0"])

    thread = living(house, order)

    eventually(lambda: house.said(order) == ["start_failed", "released"])
    event = house.journal.outgoing()[0].event
    assert event.used_elsewhere == ["GPU-0"]
    assert "another agent on this host" in event.message
    house.stop.set()
    thread.join(10)
    late = house.around.supervision(order.id)
    late.start(shim_order(house, order))
    assert late.wait_for(10)
    assert late.running() is None
    other.let_go("theirs")
    assert can_be_had(house)


def test_a_card_is_no_other_servers_until_its_memory_is_back(house: House) -> None:
    order = house.accept(gpus=["GPU-0"])
    eventually(lambda: house.watch.memory_used(["GPU-0"]))
    ours = GPUProcess(4242, "kim", 8 * GIB, order.id)
    house.card = replace(house.card, processes=[ours])
    thread = living(house, order)
    eventually(lambda: house.said(order) == ["started", "exited"])
    house.stop.wait(0.2)
    assert not can_be_had(house)

    house.card = replace(house.card, processes=[])

    eventually(lambda: "released" in house.said(order))
    eventually(lambda: can_be_had(house))
    house.stop.set()
    thread.join(10)


def test_an_agent_that_finds_an_ended_job_keeps_its_card_until_the_memory_is_back(
    house: House,
) -> None:
    order = house.accept(gpus=["GPU-0"])
    house.journal.starting(order.id, shim.boot_id(), {}, {"GPU-0": GIB})
    house.journal.exited(order.id, ended_at=shim.wall_clock())
    ours = GPUProcess(4242, "kim", 8 * GIB, order.id)
    house.card = replace(house.card, processes=[ours])

    thread = living(house, order)

    eventually(lambda: not can_be_had(house))
    house.card = replace(house.card, processes=[])
    eventually(lambda: can_be_had(house))
    assert house.said(order) == ["exited", "released"]
    house.stop.set()
    thread.join(10)

    again = living(house, order)  # it waits for its files now; the card is anybody's
    again.join(10)
    assert can_be_had(house)


def test_a_supervisor_that_an_earlier_agent_was_starting_is_not_taken_for_another_server(
    house: House,
) -> None:
    """That agent was killed before it could look for the supervisor, and it was not yet born."""
    order = house.accept(gpus=["GPU-0"])
    killed = GPULocks(house.folder)
    taken = killed.take(order.id, ["GPU-0"])
    earlier = house.around.supervision(order.id)
    earlier.start(shim_order(house, order), taken)
    taken.close()
    killed.let_go(order.id)

    thread = living(house, order)

    eventually(lambda: house.said(order) == ["started"])
    assert not can_be_had(house)
    clear(order.id)
    earlier.wait()
    eventually(lambda: house.said(order) == ["started", "exited", "released"])
    eventually(lambda: can_be_had(house))
    house.stop.set()
    thread.join(10)
