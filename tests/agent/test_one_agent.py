"""One agent a state and a workspace, and no secret anywhere else."""

import hashlib
from pathlib import Path

from tests.agent.conftest import AgentProcess
from tests.agent.jobs import started
from tests.agent.server import FakeServer, serving


def test_a_second_agent_on_the_same_state_says_so_and_ends(
    agent: AgentProcess, server: FakeServer
) -> None:
    agent.start()
    server.wait(lambda: server.asked("/api/agent/poll"))
    second = AgentProcess(agent.folder, server)
    second.log = agent.folder / "second.log"

    second.start()

    assert second.process is not None
    assert second.process.wait(10) == 2
    assert "Another agent" in second.said()
    assert f"process {agent.process.pid}" in second.said()


def test_a_second_host_id_needs_a_workdir_of_its_own(
    agent: AgentProcess, server: FakeServer
) -> None:
    agent.start()
    server.wait(lambda: server.asked("/api/agent/poll"))
    second = AgentProcess(agent.folder, server, "--host-id", "gpu2")
    second.log = agent.folder / "second.log"

    second.start()

    assert second.process is not None
    assert second.process.wait(10) == 2
    assert "--workdir" in second.said()


def test_the_token_is_in_no_log_no_argument_and_no_environment(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=["sh", "-c", "env; exec sleep 1000"])
    agent.start("--verbose", code="the-enrollment-code")
    pid = started(server, order)

    token = next(t for t in server.tokens if t).removeprefix("Bearer ").encode()
    assert token.startswith(b"labd_")
    assert len(token) == 57
    held = [path for path in agent.folder.rglob("*") if path.is_file()]
    with_token = [path for path in held if token in path.read_bytes()]
    assert [path.name for path in with_token] == ["token.json"]
    assert with_token[0].stat().st_mode & 0o777 == 0o600
    assert agent.process is not None
    for process in (agent.process.pid, pid):
        for name in ("cmdline", "environ"):
            assert token not in Path(f"/proc/{process}/{name}").read_bytes()
    log = (agent.run_dir() / f"{order['run_name']}.log").read_bytes()
    assert b"the-enrollment-code" not in log + agent.log.read_bytes()
    assert f"PYTHONPATH={agent.run_dir()}/.labrun\n".encode() in log  # and nothing of ours
    enrolled = server.asked("/api/devices/enroll")[0]
    assert enrolled["token_sha256"] == hashlib.sha256(token).hexdigest()


def test_an_agent_that_is_enrolled_needs_no_code_and_one_that_is_not_names_the_command(
    agent: AgentProcess, server: FakeServer
) -> None:
    agent.start(code=None)
    assert agent.process is not None
    assert agent.process.wait(10) == 2
    assert f"lab-agent enroll --server {server.url} --host-id gpu1" in agent.said()
    agent.start()
    server.wait(lambda: server.asked("/api/agent/poll"))
    agent.kill()
    polls = len(server.asked("/api/agent/poll"))

    agent.start(code=None)

    server.wait(lambda: len(server.asked("/api/agent/poll")) > polls)
    assert len(server.asked("/api/devices/enroll")) == 1


def test_two_servers_have_two_states(agent: AgentProcess, server: FakeServer) -> None:
    agent.start()
    server.wait(lambda: server.asked("/api/agent/poll"))
    with serving() as other:
        other.server_id = "server-2"
        second = AgentProcess(agent.folder, other)
        second.log = agent.folder / "second.log"
        second.start()
        other.wait(lambda: other.asked("/api/agent/poll"))
        second.kill()

    tokens = {path.read_text() for path in agent.state.glob("*/token.json")}
    assert len(tokens) == 2
    folders = {path.name for path in agent.work.iterdir()}
    assert len(folders) == 2
