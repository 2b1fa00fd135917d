"""Where kills happen: a server and an agent that can be held at any gate, and a bystander.

The bystander is a job that runs all the while on a card of its own. Nobody who kills a part of the
lab ever touches it, unless it is meant: with nobody else to hit, the job to be killed is this one.
"""

import json
import secrets
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import requests

from tests.faults import workload
from tests.faults.gates import Gates
from tests.faults.processes import Born, wait_for
from tests.faults.stack import Lab, Stack

HOST = "gpu1"
CARDS = 4
BYSTANDER_SECONDS = 10_000.0
ENDED = ("succeeded", "failed", "cancelled")
ANSWERS_SECONDS = 90.0

Row = dict[str, Any]


class Ground:
    """One lab with one agent and its bystander, in `folder`. Only within a `with` block."""

    def __init__(self, folder: Path, *, by_proxy: bool = False) -> None:
        """`by_proxy`: the agent reaches the server through `self.proxy`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.memory = self.folder / "memory"
        self.memory.mkdir(exist_ok=True)
        self.gates = Gates(self.folder / "gates")
        self.stack = Stack(self.folder, held=True)
        self.lab = self.stack.lab()
        self.proxy = self.stack.proxy(self.lab)
        url = self.proxy.url if by_proxy else None
        self.agent = self.stack.agent(self.lab, HOST, url, "--simulate-gpus", str(CARDS))
        self.strangers: list[Lab] = []

    def __enter__(self) -> "Ground":
        try:
            self.lab.start()
            self.agent.start()
            self.new_bystander()
        except BaseException:
            self.stack.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stack.__exit__(*exc_info)

    def new_bystander(self) -> None:
        number = len(list(self.folder.glob("bystander*"))) + 1
        self.bystander = Subject(self, f"bystander{number}")
        self.bystander.submit(BYSTANDER_SECONDS, rows_per_second=4)
        self.bystander.wait_running()

    def stranger(self) -> Lab:
        """Another server, with a database that knows nothing, for the lab's own address."""
        if not self.strangers:
            self.strangers.append(self.stack.lab_at(self.lab.port, "stranger"))
        return self.strangers[0]

    def ask(self, question: str, *about: Any) -> list[Row]:
        """The server's rows as they are, also while it is down; none while they cannot be read."""
        path = self.lab.data_dir / "db.sqlite3"
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database,
        ):
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(question, about)]
        return []

    def insist(self, path: str, **body: Any) -> Any:
        """POST until it is answered: the web process may be on its way back."""

        def answered() -> Any:
            with suppress(requests.RequestException):
                response = self.lab.ask("POST", path, json=body)
                if response.status_code < 500:
                    assert response.ok, f"{path}: {response.status_code} {response.text[:300]}"
                    return response.json()
            return None

        return wait_for(answered, f"an answer to {path}", ANSWERS_SECONDS)

    def token(self) -> str:
        [path] = self.agent.state_dir.glob("*/token.json")
        return str(json.loads(path.read_text())["token"])


class Subject:
    """A job of the ground's, alone in its project, by what is known of it on both sides."""

    def __init__(self, ground: Ground, project: str) -> None:
        self.ground = ground
        self.project = project
        self.folder = ground.folder / project
        self.uid = ""
        self.folder.mkdir()

    def submit(
        self, seconds: float, policy: str = "wait", rows_per_second: float = 20
    ) -> "Subject":
        command = [sys.executable, "-m", "tests.faults.subject", "--folder", str(self.folder)]
        command += ["--memory", str(self.ground.memory), "--seconds", f"{seconds:g}"]
        command += ["--rows-per-second", f"{rows_per_second:g}"]
        # A name of its own: an answer that was lost tells nobody whether the job is queued.
        self._remember(
            self.ground.insist(
                "/api/jobs/",
                project=self.project, command=command, resources={"gpus": 1},
                on_device_lost=policy, name=secrets.token_hex(4), stop_grace="5s",
            )
        )  # fmt: skip
        return self

    def resume(self) -> None:
        """Go on from its checkpoint as a new job, which this stands for from now on."""
        self._remember(self.ground.insist(f"/api/jobs/{self.uid}/resume/"))

    def _remember(self, job: Row) -> None:
        self.uid, self.run_name = job["uid"], job["run_name"]

    # --- on the server ---

    @property
    def state(self) -> str:
        rows = self.ground.ask("SELECT state FROM experiments_job WHERE uid = ?", self.uid)
        return rows[0]["state"] if rows else ""

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    def attempts(self) -> list[Row]:
        return self.ground.ask(
            "SELECT a.* FROM experiments_attempt a JOIN experiments_job j ON j.id = a.job_id"
            " WHERE j.uid = ? ORDER BY a.number",
            self.uid,
        )

    def claims(self) -> int:
        return len(
            self.ground.ask(
                "SELECT 1 FROM experiments_gpuclaim c JOIN experiments_attempt a ON"
                " a.id = c.attempt_id JOIN experiments_job j ON j.id = a.job_id WHERE j.uid = ?",
                self.uid,
            )
        )

    def stored_bytes(self) -> int:
        """Of its metrics, as acknowledged."""
        rows = self._files("size")
        return sum(row["size"] for row in rows if row["name"].endswith(".csv"))

    def files_are_complete(self) -> bool:
        rows = self._files("complete")
        return len(rows) > 2 and all(row["complete"] for row in rows)

    def has_resume_point(self) -> bool:
        rows = self.ground.ask("SELECT resume_point FROM experiments_job WHERE uid = ?", self.uid)
        return bool(rows) and "resume" in json.loads(rows[0]["resume_point"])

    def _files(self, column: str) -> list[Row]:
        return self.ground.ask(
            f"SELECT f.name, f.{column} FROM sync_syncfile f JOIN experiments_job j"
            " ON j.id = f.job_id WHERE j.uid = ? AND f.shelf = 0",
            self.uid,
        )

    def wait_running(self) -> None:
        wait_for(lambda: self.state == "running", f"{self.project} runs", ANSWERS_SECONDS)
        wait_for(lambda: self.rows_written() > 2, f"{self.project} writes", ANSWERS_SECONDS)

    # --- on the agent's host ---

    def process(self) -> Born | None:
        return self._born("run.json")

    def supervisor(self) -> Born | None:
        return self._born("shim.json")

    def rows_written(self) -> int:
        """By all its attempts together."""
        return sum(workload.written_rows(path) for path in self.folder.glob("truth.*"))

    def is_settled(self) -> bool:
        """Whether its agent has nothing left to do for it."""
        ids = [str(UUID(attempt["id"])) for attempt in self.attempts()]
        folders = self.ground.agent.state_dir.glob("*/attempts/*")
        return not any(folder.name in ids for folder in folders)

    def _born(self, name: str) -> Born | None:
        """Whom its newest attempt's folder names, if that one lives."""
        attempts = self.attempts()
        if not attempts:
            return None
        [*_, newest] = attempts
        for path in self.ground.agent.state_dir.glob(f"*/attempts/{UUID(newest['id'])}/{name}"):
            with suppress(OSError, ValueError, psutil.NoSuchProcess):
                born = Born.of(json.loads(path.read_text())["pid"])
                return born if born.alive else None
        return None
