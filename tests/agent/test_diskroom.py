"""An agent that starts while the disk of its state is full: a real one, of a few megabytes."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent import diskroom
from agent.errors import ConfigError
from tests.agent.conftest import AgentProcess, eventually
from tests.agent.daemons import run
from tests.agent.jobs import started
from tests.agent.server import FakeServer

ONE = ["sh", "-c", "while [ ! -e go ]; do sleep 0.05; done; exit 4"]


@pytest.fixture
def disk(agent: AgentProcess) -> Iterator[Path]:
    """On which the agent's state lies."""
    agent.state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(agent.state)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root mounts a disk")
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let us mount a disk")
    yield agent.state
    subprocess.run(["umount", "--lazy", str(agent.state)], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 4096) == 4096:
            pass
    return ballast


def test_an_agent_starts_by_itself_when_there_is_room_again(
    disk: Path, agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=ONE)
    agent.start()
    started(server, order)
    agent.kill()
    ballast = fill(disk)
    beats = len(server.asked("/api/devices/heartbeat"))

    agent.start()
    eventually(lambda: "is full: free some space there" in agent.said())
    assert agent.process is not None
    assert agent.process.poll() is None
    assert len(server.asked("/api/devices/heartbeat")) == beats
    (agent.folder / "go").touch()
    ballast.unlink()

    assert server.wait_event(order["id"], "exited")["exit_code"] == 4
    assert "there is room on the disk again" in agent.said()
    assert "Traceback" not in agent.said()


def test_a_daemon_waits_in_the_background_as_cron_starts_it(
    disk: Path, agent: AgentProcess, server: FakeServer, no_daemon_stays: None
) -> None:
    run(agent, "--daemon")
    run(agent, "--stop", code=None)
    ballast = fill(disk)
    beats = len(server.asked("/api/devices/heartbeat"))

    done = run(agent, "--daemon")

    assert done.returncode == 0, done.stderr
    assert "is full: free some space there" in done.stdout
    assert len(server.asked("/api/devices/heartbeat")) == beats
    ballast.unlink()
    server.wait(lambda: len(server.asked("/api/devices/heartbeat")) > beats)


def test_a_folder_that_may_not_be_looked_into_is_for_whoever_comes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_args: object, **_more: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refused)

    assert not diskroom.is_full(tmp_path / "work")


@pytest.mark.parametrize("action", ["--daemon", "enroll"])
def test_whoever_starts_one_by_hand_is_told_at_once(
    disk: Path, agent: AgentProcess, action: str
) -> None:
    fill(disk)

    done = run(agent, action)

    assert done.returncode == 2
    assert "is full: free some space there" in done.stderr or "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_not_there_yet_is_judged_by_what_it_will_lie_in(tmp_path: Path) -> None:
    assert not diskroom.is_full(tmp_path / "not" / "yet")


def test_a_full_disk_is_named(disk: Path) -> None:
    fill(disk)

    with pytest.raises(ConfigError) as refused:
        diskroom.check(disk / "gpu1")

    assert str(disk / "gpu1") in str(refused.value)
