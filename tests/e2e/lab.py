"""A whole server in processes of its own, as `manage.py runlab` starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil
import requests

from tests import ready

ROOT = Path(__file__).parents[2]
READY_SECONDS = 60
LOOK_SECONDS = 0.02

Found = TypeVar("Found")


def wait_for(look: Callable[[], Found | None], what: str, seconds: float = 30) -> Found:
    """The first thing that `look` finds."""
    deadline = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(LOOK_SECONDS)


def environment(**given: str) -> dict[str, str]:
    """What a shell would give it: nothing that these tests set for themselves."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LAB_")}
    kept.pop("DJANGO_SETTINGS_MODULE", None)
    return kept | given


def runlab(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a `runlab` that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "manage.py", "runlab", *options],
        cwd=ROOT,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=READY_SECONDS,
    )


class Lab:
    """One server on one data folder; start() it, and stop or kill it before the test ends."""

    def __init__(self, data_dir: Path, *options: str) -> None:
        self.data_dir = data_dir
        self._command = [sys.executable, "manage.py", "runlab", "--port", "0"]
        self._command += ["--host", "127.0.0.1", "--data-dir", str(data_dir), *options]
        self._output = data_dir.with_name(f"{data_dir.name}.output")
        self.process: psutil.Popen | None = None

    def start(self, *, on_nothing: bool = False) -> "Lab":
        """Start it and wait until it serves; `on_nothing`: with all that a first start makes."""
        if not on_nothing:
            ready.lay(self.data_dir)
        with self._output.open("ab") as output:
            self.process = psutil.Popen(
                self._command, cwd=ROOT, env=environment(), stdout=output, stderr=output
            )
        wait_for(self._is_ready, f"the server: {self.output()}", READY_SECONDS)
        return self

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.output()
        try:
            return self.status()["supervisor_pid"] == self.process.pid and self.get("/login/").ok
        except (OSError, ValueError, KeyError):
            return False

    @property
    def url(self) -> str:
        parts = urlsplit(self.status()["url"])
        return f"{parts.scheme}://127.0.0.1:{parts.port}"

    def get(self, path: str, **options: Any) -> requests.Response:
        ca = self.data_dir / "tls" / "ca.pem"
        verify = str(ca) if ca.exists() else True
        return requests.get(self.url + path, timeout=10, verify=verify, **options)

    def output(self) -> str:
        return self._output.read_text() if self._output.exists() else ""

    def status(self) -> dict[str, Any]:
        return json.loads((self.data_dir / "run" / "status.json").read_text())

    def program(self, name: str) -> psutil.Process:
        return psutil.Process(self.status()["programs"][name]["pid"])

    def processes(self) -> list[psutil.Process]:
        """The supervisor and all that came from it."""
        assert self.process is not None
        return [psutil.Process(self.process.pid), *self.process.children(recursive=True)]

    def interrupt(self) -> float:
        """Press Ctrl-C; the seconds until it has ended."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(READY_SECONDS)
        return time.monotonic() - began

    def kill(self) -> None:
        """kill -9, and nothing else."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(READY_SECONDS)
