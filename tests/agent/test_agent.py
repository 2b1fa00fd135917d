"""A real agent process against a fake server: jobs from order to end, and what may go wrong."""

import hashlib
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from agent import host, shim, wire
from agent.journal import Journal
from agent.store import Store
from tests.agent.conftest import AgentProcess, eventually
from tests.agent.server import FakeServer, make_order, serving

FOREVER = ["sh", "-c", "echo up; exec sleep 1000"]


def pids(attempt_id: str) -> list[int]:
    return host.processes_with("LAB_ATTEMPT_ID", attempt_id)


def supervisor_and_command(attempt_id: str) -> list[int]:
    """The supervisor first, so that it cannot tell the end."""
    command = pids(attempt_id)[0]
    parent = shim.stat(command)
    assert parent is not None
    return [parent[1], command]


def started(server: FakeServer, order: dict) -> int:
    """Wait for the start; return the command's pid."""
    return int(server.wait_event(order["id"], "started")["pid"])


# --- the plain way ---


def test_a_job_is_accepted_started_and_brought_to_its_end(
    agent: AgentProcess, server: FakeServer
) -> None:
    config = b"lr: 0.1\n"
    command = ["sh", "-c", "cat {config}; echo {run_name} {other}; exit 3"]
    order = server.order(command=command, config_sha256=hashlib.sha256(config).hexdigest())
    server.configs[order["id"]] = config
    agent.start()

    exited = server.wait_event(order["id"], "exited")

    assert (exited["exit_code"], exited["cause"]) == (3, None)
    server.wait_event(order["id"], "released")
    assert server.types(order["id"]) == ["started", "exited", "released"]
    run = agent.run_dir() / order["run_name"]
    assert run.with_suffix(".log").read_text() == f"lr: 0.1\n{order['run_name']} {{other}}\n"
    metadata = yaml.safe_load(run.with_suffix(".yaml").read_text())
    assert metadata["exit_code"] == 3
    assert metadata["config"] == "lr: 0.1\n"


def test_an_attempt_is_named_accepted_before_it_starts_and_no_more_when_all_is_settled(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order()
    agent.start()
    server.wait_event(order["id"], "released")

    eventually(lambda: not list(agent.state.glob("*/attempts/*")))
    server.wait(lambda: server.asked("/api/agent/poll")[-1]["attempts"] == [])

    polls = server.asked("/api/agent/poll")
    states = [one["state"] for poll in polls for one in poll["attempts"]]
    assert states[0] == "accepted"
    seqs = [poll["poll_seq"] for poll in polls]
    assert sorted(seqs) == sorted(set(seqs))


def test_an_order_is_carried_out_at_once_by_an_idle_agent(
    agent: AgentProcess, server: FakeServer
) -> None:
    agent.start()
    server.wait(lambda: server.asked("/api/agent/poll"))
    seconds = []

    for _ in range(5):
        ordered_at = time.monotonic()
        started(server, server.order())
        seconds.append(time.monotonic() - ordered_at)

    assert sorted(seconds)[2] < 0.3


def test_a_wish_to_stop_ends_the_job(agent: AgentProcess, server: FakeServer) -> None:
    order = server.order(command=FOREVER)
    agent.start()
    started(server, order)

    server.stop(order["id"])

    exited = server.wait_event(order["id"], "exited")
    assert (exited["exit_code"], exited["cause"]) == (-signal.SIGTERM, "stopped")
    assert pids(order["id"]) == []


def test_an_attempt_that_the_server_has_ended_is_stopped_and_its_refused_end_is_settled(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=FOREVER)
    agent.start()
    started(server, order)

    server.give_up(order["id"])

    server.wait_event(order["id"], "released")
    assert pids(order["id"]) == []


def test_an_attempt_that_the_server_does_not_mention_runs_on(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=FOREVER)
    agent.start()
    pid = started(server, order)

    with server.turn:
        del server.orders[order["id"]]
        polls = len(server.requests)
        server.turn.notify_all()
    server.wait(lambda: len(server.requests) > polls + 5)

    assert pid in pids(order["id"])


# --- what cannot start ---


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"command": ["no-such-program"]}, "no-such-program"),
        ({"working_directory": "/no/such/folder"}, "/no/such/folder"),
        ({"python": "no-such-env"}, "conda environment named 'no-such-env'"),
        ({"python": "/no/such/venv"}, "/no/such/venv"),
        ({"gpus": ["GPU-1"]}, "GPU-1"),
        ({"config_sha256": "0" * 64}, "config"),
    ],
)
def test_what_cannot_start_says_so_in_one_sentence(
    agent: AgentProcess, server: FakeServer, fields: dict, words: str
) -> None:
    order = server.order(**fields)
    agent.start()

    failed = server.wait_event(order["id"], "start_failed")

    assert words in failed["message"]
    assert "\n" not in failed["message"]
    server.wait_event(order["id"], "released")


# --- survival ---


def test_a_killed_agent_finds_its_job_again_and_hears_of_its_end(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=["sh", "-c", "while [ ! -e go ]; do sleep 0.05; done; exit 4"])
    agent.start()
    pid = started(server, order)
    agent.kill()

    agent.start()
    instances = {beat["instance_id"] for beat in server.asked("/api/devices/heartbeat")}
    server.wait(
        lambda: {b["instance_id"] for b in server.asked("/api/devices/heartbeat")} > instances
    )
    (agent.folder / "go").touch()

    exited = server.wait_event(order["id"], "exited")
    assert exited["exit_code"] == 4
    reports = [one for poll in server.asked("/api/agent/poll") for one in poll["attempts"]]
    assert {one["pid"] for one in reports} - {None} == {pid}
    assert server.types(order["id"])[:2] == ["started", "exited"]


def test_a_job_that_ended_while_no_agent_lived_is_reported(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=["sh", "-c", "while [ ! -e go ]; do sleep 0.05; done; exit 4"])
    agent.start()
    pid = started(server, order)
    agent.kill()
    (agent.folder / "go").touch()
    eventually(lambda: not Path(f"/proc/{pid}").exists())

    agent.start()

    assert server.wait_event(order["id"], "exited")["exit_code"] == 4


def test_the_next_agent_names_the_one_before_it(agent: AgentProcess, server: FakeServer) -> None:
    agent.start()
    server.wait(lambda: len(server.asked("/api/devices/heartbeat")) > 2)
    first = server.asked("/api/devices/heartbeat")[0]
    agent.kill()

    agent.start()
    server.wait(lambda: server.asked("/api/devices/heartbeat")[-1]["seq"] == 1)

    second = server.asked("/api/devices/heartbeat")[-1]
    assert second["previous_instance_id"] == first["instance_id"]
    assert second["instance_id"] != first["instance_id"]


def test_a_killed_supervisor_is_noticed_and_its_job_stopped(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=FOREVER)
    agent.start()
    started(server, order)

    os.kill(supervisor_and_command(order["id"])[0], signal.SIGKILL)

    exited = server.wait_event(order["id"], "exited")
    assert (exited["exit_code"], exited["cause"]) == (None, "supervisor_lost")
    assert pids(order["id"]) == []


def test_a_job_that_went_down_with_its_host_is_reported_as_that(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=FOREVER)
    agent.start()
    started(server, order)
    agent.kill()
    for pid in supervisor_and_command(order["id"]):
        os.kill(pid, signal.SIGKILL)
    [journal] = agent.state.glob("*/journal.sqlite3")
    with closing(sqlite3.connect(journal)) as db, db:
        db.execute("UPDATE attempts SET boot_id = 'the boot before'")

    agent.start()

    exited = server.wait_event(order["id"], "exited")
    assert (exited["exit_code"], exited["cause"]) == (None, "host_rebooted")


def test_an_agent_killed_before_the_supervisor_was_born_starts_the_job_once(
    agent: AgentProcess, server: FakeServer
) -> None:
    agent.start()
    server.wait(lambda: server.asked("/api/agent/poll"))
    agent.kill()
    order = make_order(command=["sh", "-c", "echo once"])
    [journal] = agent.state.glob("*/journal.sqlite3")
    with closing(Store(journal)) as store:
        Journal(store).accept(wire.decode(wire.AttemptOrder, order))
        Journal(store).starting(order["id"], shim.boot_id(), {}, {})
    (journal.parent / "attempts" / order["id"]).mkdir()
    server.order(**order)

    agent.start()

    server.wait_event(order["id"], "released")
    assert (agent.run_dir() / f"{order['run_name']}.log").read_text() == "once\n"


def test_a_job_whose_lease_is_not_renewed_is_stopped_by_its_supervisor_alone(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=FOREVER, on_device_lost="requeue")
    agent.start()
    pid = started(server, order)
    [folder] = agent.state.glob("*/attempts/*")
    renewed = (folder / "fence").read_text()
    server.wait(lambda: len(server.asked("/api/agent/poll")) > 4)
    agent.kill()
    assert shim.now() - float(renewed) < 20

    (folder / "fence").write_text(repr(shim.now() - wire.FENCE_SECONDS))

    eventually(lambda: not Path(f"/proc/{pid}").exists())
    agent.start()
    assert server.wait_event(order["id"], "exited")["cause"] == "fenced"


def test_what_was_accepted_once_and_is_in_no_journal_is_never_started_again(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=["sh", "-c", "touch ran"])
    server.accepted.add(order["id"])
    agent.start()

    exited = server.wait_event(order["id"], "exited")

    assert exited["cause"] == "supervisor_lost"
    assert not (agent.folder / "ran").exists()


def test_an_agent_that_stops_in_order_says_goodbye_and_leaves_its_jobs_alone(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=FOREVER)
    agent.start()
    pid = started(server, order)

    began = time.monotonic()
    code = agent.stop()

    assert code == 0
    assert time.monotonic() - began < 5
    assert server.asked("/api/devices/goodbye")
    assert pid in pids(order["id"])


def test_lost_answers_change_nothing(agent: AgentProcess, server: FakeServer) -> None:
    server.lose = {
        "/api/devices/enroll": 1,
        "/api/devices/heartbeat": 2,
        "/api/agent/poll": 3,
        "/api/agent/attempts/": 3,
    }
    order = server.order(command=["sh", "-c", "echo once"])
    agent.start()
    # The enrollment's answer was lost: the same code and digest again, as a unit would do.
    assert agent.process is not None
    assert agent.process.wait(10) == 2
    agent.start()

    server.wait_event(order["id"], "released", 30)

    log = (agent.run_dir() / f"{order['run_name']}.log").read_text()
    assert log == "once\n"
    digests = {body["token_sha256"] for body in server.asked("/api/devices/enroll")}
    assert len(digests) == 1
    ids = {(event["type"], event["event_id"]) for _, event in server.events}
    assert len(ids) == 3


def test_files_of_another_owner_are_put_aside(agent: AgentProcess, server: FakeServer) -> None:
    name = "run_777"
    first = server.order(run_name=name, command=["sh", "-c", "echo first > $LAB_METRICS_CSV"])
    agent.start()
    server.wait_event(first["id"], "exited")

    second = server.order(run_name=name, command=["sh", "-c", "echo second"])
    server.wait_event(second["id"], "exited")

    aside = agent.run_dir() / ".old" / f"{first['experiment_uid']}-{first['id']}"
    assert (aside / f"{name}.csv").read_text() == "first\n"
    assert not (agent.run_dir() / f"{name}.csv").exists()
    assert (agent.run_dir() / f"{name}.log").read_text() == "second\n"


# --- servers that are not what they should be ---


def test_another_servers_answers_stop_and_start_nothing_until_a_person_confirms(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=FOREVER)
    agent.start()
    pid = started(server, order)
    agent.kill()
    server.server_id = "server-2"
    server.give_up(order["id"])

    agent.start()
    eventually(lambda: "another identity" in agent.said())
    assert pid in pids(order["id"])
    agent.kill()
    agent.start("--accept-new-server")

    server.wait_event(order["id"], "exited")
    assert pids(order["id"]) == []


def test_a_revoked_token_keeps_the_agent_and_its_jobs_alive(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=FOREVER)
    agent.start()
    pid = started(server, order)

    server.refuse = {"/api/": (401, {"code": "unauthorized", "detail": "revoked"})}
    with server.turn:
        server.turn.notify_all()
    eventually(lambda: "does not accept this agent's token" in agent.said())

    assert agent.process is not None
    assert agent.process.poll() is None
    assert pid in pids(order["id"])


def test_a_duplicate_touches_no_process_and_asks_again(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order()
    server.refuse = {"/api/agent/poll": (409, {"code": "duplicate_agent", "detail": "two of you"})}
    agent.start()
    eventually(lambda: "two of you" in agent.said())
    assert server.events == []

    server.refuse = {}

    server.wait_event(order["id"], "exited")


def test_an_end_that_the_server_cannot_take_now_is_told_until_it_can(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order()
    server.refuse = {"/api/agent/attempts/": (503, {"code": "busy"})}
    agent.start()
    server.wait(lambda: len(server.asked(f"/api/agent/attempts/{order['id']}/events")) > 1)

    server.refuse = {}

    server.wait_event(order["id"], "released", 20)
    assert server.types(order["id"]) == ["started", "exited", "released"]


def test_a_server_that_comes_back_is_spoken_to_at_once(
    agent: AgentProcess, server: FakeServer
) -> None:
    agent.start()
    server.wait(lambda: server.asked("/api/agent/poll"))
    server.refuse = {"/api/": (503, {})}
    order = server.order()
    eventually(lambda: "heartbeat failed" in agent.said() and "poll failed" in agent.said())

    server.refuse = {}
    back_at = time.monotonic()
    started(server, order)

    assert time.monotonic() - back_at < 2


# --- one agent, one state, no secrets about ---


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
    assert b"PYTHONPATH" not in log
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
