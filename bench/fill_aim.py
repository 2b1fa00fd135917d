"""Runs into an Aim repository, by Aim's own `Run`; for bench.peers, with Aim's interpreter.

    python fill_aim.py RUNS.jsonl FOLDER POINTS SECONDS

A line of RUNS is as fill_mlflow.py has it. Aim opens a store of its own for each run and waits for
the disk several times: so several processes share the runs, and each gives up after SECONDS. Ends
with one line of JSON: how many runs and points that were, and what to ask for.
"""

import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from aim import Repo, Run

PROCESSES = 8
LOOKED_AT = 1000  # points after which the time is looked at


def main() -> None:
    runs, folder, points, seconds = sys.argv[1:]
    Repo.from_path(folder, init=True)
    lines = Path(runs).read_text().splitlines()
    shares = [lines[n::PROCESSES] for n in range(PROCESSES)]
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:  # its threads do not fork
        given = [folder] * PROCESSES, shares, [float(seconds)] * PROCESSES
        filled = sum(pool.map(fill, *given))
    curve, written = fill_curve(folder, int(points), float(seconds))
    print(json.dumps({"runs": filled, "points": written, "curve": curve}))


def fill(folder: str, lines: list[str], seconds: float) -> int:
    end = time.monotonic() + seconds
    for count, line in enumerate(lines):
        if time.monotonic() > end:
            return count
        _add(folder, json.loads(line))
    return len(lines)


def _begun(folder: str) -> Run:
    return Run(
        repo=folder, experiment="bench", system_tracking_interval=None,
        log_system_params=False, capture_terminal_logs=False,
    )  # fmt: skip


def _add(folder: str, one: dict[str, Any]) -> None:
    run = _begun(folder)
    run.name = one["name"]
    run["params"] = one["params"]
    run["state"] = one["state"]
    for tag in one["tags"]:
        run.add_tag(tag)
    for name, value in one["metrics"].items():
        run.track(value, name=name, step=0)
    run.close()


def fill_curve(folder: str, points: int, seconds: float) -> tuple[str, int]:
    """A run with one long curve; its hash, and how long the curve became."""
    end = time.monotonic() + seconds
    run = _begun(folder)
    written = 0
    while written < points and time.monotonic() < end:
        for step in range(written, min(points, written + LOOKED_AT)):
            run.track(1 / (step + 1), name="loss", step=step)
        written = min(points, written + LOOKED_AT)
    run.close()
    return str(run.hash), written


if __name__ == "__main__":
    main()
