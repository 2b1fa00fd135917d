"""`lab-agent restart`: real daemons, renewed beneath their jobs."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from agent import config, presence, several, shim
from agent.presence import Record
from agent.service import managers, options, restart
from tests.agent.conftest import ROOT, AgentProcess
from tests.agent.daemons import note, record, run
from tests.agent.jobs import FOREVER, started
from tests.agent.server import FakeServer

pytestmark = pytest.mark.usefixtures("no_daemon_stays")


def again(
    agent: AgentProcess, server: FakeServer, folder: Path, *more: str, **environ: str
) -> "subprocess.CompletedProcess[str]":
    """As somebody types it who knows nothing of how the agent was started."""
    command = [sys.executable, "-m", "agent", "restart", "--server", server.url]
    return subprocess.run(
        [*command, "--state-dir", str(agent.state), *more],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_it_starts_as_it_was_started_and_its_jobs_never_notice(
    agent: AgentProcess, server: FakeServer, tmp_path: Path
) -> None:
    order = server.order(command=FOREVER)
    run(agent, "--daemon", "--sync-interval", "0.7")
    job, old = started(server, order), record(agent)
    (tmp_path / "elsewhere").mkdir()

    done = again(agent, server, tmp_path / "elsewhere", "--sync-interval", "0.7", "--gpus", "1")

    new = record(agent)
    assert done.returncode == 0, done.stderr
    assert f"jobs go on: digits/{order['run_name']} (process {job})" in done.stdout
    assert "--gpus 1 is not heard" in done.stderr
    assert not old.alive
    assert new.alive
    assert new.arguments == old.arguments
    assert new.arguments is not None
    assert new.arguments[-2:] == ["--sync-interval", "0.7"]
    assert os.readlink(f"/proc/{new.pid}/cwd") == new.directory == str(agent.folder)
    assert new.workdir == str(agent.work)
    assert shim.stat(job)
    assert len(server.types(order["id"])) == 1  # it is still the one that was started


def test_one_that_was_killed_is_started_and_a_code_that_is_refused_keeps_nobody_down(
    agent: AgentProcess, server: FakeServer
) -> None:
    run(agent, "--daemon")
    os.kill(record(agent).pid, 9)
    server.refuse["/api/devices/enroll"] = (403, {"code": "enrollment_refused", "detail": "used"})

    done = again(agent, server, agent.folder, LAB_ENROLL_CODE="another")

    assert done.returncode == 2
    assert "refused to enroll" in done.stderr
    assert record(agent).alive
    assert "another" not in note(agent).read_text()


def test_where_none_ever_ran_it_says_how_to_bring_one_in(
    agent: AgentProcess, server: FakeServer
) -> None:
    done = again(agent, server, agent.folder)

    assert done.returncode == 2
    assert "make a code on the site" in done.stderr


def noted(tmp_path: Path, **fields: object) -> Record:
    made = presence.of_this_process("http://lab", "gpu1", tmp_path)
    return Record(**{**asdict(made), "arguments": [], "directory": "/code", **fields})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"program": None}, "did not note how it was started"),
        ({"program": ["/old"], "unit": "lab-agent.service"}, "which starts /old: renew that one"),
        ({"program": ["/old"], "unit": "runlab"}, "is kept by runlab: renew that one"),
        ({"program": ["/old"], "service": "lab-agent.service"}, "starts /old: renew that one"),
    ],
)
def test_what_it_cannot_start_again_it_does_not_stop(
    tmp_path: Path, fields: dict[str, object], words: str
) -> None:
    with pytest.raises(restart.ConfigError, match=words):
        restart._check(noted(tmp_path, **fields))


def test_a_service_of_this_program_is_stopped_and_started_by_its_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(restart, "_run", lambda command, *_: ran.append(command) or 0)
    monkeypatch.setattr(restart.background, "end", lambda *_: ran.append(["stop"]))
    program = options.program()[0]
    service = noted(tmp_path, program=program, unit="lab-agent.service", unit_of_system=False)

    restart._check(service)
    assert restart._again(tmp_path, service, None) == 0

    assert ran == [["stop"], ["systemctl", "--user", "start", "lab-agent.service"]]
    assert managers.start_command("com.lab.agent", True)[:2] == ("launchctl", "bootstrap")


def test_a_service_of_several_servers_is_restarted_once_and_by_its_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(restart, "_run", lambda command, *_: ran.append(command) or 0)
    monkeypatch.setattr(restart.background, "end", lambda *_: ran.append(["stop"]))
    monkeypatch.setenv(presence.SERVICE, "user:lab-agent.service")
    both = [(tmp_path, noted(tmp_path, program=options.program()[0])) for _ in range(2)]
    monkeypatch.setattr(restart.status, "named", lambda chosen: both)

    assert restart.restart(config.parse(["restart", "--server", "http://lab"])) == 0

    assert ran == [["systemctl", "--user", "restart", "lab-agent.service"]]


def test_several_agents_know_the_service_that_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = ("lab-agent.service", False)
    monkeypatch.setattr(presence, "unit_of_this_process", lambda: unit)
    kept = several._service()
    monkeypatch.setattr(presence, "unit_of_this_process", lambda: (None, True))

    assert kept == {"LAB_AGENT_SERVICE": "user:lab-agent.service"}
    assert several._service() == {}


def test_a_service_that_starts_the_same_file_by_another_python_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyz = str(tmp_path / "agent.pyz")
    monkeypatch.setattr(options, "program", lambda: (["/opt/conda/bin/python3", pyz], {}))

    other = noted(tmp_path, program=["/usr/bin/python3", pyz], unit="lab-agent.service")
    assert restart._check(other) is None  # nothing is wrong with that


def test_an_agent_that_is_a_file_is_started_again_from_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agent.pyz").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["agent.pyz", "--daemon"])

    assert options.program() == ([sys.executable, str(tmp_path / "agent.pyz")], {})


def test_the_note_names_no_code(agent: AgentProcess) -> None:
    run(agent, "--daemon", "--enroll-code", "a-code", code=None)

    said = json.loads(note(agent).read_text())
    assert "a-code" not in note(agent).read_text()
    assert said["program"] == [sys.executable, "-m", "agent"]
    assert said["version"]
