"""The whole lab on this machine: a server, an agent, and the training job of examples/digits.

    make demo              then look at it until Ctrl-C
    make demo ONCE=1       end after the run; 0 only if all of it arrived as it was written

Everything goes through the API, as it would from another machine. What it makes lies in demo/,
and is used again by the next demo; `make demo-clean` throws it away.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import requests
import yaml

ROOT = Path(__file__).parents[1]
HOME = ROOT / "demo"
CONFIG = ROOT / "examples" / "digits" / "digits.yaml"
FIRST_PORT, LAST_PORT = 8000, 8099
READY_SECONDS = 60.0
RUN_SECONDS = 900.0
STOP_SECONDS = 10.0
LOOK_SECONDS = 0.25
BAR_WIDTH = 40
ENDED = ("succeeded", "failed", "cancelled")

Found = TypeVar("Found")


class DemoFailed(Exception):
    """It cannot go on; the message says why, and where to look."""


class Lab:
    """The server that this demo started, spoken to over its API."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = data_dir / "log" / "server.log"
        self._session = requests.Session()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        port = self.url.rpartition(":")[2]
        command = [sys.executable, "manage.py", "runlab", "--agent", "--port", port]
        command += ["--host", "127.0.0.1", "--data-dir", str(self.data_dir), "--source", str(ROOT)]
        # A session of its own: Ctrl-C reaches this script, which then stops the server in order.
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wait_for(self._is_ready, "the server", READY_SECONDS)
        self._session.headers["Authorization"] = f"Token {self._token()}"

    def _is_ready(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            assert self._process.stdout is not None
            raise DemoFailed(self._process.stdout.read().decode().strip())
        try:
            return requests.get(f"{self.url}/login/", timeout=5).ok
        except requests.RequestException:
            return False

    def _token(self) -> str:
        """As `manage.py token` makes one for a script of an administrator."""
        made = subprocess.run(
            [sys.executable, "manage.py", "token", "admin"],
            cwd=ROOT,
            env={**os.environ, "LAB_DATA_DIR": str(self.data_dir)},
            capture_output=True,
            text=True,
            check=True,
        )
        return made.stdout.strip()

    def get(self, path: str) -> Any:
        return self._answer(self._session.get(f"{self.url}/api/{path}", timeout=10))

    def post(self, path: str, **body: Any) -> Any:
        return self._answer(self._session.post(f"{self.url}/api/{path}", json=body, timeout=10))

    @staticmethod
    def _answer(response: requests.Response) -> Any:
        if not response.ok:
            raise DemoFailed(f"{response.request.method} {response.url}: {response.text[:500]}")
        return response.json()

    def watch(self) -> None:
        """Block while the server lives."""
        assert self._process is not None
        self._process.wait()
        raise DemoFailed(f"The server has ended; see {self.log}")

    def stop(self) -> None:
        """Stop all that was started, and make sure of it."""
        if self._process is None:
            return
        process = psutil.Process(self._process.pid) if self._process.poll() is None else None
        members = [process, *process.children(recursive=True)] if process else []
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        _, left = psutil.wait_procs(members, STOP_SECONDS)
        if left:
            raise DemoFailed(f"These processes did not end: {', '.join(str(p.pid) for p in left)}")


# --- the run -------------------------------------------------------------------------------------


def submit(lab: Lab) -> dict[str, Any]:
    """Queue the example, on a GPU if this machine has one."""
    device = wait_for(lambda: healthy_device(lab), "the agent", READY_SECONDS)
    gpus = min(1, len(device["gpus"]))
    print(f"The agent {device['host_id']} is here, with {len(device['gpus'])} GPUs.")
    return lab.post(
        "jobs/", config=CONFIG.read_text(), project="demo", name="digits", resources={"gpus": gpus}
    )


def healthy_device(lab: Lab) -> dict[str, Any] | None:
    devices = lab.get("devices/")["results"]
    return next((device for device in devices if device["state"] == "healthy"), None)


def follow(lab: Lab, job: dict[str, Any]) -> dict[str, Any]:
    """Show the run's progress until it has ended and all of it is here."""
    epochs = yaml.safe_load(CONFIG.read_text())["epochs"]
    said = ""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        job = lab.get(f"jobs/{job['uid']}/")
        files = lab.get(f"sync/status/{job['uid']}")["data"]
        said = show(progress(job, epochs), said)
        if job["state"] in ENDED and files["sync_status"] == "synced":
            print()
            return job
        time.sleep(LOOK_SECONDS)
    raise DemoFailed(f"The run did not end within {RUN_SECONDS:.0f} s; see {lab.log}")


def progress(job: dict[str, Any], epochs: int) -> str:
    rows = job["summary"].get("rows", 0)
    done = round(BAR_WIDTH * rows / epochs)
    bar = "█" * done + "·" * (BAR_WIDTH - done)
    last = job["summary"].get("last") or {}
    accuracy = last.get("test_accuracy")
    measured = f"  accuracy {accuracy:.2%}" if accuracy is not None else ""
    why = job["waiting_reason"] if job["state"] == "queued" else ""
    return f"{job['run_name']} {job['state']:<10} {bar} {rows}/{epochs}{measured} {why}".rstrip()


def show(line: str, before: str) -> str:
    """Over the last line on a terminal; elsewhere a line for each change."""
    if sys.stdout.isatty():
        print(f"\r{line:<{len(before)}}", end="", flush=True)
    elif line.split()[:2] != before.split()[:2]:
        print(line, flush=True)
    return line


def verify(lab: Lab, job: dict[str, Any]) -> None:
    """Compare each file of the run with the agent's own, byte for byte by its SHA-256."""
    if job["state"] != "succeeded":
        raise DemoFailed(f"The run ended as {job['state']}; its log is {run_log(lab, job)}")
    written = {path.name: digest(path) for path in run_files(lab.data_dir / "agent", job)}
    arrived = {path.name: digest(path) for path in run_files(lab.data_dir, job)}
    if not written or written != arrived:
        differ = sorted(name for name, _ in written.items() ^ arrived.items())
        raise DemoFailed(f"These files differ on the two sides: {', '.join(sorted(set(differ)))}")
    for name, sha256 in sorted(arrived.items()):
        print(f"  equal on both sides: {name:<14} {sha256[:16]}…")


def run_files(folder: Path, job: dict[str, Any]) -> list[Path]:
    """The files of the run in `logs/` of a server, or in `logs_…/` of an agent."""
    found = folder.glob(f"logs*/{job['project']}/{job['run_name']}.*")
    return [path for path in found if path.suffix in (".csv", ".yaml", ".log", ".pt")]


def run_log(lab: Lab, job: dict[str, Any]) -> Path:
    return lab.data_dir / "logs" / job["project"] / f"{job['run_name']}.log"


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- the demo ------------------------------------------------------------------------------------


def demo(lab: Lab, *, once: bool) -> None:
    print("Starting a server and an agent …", flush=True)
    lab.start()
    job = submit(lab)
    print(f"Submitted {job['run_name']}: {lab.url}/runs/{job['uid']}/", flush=True)
    with cancelled_if_left(lab, job):
        job = follow(lab, job)
    verify(lab, job)
    if not once:
        print(f"\nThe run:  {lab.url}/runs/{job['uid']}/\nLog in:   {login(lab)}")
        print("Ctrl-C stops everything; make demo-clean throws its data away.", flush=True)
        lab.watch()


@contextmanager
def cancelled_if_left(lab: Lab, job: dict[str, Any]) -> Iterator[None]:
    """A job outlives its server, as it should; but a demo leaves nothing running."""
    try:
        yield
    except BaseException:
        lab.post(f"jobs/{job['uid']}/cancel/")
        wait_for(lambda: lab.get(f"jobs/{job['uid']}/")["state"] in ENDED, "its end", 60)
        raise


def login(lab: Lab) -> str:
    file = lab.data_dir / "admin-password.txt"
    password = file.read_text().strip() if file.exists() else "(the one you chose)"
    return f"admin, with the password {password}"


def free_port() -> int:
    for port in range(FIRST_PORT, LAST_PORT + 1):
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise DemoFailed(f"All ports from {FIRST_PORT} to {LAST_PORT} are in use.")


def wait_for(look: Callable[[], Found | None], what: str, seconds: float) -> Found:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(LOOK_SECONDS)
    raise DemoFailed(f"Waited {seconds:.0f} s for {what} in vain; see {HOME}/data/log/server.log")


def clean() -> None:
    """Throw the demo's data away, unless its server runs."""
    lock = HOME / "data" / "run" / "lock"
    if lock.exists():
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DemoFailed(f"The demo runs ({lock.read_text()}). Stop it first.") from None
    shutil.rmtree(HOME, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="end after the run")
    parser.add_argument("--clean", action="store_true", help="throw the demo's data away")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.clean:
            clean()
            return 0
        lab = Lab(HOME / "data")
        try:
            demo(lab, once=options.once)
        finally:
            lab.stop()
    except KeyboardInterrupt:
        print("\nStopped.")
        return 130 if options.once else 0
    except (DemoFailed, requests.RequestException, subprocess.SubprocessError) as exc:
        print(f"\nThe demo failed: {exc}", file=sys.stderr)
        return 1
    if options.once:
        print("All is well: the run succeeded, and every file of it arrived as it was written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
