"""`--daemon`, `--status`, `--stop`: real processes, and a server that answers or does not."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from agent import host, presence, shim
from tests.agent.conftest import ROOT, AgentProcess, eventually
from tests.agent.daemons import asked, note, record, run
from tests.agent.jobs import FOREVER, started
from tests.agent.server import FakeServer, serving

pytestmark = pytest.mark.usefixtures("no_daemon_stays")


def test_a_daemon_runs_when_the_command_returns_and_has_a_session_of_its_own(
    agent: AgentProcess, server: FakeServer
) -> None:
    done = run(agent, "--daemon")

    assert done.returncode == 0
    assert "started, process" in done.stdout
    assert "the server answers heartbeats" in done.stdout
    assert server.asked("/api/devices/heartbeat")
    pid = record(agent).pid
    assert os.getsid(pid) == pid
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert fields[4] == "0"  # no terminal, so nobody's logout is its end
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    for number in (1, 2):
        assert os.readlink(f"/proc/{pid}/fd/{number}") == str(agent.work / "logs" / "agent.err")
    assert b"a-code" not in Path(f"/proc/{pid}/environ").read_bytes()
    complaints = (agent.work / "logs" / "agent.err").read_text().splitlines()
    assert [line for line in complaints if "jobs run as root" not in line] == []  # ours is root's


def test_status_tells_how_it_fares_and_stop_leaves_its_jobs(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=FOREVER)
    run(agent, "--daemon")
    job = started(server, order)

    status = asked(agent, "--status")
    stopped = asked(agent, "--stop")
    after = asked(agent, "--status")

    pid = record(agent).pid
    assert status.returncode == 0
    assert f"gpu1 at {server.url}: running, process {pid}, since 2" in status.stdout
    assert "answered a heartbeat" in status.stdout
    assert f"digits/{order['run_name']} (process {job})" in status.stdout
    assert str(agent.work / "logs" / "agent.log") in status.stdout
    assert stopped.returncode == 0
    assert f"stopped (process {pid})" in stopped.stdout
    assert f"jobs go on: digits/{order['run_name']}" in stopped.stdout
    assert server.asked("/api/devices/goodbye")
    assert not record(agent).alive
    assert shim.stat(job)
    assert after.returncode == 3
    assert "not running (stopped at 2" in after.stdout
    assert "they go on" in after.stdout


def test_a_second_start_names_the_one_that_runs(agent: AgentProcess, server: FakeServer) -> None:
    run(agent, "--daemon")

    again = run(agent, "--daemon")

    assert again.returncode == 2
    assert f"process {record(agent).pid}" in again.stderr
    assert "lab-agent --stop" in again.stderr
    assert record(agent).alive


def test_a_wrong_code_is_said_where_it_is_typed_and_nothing_stays(
    agent: AgentProcess, server: FakeServer
) -> None:
    refusal = {"code": "code_used", "detail": "This code was used by gpu2."}
    server.refuse = {"/api/devices/enroll": (409, refusal)}

    done = run(agent, "--daemon")

    assert done.returncode == 2
    assert "used by gpu2" in done.stderr
    assert asked(agent, "--status").returncode == 3


def test_what_ends_the_agent_before_it_runs_is_said_and_is_the_exit_code(
    agent: AgentProcess, server: FakeServer
) -> None:
    """The workspace is another agent's: that is found only once the agent puts itself together."""
    agent.run_dir().parent.mkdir(parents=True)
    mine = host.machine_id()
    mark = {"server_id": server.server_id, "host_id": "gpu9", "machine_id": mine}
    (agent.run_dir().parent / ".lab-agent.json").write_text(json.dumps(mark))

    done = run(agent, "--daemon")

    assert done.returncode == 2
    assert "gpu9" in done.stderr
    assert "--workdir" in done.stderr
    assert "it did not start" in done.stderr
    assert "gpu9" in (agent.work / "logs" / "agent.err").read_text()


def test_a_server_that_is_away_is_waited_for(agent: AgentProcess, server: FakeServer) -> None:
    run(agent, "enroll")
    server.refuse = {"/api/": (503, {"code": "busy"})}

    done = run(agent, "--daemon", code=None)
    status = asked(agent, "--status")
    server.refuse = {}

    assert done.returncode == 0
    assert "answers 503" in done.stdout
    assert "It goes on trying" in done.stdout
    assert status.returncode == 0
    assert "answers 503" in status.stdout
    eventually(lambda: "answered a heartbeat" in asked(agent, "--status").stdout)


def test_an_agent_that_was_killed_is_told_from_one_that_was_stopped(
    agent: AgentProcess, server: FakeServer
) -> None:
    run(agent, "--daemon")
    os.kill(record(agent).pid, signal.SIGKILL)
    eventually(lambda: not record(agent).alive)

    status = asked(agent, "--status")
    again = run(agent, "--daemon", code=None)

    assert status.returncode == 3
    assert "without a word" in status.stdout
    assert again.returncode == 0


def test_a_process_that_has_the_pid_by_chance_is_left_alone(
    agent: AgentProcess, server: FakeServer
) -> None:
    run(agent, "--daemon")
    asked(agent, "--stop")
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        for wrong in ({"start_ticks": 1}, {"boot_id": "of another boot"}):
            found = shim.stat(stranger.pid)
            assert found is not None
            own = {"pid": stranger.pid, "start_ticks": found[2], "boot_id": shim.boot_id()}
            content = json.loads(note(agent).read_text()) | own | wrong
            note(agent).write_text(json.dumps(content))

            status, stopped = asked(agent, "--status"), asked(agent, "--stop")

            assert status.returncode == 3
            assert (stopped.returncode, stranger.poll()) == (0, None)
            assert "No agent" in stopped.stdout
    finally:
        stranger.kill()
        stranger.wait()


def test_status_and_stop_take_a_name_and_all_states_without_one(
    agent: AgentProcess, server: FakeServer
) -> None:
    run(agent, "--daemon")
    second = AgentProcess(agent.folder, server, "--host-id", "gpu2")
    second.command += ["--workdir", str(agent.folder / "second")]
    run(second, "--daemon", code="b-code")

    assert asked(agent, "--status").stdout.count(": running") == 2
    assert asked(agent, "--stop", "--host-id", "gpu2").stdout.startswith("gpu2 at")
    one = asked(agent, "--status", "--server", server.url, "--host-id", "gpu1")
    other = asked(agent, "--status", "--host-id", "gpu2")
    assert (one.returncode, other.returncode) == (0, 3)
    nobody = asked(agent, "--status", "--server", "http://elsewhere:1")
    assert nobody.returncode == 3
    assert "No agent of" in nobody.stdout
    assert "http://elsewhere:1" in nobody.stdout


def test_two_daemons_in_one_workdir_do_not_write_one_log(
    agent: AgentProcess, server: FakeServer
) -> None:
    """Two servers, one workdir: the runs' files are apart, and so must be the logs."""
    run(agent, "--daemon")
    with serving() as other:
        other.server_id = "server-2"
        second = AgentProcess(agent.folder, other)
        run(second, "--daemon")
        logs = {Path(str(found.log)).name for _, found in presence.records(agent.state)}
        assert logs == {"agent.log", f"agent_127.0.0.1-{other.url.rsplit(':')[-1]}_gpu1.log"}
        assert asked(agent, "--stop").returncode == 0


def test_the_end_of_whoever_started_it_is_not_its_own(
    agent: AgentProcess, server: FakeServer
) -> None:
    """A login session's end: SIGHUP to its process group, and all of it gone."""
    shell = subprocess.Popen(
        ["sh", "-c", f"{' '.join([*agent.command, '--daemon'])} && exec sleep 1000"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "LAB_ENROLL_CODE": "a-code"},
        cwd=agent.folder,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # under nohup
    )
    server.wait(lambda: server.asked("/api/agent/poll"), 60)
    eventually(lambda: record(agent).answered_at, 30)

    os.killpg(shell.pid, signal.SIGHUP)
    shell.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGKILL)
    beats = len(server.asked("/api/devices/heartbeat"))

    server.wait(lambda: len(server.asked("/api/devices/heartbeat")) > beats + 2)
    assert record(agent).alive


def test_an_agent_in_the_foreground_is_seen_and_stopped_too(
    agent: AgentProcess, server: FakeServer
) -> None:
    agent.start()
    server.wait(lambda: server.asked("/api/devices/heartbeat"))

    status = asked(agent, "--status")
    assert agent.process is not None
    stopped = asked(agent, "--stop")

    assert f"process {agent.process.pid}" in status.stdout
    assert "the terminal where it was started" in status.stdout
    assert stopped.returncode == 0
    assert agent.process.wait(10) == 0


def test_a_word_and_a_sign_that_contradict_each_other_are_refused(agent: AgentProcess) -> None:
    done = run(agent, "enroll", "--stop")

    assert done.returncode == 2
    assert "choose one" in done.stderr
