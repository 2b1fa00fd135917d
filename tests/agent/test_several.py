"""`lab-agent --server A --server B`: an agent a server, none of them touched by the others."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agent import several
from agent.__main__ import main
from agent.backoff import FLOOR_SECONDS, Backoff
from agent.errors import ConfigError
from tests.agent.conftest import ROOT, clear, eventually
from tests.agent.jobs import FOREVER, started
from tests.agent.server import FakeServer, serving


class Both:
    """A process for two servers, at which this host is enrolled."""

    def __init__(self, folder: Path, servers: list[FakeServer]) -> None:
        self.folder, self.servers = folder, servers
        self.log = folder / "agent.log"
        self.options = ["--host-id", "gpu1", "--state-dir", str(folder / "state")]
        self.options += ["--workdir", str(folder / "work"), "--source", str(folder)]
        self.options += ["--lock-dir", str(folder), "--heartbeat-interval", "0.2"]
        self.process: subprocess.Popen[bytes] | None = None

    def enroll(self, server: FakeServer) -> None:
        command = ["enroll", "--server", server.url, "--enroll-code", "a-code", *self.options]
        assert main(command) == 0

    def start(self) -> "Both":
        command = [sys.executable, "-m", "agent", *self.options]
        for server in self.servers:
            command += ["--server", server.url]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def end(self, signum: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(signum)
        return self.process.wait(20)

    def agents(self) -> list[psutil.Process]:
        """In the order of the servers."""
        children = psutil.Process(self.pid).children()
        return sorted(children, key=lambda child: child.cmdline()[-1] != self.servers[0].url)

    def said(self) -> str:
        return self.log.read_text()


def instances(server: FakeServer) -> list[str]:
    """Of the agents that were heard, each once, in their order."""
    beats = server.asked("/api/devices/heartbeat")
    return list(dict.fromkeys(beat["instance_id"] for beat in beats))


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Both]:
    monkeypatch.setattr("agent.__main__._begin_log", lambda verbose: None)
    with serving() as first, serving() as second:
        second.server_id = "server-2"
        made = Both(tmp_path, [first, second])
        yield made
        if made.process is not None and made.process.poll() is None:
            made.end(signal.SIGTERM)
        for folder in (tmp_path / "state").glob("*/attempts/*"):
            clear(folder.name)


@pytest.fixture
def running(both: Both) -> Both:
    for server in both.servers:
        both.enroll(server)
    both.start()
    for server in both.servers:
        server.wait(lambda server=server: server.asked("/api/agent/poll"))
    return both


def test_each_server_has_an_agent_with_state_workspace_and_a_name_in_the_log(
    running: Both,
) -> None:
    assert len(list((running.folder / "state").iterdir())) == 2
    first, second = sorted(path.name for path in (running.folder / "work").iterdir())
    assert first == "logs_127.0.0.1"
    assert second.startswith("logs_127.0.0.1_")
    running.end(signal.SIGTERM)
    for server in running.servers:
        name = server.url.removeprefix("http://")
        lines = [line for line in running.said().splitlines() if line.startswith(f"[{name}] ")]
        assert any("SIGTERM: stopping; jobs here go on" in line for line in lines)


def test_asked_to_stop_it_stops_all_of_them_in_order(running: Both) -> None:
    assert running.end(signal.SIGTERM) == 0

    for server in running.servers:
        assert len(server.asked("/api/devices/goodbye")) == 1


def test_an_agent_that_is_killed_is_started_again_and_the_other_never_notices(
    running: Both,
) -> None:
    one, other = running.servers
    order = one.order(command=FOREVER)
    job = started(one, order)

    running.agents()[0].kill()

    one.wait(lambda: len(instances(one)) == 2, 20)
    assert len(instances(other)) == 1
    assert psutil.pid_exists(job)
    polls = len(one.asked("/api/agent/poll"))
    one.stop(order["id"])
    assert one.wait_event(order["id"], "exited")["cause"] == "stopped"
    assert len(one.asked("/api/agent/poll")) > polls


def test_an_agent_that_was_asked_to_stop_stays_so_and_with_the_last_one_all_ends(
    running: Both,
) -> None:
    one, other = running.servers
    first, second = running.agents()
    first.terminate()
    one.wait(lambda: one.asked("/api/devices/goodbye"))
    beats = len(other.asked("/api/devices/heartbeat"))
    other.wait(lambda: len(other.asked("/api/devices/heartbeat")) > beats + 10)
    assert running.agents() == [second]

    second.terminate()

    assert running.process is not None
    assert running.process.wait(20) == 0


def test_when_it_is_killed_its_agents_stop_in_order(running: Both) -> None:
    agents = running.agents()

    running.end(signal.SIGKILL)

    eventually(lambda: not any(agent.is_running() for agent in agents), 20)
    for server in running.servers:
        assert len(server.asked("/api/devices/goodbye")) == 1


def test_one_that_cannot_start_is_tried_again_while_the_other_works(both: Both) -> None:
    one, other = both.servers
    both.enroll(one)
    both.start()
    one.wait(lambda: one.asked("/api/agent/poll"))
    eventually(lambda: f"This host is not enrolled at {other.url}" in both.said())

    both.enroll(other)

    other.wait(lambda: other.asked("/api/agent/poll"), 30)
    assert len(instances(one)) == 1


def test_it_ends_when_none_of_them_can_start(both: Both) -> None:
    both.start()

    assert both.process is not None
    assert both.process.wait(60) == several.CANNOT_START
    for server in both.servers:
        assert f"This host is not enrolled at {server.url}" in both.said()


def test_one_server_is_left_to_this_process() -> None:
    assert several.commands(["--server", "http://a", "--verbose"]) == [
        ["--server", "http://a", "--verbose"]
    ]
    assert several.commands(["--version"]) == [["--version"]]


def test_a_command_line_for_each_server_keeps_all_else() -> None:
    given = ["--server", "a:8000", "--host-id", "gpu1", "--url=https://b", "--gpus", "0"]

    assert several.commands(given) == [
        ["--host-id", "gpu1", "--gpus", "0", "--server", "a:8000"],
        ["--host-id", "gpu1", "--gpus", "0", "--server", "https://b"],
    ]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--server", "a:8000"], "names the same server twice"),
        (["--server", "b:8000", "--enroll-code", "C"], "--enroll-code .* belongs to one server"),
        (["--server", "b:8000", "--ca-sha256", "0" * 64], "--ca-sha256 belongs to one server"),
        (["--server", "b:8000", "--accept-new-server"], "--accept-new-server belongs to one"),
    ],
)
def test_what_is_meant_for_one_server_is_refused_for_several(more: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        several.commands(["--server", "http://a:8000", *more])


def test_a_code_in_the_environment_belongs_to_one_server_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAB_ENROLL_CODE", "C")

    assert main(["--server", "http://a", "--server", "http://b"]) == several.CANNOT_START

    assert "lab-agent enroll --server http://a" in capsys.readouterr().err


def test_enroll_does_one_after_the_other(both: Both, capsys: pytest.CaptureFixture[str]) -> None:
    for server in both.servers:
        both.enroll(server)

    servers = [word for server in both.servers for word in ("--server", server.url)]
    assert main(["enroll", *servers, *both.options]) == 0

    said = capsys.readouterr().out
    assert all(f"gpu1 is enrolled at {server.url}" in said for server in both.servers)


def test_in_the_background_each_server_has_a_daemon_of_its_own(both: Both) -> None:
    for server in both.servers:
        both.enroll(server)
    servers = [word for server in both.servers for word in ("--server", server.url)]

    def agent(action: str) -> int:
        command = [sys.executable, "-m", "agent", action, *servers, *both.options]
        with open(both.log, "ab") as log:
            done = subprocess.run(
                command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
        return done.returncode

    try:
        assert agent("--daemon") == 0, both.said()
        for server in both.servers:
            assert len(instances(server)) == 1
    finally:
        assert agent("--stop") == 0
    for server in both.servers:
        assert len(server.asked("/api/devices/goodbye")) == 1


class Ended:
    """A process that has just ended with a failure."""

    returncode = 1

    def poll(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("ran_seconds", "pause_seconds"),
    [(several.STEADY_SECONDS, FLOOR_SECONDS), (several.STEADY_SECONDS - 1, 8 * FLOOR_SECONDS)],
)
def test_the_pauses_before_a_start_grow_unless_it_ran_steadily(
    ran_seconds: float, pause_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = several.Kept(["--server", "http://a"])
    kept._backoff = Backoff(ceiling_seconds=several.AGAIN_SECONDS, draw=lambda _low, high: high)
    for _ in range(3):
        kept._backoff.next_seconds()  # it has failed thrice at once
    monkeypatch.setattr(several.shim, "now", lambda: kept._changed_seconds + ran_seconds)
    monkeypatch.setattr(kept, "_process", Ended())

    kept.look()

    assert kept.pause_seconds == pytest.approx(pause_seconds)
