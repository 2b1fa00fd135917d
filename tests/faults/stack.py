"""A real server and real agents in a temporary folder, to be broken and looked at.

    with Stack(tmp_path) as stack:
        lab = stack.lab().start()
        agent = stack.agent(lab, "gpu1").start()
        job = lab.submit(["true"])
        lab.wait_state(job, "succeeded")

Everything that was started, and whatever that started in turn, is gone after the block.
"""

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests

from tests import ready
from tests.faults import processes, workload
from tests.faults.history import Event
from tests.faults.processes import Born, wait_for
from tests.faults.proxy import FaultProxy

ROOT = Path(__file__).parents[2]
READY_SECONDS = 120.0  # a first start, while other tests have the processors
HEALTHY_SECONDS = 45.0
STOP_SECONDS = 10.0
ANSWER_SECONDS = 20.0
PROJECT = "truth"
#: Below the range that systems take the ports of outgoing connections from: a server that is
#: away for a minute finds its port free again.
PORTS = range(20_000, 32_000)

Job = dict[str, Any]  # as GET /api/jobs/<uid>/ gives it
Startable = TypeVar("Startable", "Lab", "Agent")


class Stack:
    """Whatever a test starts; see above."""

    def __init__(self, folder: Path, *, held: bool = False) -> None:
        """`held`: the programs are started by tests.faults.launch, on this folder."""
        self._folder = folder.resolve()
        launch = [sys.executable, "-m", "tests.faults.launch", str(self._folder)]
        self._launch = launch if held else None
        self._proxies: list[FaultProxy] = []
        self._started: list[Lab | Agent] = []

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, *exc_info: object) -> None:
        lost = [file for file in processes.lost_files(self._folder) if ".sqlite3" in file]
        self._clear()
        assert not lost, f"databases that were deleted while in use: {lost}"

    def _clear(self) -> None:
        for proxy in self._proxies:
            proxy.__exit__()
        # Twice: a supervisor may have restarted one of its programs just before it went.
        for _ in range(2):
            left = processes.mentioning(self._folder)
            processes.kill(left)
            wait_for(lambda: not any(b.alive for b in left), "all is stopped", STOP_SECONDS)  # noqa: B023
        for started in self._started:
            if started.process is not None:
                started.process.wait(STOP_SECONDS)

    def lab(self, name: str = "lab", *options: str) -> "Lab":
        """A server that is not started yet; `options` are more ones of runlab."""
        return self._kept(Lab(self._folder / name, options, launch=self._launch))

    def proxy(self, lab: "Lab") -> FaultProxy:
        proxy = FaultProxy(("127.0.0.1", lab.port))
        self._proxies.append(proxy)
        return proxy.__enter__()

    def lab_at(self, port: int, name: str) -> "Lab":
        """Another server for an address that is free just now."""
        return self._kept(Lab(self._folder / name, port=port))

    def agent(
        self,
        lab: "Lab",
        host_id: str,
        url: str | None = None,
        *options: str,
        folder: str | None = None,
        cards: Path | None = None,
    ) -> "Agent":
        """An agent that is not started yet; `url`: a proxy's, None: the server's own.

        All of a stack are on one host, and on no other's: they lock GPUs in one folder. `cards`:
        the folder of its GPUs (tests.faults.fakenvml).
        """
        place, locks = self._folder / (folder or host_id), self._folder / "locks"
        locks.mkdir(exist_ok=True)
        options = ("--lock-dir", str(locks), *options)
        launch = self._launch
        if cards is not None:
            launch = [sys.executable, "-m", "tests.faults.fakenvml", str(cards)]
        return self._kept(Agent(place, lab, host_id, url or lab.url, options, launch))

    def _kept(self, made: Startable) -> Startable:
        self._started.append(made)
        return made


class Lab:
    """A `manage.py runlab` on a data folder of its own, and its API as an administrator."""

    def __init__(
        self,
        folder: Path,
        options: tuple[str, ...] = (),
        port: int | None = None,
        launch: list[str] | None = None,
    ) -> None:
        self.folder = folder
        self._launch = [*launch, "runlab"] if launch else self._manage("runlab")
        self.data_dir = folder / "data"
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None
        self._session = requests.Session()
        self._session.trust_env = False
        folder.mkdir(exist_ok=True)

    # --- the processes ---

    def start(self, *, serves: bool = True) -> "Lab":
        """Start it and wait until its API serves, or until its port takes connections (https)."""
        ready.lay(self.data_dir)
        self._status_file.unlink(missing_ok=True)
        command = [*self._launch, "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--data-dir", str(self.data_dir), *self._options]
        with open(self.folder / "output", "ab") as output:
            self.process = subprocess.Popen(command, **apart(output, self.data_dir))
        if not serves:
            wait_for(lambda: self.program("web"), f"{self.url} listens", READY_SECONDS)
            return self
        wait_for(self._serves, f"{self.url} serves", READY_SECONDS)
        if "Authorization" not in self._session.headers:
            self._session.headers["Authorization"] = f"Token {self._token()}"
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def program(self, name: str) -> int:
        """The pid of one of runlab's programs: web, dispatch, clock, agent."""

        def pid() -> int | None:
            with suppress(OSError, ValueError):
                programs = json.loads(self._status_file.read_text())["programs"]
                return programs[name]["pid"]
            return None

        found = wait_for(pid, f"runlab has its {name}", HEALTHY_SECONDS)
        assert found is not None
        return found

    def kill_all(self) -> None:
        """kill -9 of the supervisor and of every program at once, as when the power goes."""
        assert self.process is not None
        processes.kill(processes.tree(self.process.pid))
        self.process.wait(STOP_SECONDS)

    def kill_supervisor(self) -> None:
        """kill -9 of `manage.py runlab` alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def stop(self) -> int:
        """Ctrl-C. Return the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_SECONDS)

    def output(self) -> str:
        return (self.folder / "output").read_text()

    # --- the API ---

    def ask(self, method: str, path: str, **how: Any) -> requests.Response:
        """Any request, and whatever is answered."""
        return self._session.request(method, self.url + path, timeout=ANSWER_SECONDS, **how)

    def get(self, path: str) -> Any:
        return self._answer(self.ask("GET", path))

    def post(self, path: str, **body: Any) -> Any:
        return self._answer(self.ask("POST", path, json=body))

    def enroll_code(self) -> str:
        return str(self.post("/api/enrollment-codes/")["code"])

    def device(self, host_id: str) -> dict[str, Any]:
        return dict(self.get(f"/api/devices/{host_id}/"))

    def submit(self, command: list[str], **more: Any) -> str:
        """Queue a job that needs no GPU, unless `resources` say so. Return its uid."""
        wish = {"project": PROJECT, "resources": {"gpus": 0}, "command": command, **more}
        return str(self.post("/api/jobs/", **wish)["uid"])

    def submit_workload(self, truth: Path, seconds: float, **more: Any) -> str:
        script = Path(workload.__file__)
        return self.submit(
            [sys.executable, str(script), "--truth", str(truth), "--seconds", f"{seconds:g}"],
            **more,
        )

    def job(self, uid: str) -> Job:
        return dict(self.get(f"/api/jobs/{uid}/"))

    def events(self, uid: str) -> list[Event]:
        return list(self.get(f"/api/jobs/{uid}/events/?page_size=500")["results"])

    def wait_state(self, uid: str, state: str, seconds: float = 30.0) -> Job:
        """Wait until a job has this state; at once an error if it ended in another one."""

        def reached() -> Job | None:
            job = self.job(uid)
            if job["state"] != state and job["state"] in ("succeeded", "failed", "cancelled"):
                raise AssertionError(f"{uid} {job['state']}: {job['attempts']}")
            return job if job["state"] == state else None

        found = wait_for(reached, f"{uid} is {state}", seconds)
        assert found is not None
        return found

    def wait_running(self, uid: str, seconds: float = 30.0) -> Born:
        """The job's process, once the server knows it."""
        job = self.wait_state(uid, "running", seconds)
        return Born.of(job["attempts"][-1]["pid"])

    def run_dir(self, project: str = PROJECT) -> Path:
        return self.data_dir / "logs" / project

    @property
    def _status_file(self) -> Path:
        return self.data_dir / "run" / "status.json"

    def _serves(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"runlab ended:\n{self.output()[-3000:]}"
        with suppress(requests.RequestException):
            return self._session.get(f"{self.url}/api/jobs/", timeout=5).status_code < 500
        return False

    def _token(self) -> str:
        made = subprocess.run(
            [*self._manage("token"), "admin"],
            check=True,
            **apart(subprocess.PIPE, self.data_dir),
        )
        return made.stdout.strip().decode()

    @staticmethod
    def _manage(command: str) -> list[str]:
        return [sys.executable, str(ROOT / "manage.py"), command]

    @staticmethod
    def _answer(response: requests.Response) -> Any:
        assert response.ok, f"{response.url}: {response.status_code} {response.text[:500]}"
        return response.json()


class LocalAgent:
    """The agent that a `runlab --agent` keeps itself."""

    def __init__(self, lab: Lab) -> None:
        self.folder = lab.folder
        self._home = lab.data_dir / "agent"
        self._lab = lab

    def wait_healthy(self, seconds: float = HEALTHY_SECONDS) -> None:
        """Wait until the server has heard of it and of nobody else."""

        def is_healthy() -> bool:
            devices = self._lab.get("/api/devices/")["results"]
            return [device["state"] for device in devices] == ["healthy"]

        wait_for(is_healthy, "the local agent is healthy", seconds)

    def run_dir(self, project: str = PROJECT) -> Path:
        return self._home / "logs_127.0.0.1" / project


class Agent:
    """A `python -m agent` with state and workspace of its own."""

    def __init__(
        self,
        folder: Path,
        lab: Lab,
        host_id: str,
        url: str,
        options: tuple[str, ...],
        launch: list[str] | None = None,
    ) -> None:
        self.folder = folder
        self.state_dir, self.work_dir = folder / "state", folder / "work"
        self._lab, self.host_id = lab, host_id
        self._folder_name = f"logs_{urlsplit(url).hostname}"
        #: Put before its command, such as `ip netns exec NAME`.
        self.within: list[str] = []
        start = [*launch, "agent"] if launch else [sys.executable, "-m", "agent"]
        self._command = [*start, "--server", url, "--host-id", host_id]
        self._command += ["--state-dir", str(self.state_dir), "--workdir", str(self.work_dir)]
        self._command += ["--source", str(ROOT), *options]
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(exist_ok=True)

    def start(self, *options: str) -> "Agent":
        """Start it, enrolled with a new code at the first time, and wait until it is healthy."""
        self.launch(*options)
        self.wait_healthy()
        return self

    def launch(self, *options: str) -> None:
        """Start it, and wait for nothing."""
        enrolled = any(self.state_dir.glob("*/token.json"))
        code = {} if enrolled else {"LAB_ENROLL_CODE": self._lab.enroll_code()}
        with open(self.folder / "agent.log", "ab") as log:
            self.process = subprocess.Popen(
                [*self.within, *self._command, *options], **apart(log, self._lab.data_dir, code)
            )

    def wait_healthy(self, seconds: float = HEALTHY_SECONDS) -> None:
        wait_for(self._is_healthy, f"{self.host_id} is healthy", seconds)

    def _is_healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the agent ended:\n{self.said()[-3000:]}"
        devices = self._lab.get("/api/devices/")["results"]
        states = {device["host_id"]: device["state"] for device in devices}
        return states.get(self.host_id) == "healthy"

    def kill(self) -> None:
        """kill -9 of the agent alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def said(self) -> str:
        return (self.folder / "agent.log").read_text()

    def run_dir(self, project: str = PROJECT) -> Path:
        return self.work_dir / self._folder_name / project


def free_port() -> int:
    """A port that nobody listens on and that no outgoing connection will take."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def sha256_of(folder: Path, run_name: str) -> dict[str, str]:
    """The files of a run in `folder`, with the SHA-256 of each, but for older generations."""
    found = [*folder.glob(f"{run_name}.*"), *folder.glob(f"{run_name}/**/*")]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.is_file() and path not in older_generations(folder, run_name)
    }


def older_generations(folder: Path, run_name: str) -> list[Path]:
    """What the server has laid aside because a file began anew (`run_001.csv.g1`)."""
    return [path for path in folder.glob(f"{run_name}.*.g*") if path.suffix[2:].isdigit()]


def apart(output: Any, folder: Path, more: dict[str, str] | None = None) -> dict[str, Any]:
    """How a process is started apart from the tests: of their settings it has none."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LAB_")}
    for name in ("PYTHONUNBUFFERED", "DJANGO_SETTINGS_MODULE"):
        clean.pop(name, None)
    environment = {**clean, "LAB_DATA_DIR": str(folder), "PYTHONPATH": str(ROOT), **(more or {})}
    return {
        "cwd": ROOT,
        "env": environment,
        "stdin": subprocess.DEVNULL,
        "stdout": output,
        "stderr": subprocess.STDOUT,
    }
