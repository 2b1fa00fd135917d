"""Jobs of tests, and their processes."""

from typing import Any

from agent import host, shim
from tests.agent.server import FakeServer

FOREVER = ["sh", "-c", "echo up; exec sleep 1000"]


def pids(attempt_id: str) -> list[int]:
    return host.processes_with("LAB_ATTEMPT_ID", attempt_id)


def supervisor_and_command(attempt_id: str) -> list[int]:
    """The supervisor first, so that it cannot tell the end."""
    command = pids(attempt_id)[0]
    parent = shim.stat(command)
    assert parent is not None
    return [parent[1], command]


def started(server: FakeServer, order: dict[str, Any]) -> int:
    """Wait for the start; return the command's pid."""
    return int(server.wait_event(order["id"], "started")["pid"])
