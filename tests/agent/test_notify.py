"""What the agent tells systemd, and the note that --status reads."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import presence
from agent.presence import Presence, of_this_process, unit_of_this_process
from agent.service.notify import FINE, Listener, Notifier
from tests.agent.conftest import AgentProcess
from tests.agent.server import FakeServer


@pytest.fixture
def manager() -> Iterator[Listener]:
    with Listener() as listener:
        yield listener


def next_words(manager: Listener, seconds: float = 10.0) -> dict[str, str]:
    manager.heard = {}
    manager.listen(seconds)
    return manager.heard


def test_systemd_hears_each_turn_of_the_heartbeat_whether_or_not_the_server_answers(
    agent: AgentProcess,
    server: FakeServer,
    manager: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent.start()
    server.wait(lambda: server.asked("/api/devices/heartbeat"))
    agent.kill()
    server.refuse = {"/api/": (503, {"code": "busy"})}
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)

    agent.start()

    assert next_words(manager) == {"READY": "1"}
    first = next_words(manager)
    assert first["WATCHDOG"] == "1"
    assert "answers 503" in first["STATUS"]
    assert next_words(manager) == {"WATCHDOG": "1"}
    server.refuse = {}
    words = next_words(manager)
    while "STATUS" not in words:
        assert words == {"WATCHDOG": "1"}
        words = next_words(manager)
    assert words["STATUS"] == FINE
    agent.stop()
    while "STOPPING" not in words:
        words = next_words(manager)
    assert "jobs here go on" in words["STATUS"]


def test_a_job_does_not_speak_to_systemd_in_the_agents_name(
    agent: AgentProcess,
    server: FakeServer,
    manager: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    order = server.order(command=["env"])

    agent.start()
    server.wait_event(order["id"], "exited")

    said = (agent.run_dir() / f"{order['run_name']}.log").read_text()
    assert "LAB_ATTEMPT_ID" in said
    assert "NOTIFY" not in said
    assert "WATCHDOG" not in said


def test_nobody_listening_hinders_nothing(tmp_path: Path) -> None:
    for address in (str(tmp_path / "gone"), "@lab-agent-test-nobody"):
        assert Notifier({"NOTIFY_SOCKET": address}).ready() is None
    assert Notifier({}).ready() is None


def test_a_manager_that_does_not_read_holds_nobody_up(manager: Listener) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.address})

    for _ in range(1000):  # far more than the socket holds
        notifier.turned("a reason\nin two lines")

    assert next_words(manager) == {"WATCHDOG": "1", "STATUS": "a reason in two lines"}


# --- agent.json ---


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [1000.0]
    monkeypatch.setattr(presence.shim, "now", lambda: seconds[0])
    return seconds


def test_the_note_is_written_at_news_and_else_seldom(tmp_path: Path, clock: list[float]) -> None:
    kept = Presence(tmp_path, of_this_process("http://lab", "gpu1", tmp_path))
    kept.begin()
    path = tmp_path / presence.FILE
    written = []
    for trouble in (None, None, "away", "away", None):
        clock[0] += 1
        path.unlink()
        kept.turned(trouble)
        written.append(path.exists())
        path.touch()

    assert written == [True, False, True, False, True]
    clock[0] += presence.AGAIN_SECONDS
    kept.turned(None)
    found = presence.read(tmp_path)
    assert found is not None
    assert (found.answered_seconds, found.trouble) == (clock[0], None)
    assert found.alive
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_costs_the_note_only(tmp_path: Path) -> None:
    kept = Presence(tmp_path / "gone", of_this_process("http://lab", "gpu1", tmp_path))

    kept.begin()
    kept.turned(None)
    kept.end()

    assert presence.read(tmp_path / "gone") is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": 1', '"x"'])
def test_a_damaged_note_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / presence.FILE).write_text(content)

    assert presence.read(tmp_path) is None


def test_a_note_of_a_newer_agent_is_read(tmp_path: Path) -> None:
    Presence(tmp_path, of_this_process("http://lab", "gpu1", tmp_path)).begin()
    path = tmp_path / presence.FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))

    found = presence.read(tmp_path)

    assert found is not None
    assert found.host_id == "gpu1"


def test_a_link_to_a_state_is_not_a_second_agent(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    Presence(tmp_path / "one", of_this_process("http://lab", "gpu1", tmp_path)).begin()
    (tmp_path / "two").symlink_to("one")

    assert len(list(presence.records(tmp_path))) == 1
    assert list(presence.records(tmp_path / "none")) == []


SYSTEM = "0::/system.slice/lab-agent.service\n"
USER = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/lab-agent.service\n"
OWN = str(os.getpid())


@pytest.mark.parametrize(
    ("environ", "cgroup", "unit"),
    [
        ({"SYSTEMD_EXEC_PID": OWN}, SYSTEM, ("lab-agent.service", True)),
        ({"NOTIFY_SOCKET": "/run/systemd/notify"}, SYSTEM, ("lab-agent.service", True)),
        ({"NOTIFY_SOCKET": "/run/user/1000/systemd/notify"}, USER, ("lab-agent.service", False)),
        # Started by hand, from what a service started: nobody starts it again.
        ({"SYSTEMD_EXEC_PID": "1"}, "0::/system.slice/cron.service\n", (None, True)),
        ({"NOTIFY_SOCKET": "/tmp/lab-agent-x/notify"}, SYSTEM, (None, True)),
        ({"XPC_SERVICE_NAME": "0"}, "", (None, True)),
        ({"LAB_KEPT_BY": "runlab", "SYSTEMD_EXEC_PID": OWN}, SYSTEM, ("runlab", True)),
        ({"XPC_SERVICE_NAME": "com.lab.agent"}, "", ("com.lab.agent", os.getuid() == 0)),
    ],
)
def test_the_service_that_keeps_it_is_known(
    tmp_path: Path, environ: dict[str, str], cgroup: str, unit: tuple[str | None, bool]
) -> None:
    (tmp_path / "cgroup").write_text(cgroup)

    assert unit_of_this_process(environ, tmp_path / "cgroup") == unit
