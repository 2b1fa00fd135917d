"""What agent tests share. Nothing here knows of Django."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent import host, presence
from tests.agent.server import FakeServer, serving

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # it would hide what it must fix


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as fake:
        yield fake


class AgentProcess:
    """A real `python -m agent` on a state and a workspace of its own."""

    def __init__(self, folder: Path, server: FakeServer, *options: str) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.work = folder / "work"
        self.log = folder / "agent.log"
        self.code = ROOT  # the folder that its package lies in
        self.command = [
            sys.executable,
            *("-m", "agent", "--server", server.url, "--host-id", "gpu1"),
            *("--state-dir", str(self.state), "--workdir", str(self.work)),
            *("--source", str(folder), "--lock-dir", str(folder)),
            *("--heartbeat-interval", "0.2", *options),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, code: str | None = "a-code") -> "AgentProcess":
        environ = {**os.environ, "PYTHONPATH": str(self.code)}
        if code:
            environ["LAB_ENROLL_CODE"] = code
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.command, *options], stdout=log, stderr=log, env=environ, cwd=self.folder
            )
        return self

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(10)

    def run_dir(self, project: str = "digits") -> Path:
        return self.work / "logs_127.0.0.1" / project

    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture
def agent(tmp_path: Path, server: FakeServer) -> Iterator[AgentProcess]:
    """An agent that is not started yet; it and its jobs are gone after the test."""
    made = AgentProcess(tmp_path, server)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()
    for folder in made.state.glob("*/attempts/*"):
        clear(folder.name)


@pytest.fixture
def no_daemon_stays(agent: AgentProcess) -> Iterator[None]:
    yield
    for _, record in presence.records(agent.state):
        if record.alive:
            os.kill(record.pid, signal.SIGKILL)


def clear(attempt_id: str) -> None:
    for _ in range(2):  # a process in the middle of exec() shows no environment
        for pid in host.processes_with("LAB_ATTEMPT_ID", attempt_id):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        threading.Event().wait(0.02)


def eventually(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for other processes: there is no other way to see what they do than to look."""
    bell = threading.Event()
    left = seconds
    while not condition():
        assert left > 0, f"not within {seconds} s"
        bell.wait(0.02)
        left -= 0.02


def closed(name: str) -> Callable[..., Any]:
    """os.scandir where a folder of that name may not be read: of root none is closed."""
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if os.path.basename(str(path)) == name:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    return scandir
