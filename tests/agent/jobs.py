"""Jobs of tests, and their processes."""

from typing import Any

from agent import host, shim
from tests.agent.server import FakeServer

FOREVER = ["sh", "-c", "echo up; exec sleep 1000"]


def pids(attempt_id: str) -> list[int]:
    return host.processes_with("LAB_ATTEMPT_ID", attempt_id)


def supervisor_and_command(attempt_id: str) -> list[int]:
    """The supervisor first, so that it cannot tell the end."""
    found = {pid: process[1] for pid in pids(attempt_id) if (process := shim.stat(pid))}
    [command] = [pid for pid, parent in found.items() if parent not in found]  # pids begin anew
    return [found[command], command]


def started(server: FakeServer, order: dict[str, Any]) -> int:
    """Wait for the start; return the command's pid."""
    return int(server.wait_event(order["id"], "started")["pid"])
