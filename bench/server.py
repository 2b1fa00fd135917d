"""A `runlab` of its own for a measurement: in a temporary folder, on a free port, gone after."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import requests

ROOT = Path(__file__).parents[1]
READY_SECONDS = 60.0
STOP_SECONDS = 15.0
LOOK_SECONDS = 0.02

Found = TypeVar("Found")


@dataclass(frozen=True)
class Server:
    """A running server, and a session that may use its API as the administrator."""

    url: str
    folder: Path
    process: psutil.Process
    session: requests.Session
    ready_at: float  # of time.monotonic(): when it first answered

    def get(self, path: str) -> Any:
        return self._answer(self.session.get(self.url + path, timeout=10))

    def post(self, path: str, **body: Any) -> Any:
        return self._answer(self.session.post(self.url + path, json=body, timeout=10))

    def patch(self, path: str, **body: Any) -> Any:
        return self._answer(self.session.patch(self.url + path, json=body, timeout=10))

    def processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def program_of(self, process: psutil.Process) -> str:
        """Which of runlab's programs a process is, or belongs to."""
        facts = json.loads((self.folder / "data" / "run" / "status.json").read_text())
        pids = {program["pid"]: name for name, program in facts["programs"].items()}
        for one in (process, *process.parents()):
            if one.pid in pids:
                return pids[one.pid]
        return "runlab"

    @staticmethod
    def _answer(response: requests.Response) -> Any:
        if not response.ok:
            raise SystemExit(f"{response.url}: {response.status_code} {response.text[:500]}")
        return response.json()


@contextmanager
def running(*, agent: bool, prepared: Path | None = None) -> Iterator[Server]:
    """Start it and wait until it serves (and until its agent is healthy); stop it after.

    `prepared`: a folder whose `data` holds a database already; a fresh one otherwise.
    """
    fresh = tempfile.TemporaryDirectory(prefix="bench-")
    with fresh if prepared is None else nullcontext(str(prepared)) as name:
        folder = Path(name)
        environment = {**os.environ, "LAB_DATA_DIR": str(folder / "data")}
        command = [sys.executable, "manage.py", "runlab", "--host", "127.0.0.1", "--port", "0"]
        command += ["--data-dir", str(folder / "data")] + ["--agent"] * agent
        with open(folder / "output", "wb") as output:
            started = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            server = _ready(started, folder, environment)
            if agent:
                wait_for(lambda: _healthy(server), "a healthy agent")
            yield server
        finally:
            started.send_signal(signal.SIGINT)
            started.wait(STOP_SECONDS)


def wait_for(look: Callable[[], Found | None], what: str, seconds: float = READY_SECONDS) -> Found:
    """What `look` returns once that is true."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            raise SystemExit(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(LOOK_SECONDS)
    return found


def _ready(started: subprocess.Popen[bytes], folder: Path, environment: dict[str, str]) -> Server:
    status = folder / "data" / "run" / "status.json"

    def url() -> str | None:
        if started.poll() is not None:
            raise SystemExit(f"runlab ended:\n{(folder / 'output').read_text()}")
        return json.loads(status.read_text())["url"] if status.exists() else None

    address = wait_for(url, "runlab").rstrip("/")
    session = requests.Session()
    session.trust_env = False
    wait_for(lambda: _serves(session, address), "an answer")
    ready_at = time.monotonic()
    session.headers["Authorization"] = f"Token {_token(environment)}"
    return Server(address, folder, psutil.Process(started.pid), session, ready_at)


def _serves(session: requests.Session, url: str) -> bool:
    try:
        return session.get(f"{url}/api/jobs/", timeout=5).status_code in (401, 403)
    except requests.ConnectionError:
        return False


def _token(environment: dict[str, str]) -> str:
    command = [sys.executable, "manage.py", "token", "admin"]
    made = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return made.stdout.strip()


def _healthy(server: Server) -> bool:
    return any(device["state"] == "healthy" for device in server.get("/api/devices/")["results"])
