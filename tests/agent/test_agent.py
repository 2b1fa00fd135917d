"""A real agent process against a fake server: jobs from order to end."""

import hashlib
import signal
import time

import pytest
import yaml

from tests.agent.conftest import AgentProcess, eventually
from tests.agent.jobs import FOREVER, pids, started
from tests.agent.server import FakeServer


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
