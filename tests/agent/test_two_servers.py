"""Two lab servers on one host, an agent for each: what one uses the other does not touch."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import host
from tests.agent.conftest import AgentProcess, clear, eventually
from tests.agent.jobs import FOREVER, pids, started, supervisor_and_command
from tests.agent.server import FakeServer, serving

CARDS = ("--simulate-gpus", "2")  # named for the machine: both agents have the same
CARD = f"SIM-{host.machine_id()[:12]}-0"


class Side:
    """One of the two: a server and its agent."""

    def __init__(self, folder: Path, locks: Path, server: FakeServer) -> None:
        folder.mkdir()
        self.server = server
        self.agent = AgentProcess(folder, server, *CARDS, "--lock-dir", str(locks))

    def sees(self) -> dict[str, Any]:
        """The first card, by the last heartbeat."""
        beats = self.server.asked("/api/devices/heartbeat")
        return (
            next((card for card in beats[-1]["gpus"] if card["uuid"] == CARD), {}) if beats else {}
        )

    def sees_it_used_elsewhere(self) -> bool:
        return bool(self.sees().get("used_elsewhere"))

    def sees_it_free(self) -> bool:
        return self.sees().get("used_elsewhere") is False

    def run(self) -> str:
        """Have a job started on the first card. Return its attempt's id."""
        order = self.server.order(command=FOREVER, gpus=[CARD])
        started(self.server, order)
        return str(order["id"])


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[tuple[Side, Side]]:
    (tmp_path / "locks").mkdir()
    with serving() as first, serving() as second:
        second.server_id = "server-2"
        made = (
            Side(tmp_path / "one", tmp_path / "locks", first),
            Side(tmp_path / "other", tmp_path / "locks", second),
        )
        for side in made:
            side.agent.start()
        yield made
        for side in made:
            if side.agent.process is not None and side.agent.process.poll() is None:
                side.agent.kill()
            for folder in side.agent.state.glob("*/attempts/*"):
                clear(folder.name)


def test_the_other_sees_the_card_used_and_gets_it_when_it_is_free(
    sides: tuple[Side, Side],
) -> None:
    one, other = sides
    first = one.run()
    eventually(other.sees_it_used_elsewhere)
    assert one.sees_it_free()

    one.server.stop(first)

    one.server.wait_event(first, "released")
    eventually(other.sees_it_free)
    second = other.run()
    assert pids(first) == []
    assert pids(second) != []
    eventually(one.sees_it_used_elsewhere)


def test_a_job_that_comes_too_late_is_sent_back_without_a_process(
    sides: tuple[Side, Side],
) -> None:
    one, other = sides
    eventually(other.sees_it_free)
    one.run()

    late = other.server.order(command=FOREVER, gpus=[CARD])

    failed = other.server.wait_event(late["id"], "start_failed")
    assert failed["used_elsewhere"] == [CARD]
    assert pids(late["id"]) == []
    other.server.wait_event(late["id"], "released")


def test_the_card_is_the_jobs_while_its_agent_is_dead_and_after_it_came_back(
    sides: tuple[Side, Side],
) -> None:
    one, other = sides
    job = one.run()
    one.agent.kill()
    beats = len(other.server.asked("/api/devices/heartbeat"))
    other.server.wait(lambda: len(other.server.asked("/api/devices/heartbeat")) > beats + 3)
    assert other.sees_it_used_elsewhere()
    late = other.server.order(command=FOREVER, gpus=[CARD])
    other.server.wait_event(late["id"], "start_failed")

    one.agent.start()

    eventually(one.sees_it_free)
    assert other.sees_it_used_elsewhere()
    one.server.stop(job)
    one.server.wait_event(job, "released")
    eventually(other.sees_it_free)


def test_a_job_whose_agent_and_supervisor_are_dead_keeps_the_card_until_it_is_cleared_away(
    sides: tuple[Side, Side],
) -> None:
    one, other = sides
    job = one.run()
    supervisor, command = supervisor_and_command(job)
    one.agent.kill()
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{supervisor}").exists())
    late = other.server.order(command=FOREVER, gpus=[CARD])
    assert other.server.wait_event(late["id"], "start_failed")["used_elsewhere"] == [CARD]
    assert Path(f"/proc/{command}").exists()

    one.agent.start()

    assert one.server.wait_event(job, "exited")["cause"] == "supervisor_lost"
    assert pids(job) == []
    eventually(other.sees_it_free)
    other.run()


def test_an_agent_that_dies_at_rest_locks_nothing(sides: tuple[Side, Side]) -> None:
    one, other = sides
    job = one.run()
    one.server.stop(job)
    one.server.wait_event(job, "released")
    one.agent.kill()

    eventually(other.sees_it_free)
    assert other.run()
