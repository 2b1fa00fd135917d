"""The same runs in this lab, in MLflow and in Aim, side by side: what a page costs each server.

    .venv/bin/python -m bench.peers --mlflow PYTHON --aim PYTHON
    .venv/bin/python -m bench.peers --install       # both, by pip, in a temporary folder

PYTHON is an interpreter in which the peer is installed; one that is not given is left out, and so
is one that does not install. All three have the runs of one demo lab (configs, tags, last metrics)
and a run with a long curve, start their own server on loopback, and are asked over HTTP for what
their own pages ask: a page of runs, of the best that succeeded, one run, its curve.

A peer is filled by its own code, and that is cut off after `--seconds`, for runs and again for
points: so what each holds is told beside the numbers. There is no bound to hold here.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from bench.pages import pages, prepare, sign_in
from bench.server import ROOT, running, wait_for

HERE = Path(__file__).parent
REQUESTS = 15
ANSWER_SECONDS = 60
INSTALL_SECONDS = 900
#: Beyond its own limit of time: for imports, and a first database.
FILL_GRACE_SECONDS = 120
QUESTIONS = ("page of runs", "best that succeeded", "one run", "curve")
#: Neither peer is to tell anybody that it was measured.
SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "AIM_UI_TELEMETRY_ENABLED": "0"}

Ask = Callable[[], requests.Response]


@dataclass
class Column:
    """What was measured of one server."""

    name: str
    holds: str = ""  # how many runs and points
    took_ms: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def measure(self, asks: dict[str, Ask]) -> None:
        for question, ask in asks.items():
            try:
                _timed(ask)  # what it loads with the first
                self.took_ms[question] = [_timed(ask) for _ in range(REQUESTS)]
            except requests.RequestException as exc:
                self.failed[question] = str(exc)[:200]

    def median(self, question: str) -> float | None:
        took = self.took_ms.get(question)
        return statistics.median(took) if took else None


def _timed(ask: Ask) -> float:
    begun = time.perf_counter()
    ask().raise_for_status()
    return 1000 * (time.perf_counter() - begun)


# --- ours ---------------------------------------------------------------------------------------


def measure_ours(folder: Path, uid: str, device: int, runs: int) -> Column:
    column = Column("here", f"{runs:,} runs, a curve of 10^6 × 8")
    path = {page.name: page.path for page in pages(uid, device)}
    with running(agent=False, prepared=folder) as server:
        session = sign_in(server)

        def page(name: str) -> Ask:
            return lambda: session.get(server.url + path[name], timeout=ANSWER_SECONDS)

        names = "run table", "run table, filtered and sorted", "run", "curve of 10^6 × 8, again"
        column.measure(dict(zip(QUESTIONS, map(page, names), strict=True)))
    return column


def write_runs(file: Path) -> None:
    """In a process of its own, on the lab that the environment names: a line a run."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "labsite.settings"
    import django

    django.setup()

    from experiments.metrics import values_of
    from experiments.models import Job

    with open(file, "w") as out:
        for job in Job.objects.order_by("pk").iterator():
            values = values_of(job.summary).items()
            metrics = {name: last for name, (last, *_) in values if last is not None}
            params = {k: v for k, v in job.keys.items() if isinstance(v, int | float | str)}
            one = {"name": job.uid, "state": job.state, "tags": job.tags}
            out.write(json.dumps({**one, "params": params, "metrics": metrics}) + "\n")


# --- the peers ----------------------------------------------------------------------------------


class Peer(ABC):
    """A tracker of somebody else's, in an interpreter of its own."""

    name: str

    def __init__(self, python: Path, folder: Path, options: argparse.Namespace) -> None:
        self.python = python
        self.folder = folder / self.name
        self.folder.mkdir()
        self._options = options
        self._session = requests.Session()
        self._session.trust_env = False

    def measured(self, runs: Path) -> Column:
        facts = self._filled(runs)
        told = f"{facts['runs']:,} runs, a curve of {facts['points']:,} points"
        column = Column(self.name, told)
        with self._serving() as url:
            column.measure(dict(zip(QUESTIONS, self.asks(url, facts), strict=True)))
        return column

    @abstractmethod
    def store(self) -> Path: ...

    @abstractmethod
    def command(self, port: int) -> list[str]: ...

    @abstractmethod
    def asks(self, url: str, facts: dict[str, Any]) -> list[Ask]:
        """In the order of QUESTIONS."""

    def _get(self, url: str, **params: Any) -> Ask:
        return lambda: self._session.get(url, params=params, timeout=ANSWER_SECONDS)

    def _post(self, url: str, body: Any) -> Ask:
        return lambda: self._session.post(url, json=body, timeout=ANSWER_SECONDS)

    def _filled(self, runs: Path) -> dict[str, Any]:
        options = self._options
        script = HERE / f"fill_{self.name}.py"
        given = [runs, self.store(), options.points, options.seconds]
        limit = 2 * options.seconds + FILL_GRACE_SECONDS
        done = subprocess.run(
            [str(one) for one in (self.python, script, *given)], cwd=self.folder,
            env={**os.environ, **SILENT}, stdout=subprocess.PIPE, text=True, timeout=limit,
            check=True,
        )  # fmt: skip
        facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return facts

    @contextlib.contextmanager
    def _serving(self) -> Iterator[str]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        with open(self.folder / "output", "wb") as output:
            process = subprocess.Popen(
                self.command(port), cwd=self.folder, env={**os.environ, **SILENT},
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            wait_for(lambda: self._answers(url), f"{self.name}'s server", 120)
            yield url
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)  # its workers too; its folder goes with it
            process.wait()

    def _answers(self, url: str) -> bool:
        with contextlib.suppress(requests.RequestException):
            return self._session.get(url, timeout=5).status_code < 500
        return False


class MLflow(Peer):
    name = "mlflow"

    def store(self) -> Path:
        return self.folder / "mlflow.db"

    def command(self, port: int) -> list[str]:
        store = ["--backend-store-uri", f"sqlite:///{self.store()}", "--workers", "1"]
        there = ["--host", "127.0.0.1", "--port", str(port)]
        return [str(self.python), "-m", "mlflow", "server", *store, *there]

    def asks(self, url: str, facts: dict[str, Any]) -> list[Ask]:
        """As its own pages do, of the same addresses. Of params it compares text only, so the best
        are sought by a metric."""
        api = f"{url}/ajax-api/2.0/mlflow"
        of = {"experiment_ids": [facts["experiment"]], "max_results": 50}
        newest = {**of, "order_by": ["attributes.start_time DESC"]}
        best = {
            **of,
            "filter": "attributes.status = 'FINISHED' and metrics.`test/accuracy` > 0",
            "order_by": ["metrics.`test/accuracy` DESC"],
        }
        curve = {"run_ids": facts["curve"], "metric_key": "loss", "max_results": 2000}
        return [
            self._post(f"{api}/runs/search", newest),
            self._post(f"{api}/runs/search", best),
            self._get(f"{api}/runs/get", run_id=facts["curve"]),
            self._get(f"{api}/metrics/get-history-bulk-interval", **curve),
        ]


class Aim(Peer):
    name = "aim"

    def store(self) -> Path:
        return self.folder

    def command(self, port: int) -> list[str]:
        aim = self.python.with_name("aim")
        there = ["--host", "127.0.0.1", "--port", str(port)]
        return [str(aim), "up", "--repo", str(self.folder), "--yes", *there]

    def asks(self, url: str, facts: dict[str, Any]) -> list[Ask]:
        """It orders runs by time only, so those that succeeded come without an order."""
        api = f"{url}/api/runs"
        page = {"limit": 50, "report_progress": "false"}
        run = f"{api}/{facts['curve']}"
        return [
            self._get(f"{api}/search/run/", q="", **page),
            self._get(f"{api}/search/run/", q="run.state == 'succeeded'", **page),
            self._get(f"{run}/info/", sequence="metric"),
            self._post(f"{run}/metric/get-batch/", [{"name": "loss", "context": {}}]),
        ]


PEERS: tuple[type[Peer], ...] = (MLflow, Aim)


def installed(name: str, folder: Path) -> Path:
    """An interpreter in which pip has installed it."""
    home = folder / f"{name}-python"
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    python = home / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", name]
    subprocess.run(command, check=True, timeout=INSTALL_SECONDS)
    return python


def measure_peer(kind: type[Peer], folder: Path, options: argparse.Namespace) -> Column | None:
    """None: it was neither given nor to be installed. One that fails says why, in its column."""
    given = getattr(options, kind.name)
    if not given and not options.install:
        return None
    try:
        python = given.absolute() if given else installed(kind.name, folder)
        return kind(python, folder, options).measured(folder / "runs.jsonl")
    except (subprocess.SubprocessError, SystemExit, ValueError) as exc:
        return Column(kind.name, f"left out: {exc}")


# --- the table ----------------------------------------------------------------------------------


def tell(ours: Column, others: list[Column]) -> None:
    for column in (ours, *others):
        print(f"{column.name}: {column.holds}")
        for question, why in column.failed.items():
            print(f"  {question}: {why}")
    print(f"\n{'median of ' + str(REQUESTS):22}", *(f"{one.name:>22}" for one in (ours, *others)))
    for question in QUESTIONS:
        cells = [_cell(ours.median(question), None)]
        cells += [_cell(one.median(question), ours.median(question)) for one in others]
        print(f"{question:22}", *(f"{cell:>22}" for cell in cells))
    print(f"\nload: {os.getloadavg()[0]:.1f}", flush=True)


def _cell(median: float | None, beside: float | None) -> str:
    if median is None:
        return "–"
    ratio = f" ({median / beside:.1f} ×)" if beside else ""
    return f"{median:.0f} ms{ratio}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for kind in PEERS:
        parser.add_argument(f"--{kind.name}", type=Path, metavar="PYTHON")
    parser.add_argument("--install", action="store_true", help="those not given, by pip")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=10**6, help="of a peer's long curve")
    parser.add_argument("--seconds", type=float, default=240, help="to fill a peer, twice")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_runs(options.write)
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-peers-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        uid, device = prepare(folder, options.runs)
        environment = {**os.environ, "LAB_DATA_DIR": str(folder / "data")}
        command = [sys.executable, "-m", "bench.peers", "--write", str(folder / "runs.jsonl")]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        ours = measure_ours(folder, uid, device, options.runs)
        found = [measure_peer(kind, folder, options) for kind in PEERS]
        tell(ours, [column for column in found if column])
    return 0


if __name__ == "__main__":
    sys.exit(main())
