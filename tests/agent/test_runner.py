"""The life of one attempt: what it asks of its surroundings, in which order."""

import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import wire
from agent.errors import Rejected, ServerUnreachable, Unauthorized
from agent.gpus import GPUWatch
from agent.journal import Journal
from agent.runner import Run, Surroundings
from agent.store import Store
from agent.wire import AttemptOrder, GPUProcess, GPUReading
from agent.workspace import Workspace
from tests.agent.conftest import clear, eventually
from tests.agent.server import make_order

GIB = 1024**3


class Files:
    """Keeps what it is told; settles an attempt when the test says so."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.is_settled = True

    def watch(self, attempt_id: str, *run: Any) -> None:
        self.told.append(("watch", attempt_id))

    def moved(self, attempt_id: str, run_dir: Path) -> None:
        self.told.append(("moved", attempt_id))

    def exited(self, attempt_id: str) -> None:
        self.told.append(("exited", attempt_id))

    def reports(self, attempt_id: str) -> dict[str, wire.FileReport]:
        return {}

    def settled(self, attempt_id: str) -> bool:
        return self.is_settled

    def forget(self, attempt_id: str) -> None:
        self.told.append(("forget", attempt_id))

    def nudge(self) -> None: ...

    def run(self, stop: threading.Event) -> None: ...


class House:
    """Surroundings for one attempt, and a card whose reading the test writes."""

    def __init__(self, folder: Path) -> None:
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
            attempts_dir=folder / "attempts",
            source=folder,
            fetch_config=self.fetch_config,
            lay_in=lambda order, run_dir: None,
            changed=lambda: None,
            stop=self.stop,
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


def test_memory_that_does_not_come_back_is_said_with_the_pid(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agent.runner.RELEASE_WARN_SECONDS", 0.0)
    order = house.accept(gpus=["GPU-0"])
    ours = GPUProcess(4242, "kim", 8 * GIB, order.id)
    house.card = replace(house.card, processes=[ours])

    thread = living(house, order)

    eventually(lambda: "4242" in caplog.text)
    house.stop.set()
    thread.join(10)
    assert "released" not in house.said(order)


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
    assert [what for what, _ in house.files.told] == ["watch", "exited", "forget"]


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
