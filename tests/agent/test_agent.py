"""A real agent process against a fake server: jobs from order to end."""

import hashlib
import json

import yaml

from tests.agent.conftest import AgentProcess, eventually
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

    assert exited["exit_code"] == 3
    assert exited["cause"] is None
    server.wait_event(order["id"], "released")
    assert server.types(order["id"]) == ["started", "exited", "released"]
    run = agent.run_dir() / order["run_name"]
    assert run.with_suffix(".log").read_text() == f"lr: 0.1\n{order['run_name']} {{other}}\n"
    metadata = yaml.safe_load(run.with_suffix(".yaml").read_text())
    assert metadata["exit_code"] == 3
    assert metadata["config"] == "lr: 0.1\n"
    eventually(lambda: not list(agent.state.glob("*/attempts/*")))
    polls = server.asked("/api/agent/poll")
    states = [a["state"] for poll in polls for a in poll["attempts"]]
    assert states.index("accepted") == 0
    print(json.dumps(states))
