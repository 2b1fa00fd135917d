"""Runs into an MLflow store, by MLflow's own store; for bench.peers, with MLflow's interpreter.

    python fill_mlflow.py RUNS.jsonl DATABASE POINTS SECONDS

A line of RUNS is `{"name": …, "state": …, "params": {…}, "tags": [...], "metrics": {…}}`. Ends
with one line of JSON: how many runs and points it took in SECONDS each, and what to ask for.
"""

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Engine, event

#: As many as one call of MLflow's takes.
BATCH = 1000


@event.listens_for(Engine, "connect")
def _hurry(connection: Any, _record: Any) -> None:
    """What is filled in here need not survive a power cut; the server is another process."""
    connection.execute("PRAGMA synchronous=OFF")


def main() -> None:
    runs, database, points, seconds = sys.argv[1:]
    store = SqlAlchemyStore(f"sqlite:///{database}", str(Path(database).parent / "artifacts"))
    experiment = store.create_experiment("bench")
    lines = Path(runs).read_text().splitlines()
    filled = fill(store, experiment, lines, float(seconds))
    curve, written = fill_curve(store, experiment, int(points), float(seconds))
    facts = {"runs": filled, "points": written, "experiment": experiment, "curve": curve}
    print(json.dumps(facts))


def fill(store: SqlAlchemyStore, experiment: str, lines: list[str], seconds: float) -> int:
    end = time.monotonic() + seconds
    for count, line in enumerate(lines):
        if time.monotonic() > end:
            return count
        _add(store, experiment, json.loads(line))
    return len(lines)


def _add(store: SqlAlchemyStore, experiment: str, run: dict[str, Any]) -> None:
    now = int(time.time() * 1000)
    tags = [RunTag(f"tag.{tag}", "1") for tag in run["tags"]]
    made = store.create_run(experiment, "bench", now, tags, run["name"])
    metrics = [Metric(name, value, now, 0) for name, value in run["metrics"].items()]
    params = [Param(name, str(value)) for name, value in run["params"].items()]
    store.log_batch(made.info.run_id, metrics, params, [])
    status = RunStatus.FINISHED if run["state"] == "succeeded" else RunStatus.FAILED
    store.update_run_info(made.info.run_id, status, now, run["name"])


def fill_curve(
    store: SqlAlchemyStore, experiment: str, points: int, seconds: float
) -> tuple[str, int]:
    """A run with one long curve; its id, and how long the curve became."""
    end = time.monotonic() + seconds
    run = store.create_run(experiment, "bench", 0, [], "curve").info.run_id
    written = 0
    steps = iter(range(points))
    while (some := list(itertools.islice(steps, BATCH))) and time.monotonic() < end:
        store.log_batch(run, [Metric("loss", 1 / (n + 1), n, n) for n in some], [], [])
        written += len(some)
    return run, written


if __name__ == "__main__":
    main()
