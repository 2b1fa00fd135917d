"""What `labrun.log` costs a training: in the loop itself, and until all of it is in the file.

Four metrics a call. Beside it stands the usual way, a csv.DictWriter that is flushed at each row;
and what one column more costs that comes up when the file is large.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS, ROUNDS = 200_000, 3  # the best of them
CALL_MICROSECONDS = 10.0
CALLS_PER_SECOND = 100_000
NAMES = ("loss", "val/loss", "accuracy", "lr")


def main() -> int:
    if sys.argv[1:] == ["child"]:
        return child()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        environ = {**os.environ, "LAB_METRICS_CSV": str(Path(folder) / "run.csv")}
        return subprocess.run(
            [sys.executable, "-m", "bench.labrun", "child"], env=environ, check=False
        ).returncode


def child() -> int:
    from agent.cli import labrun

    path = Path(os.environ["LAB_METRICS_CSV"])
    rounds = [one_round(labrun) for _ in range(ROUNDS)]
    call, total = (min(column) for column in zip(*rounds, strict=True))
    whole = path.read_bytes().count(b"\n") == ROUNDS * CALLS + 1
    plain = min(with_csv(path.with_name("plain.csv")) for _ in range(ROUNDS))
    began = time.perf_counter()
    labrun.log({"late": 1.0})
    labrun.flush()
    late = time.perf_counter() - began
    print(
        f"labrun.log: {call * 1e6:.2f} µs a call (to hold: {CALL_MICROSECONDS:.0f}), "
        f"{CALLS / total:.0f} calls/s until written (to hold: {CALLS_PER_SECOND}); "
        f"csv.DictWriter with flush: {plain * 1e6:.2f} µs; "
        f"a new column at {path.stat().st_size / 1e6:.0f} MB: {late * 1000:.0f} ms"
    )
    quick = call * 1e6 < CALL_MICROSECONDS and CALLS / total >= CALLS_PER_SECOND
    return 0 if whole and quick else 1


def one_round(labrun: Any) -> tuple[float, float]:
    """Seconds a call, and of all calls until their rows are in the file."""
    call = timed(lambda step: labrun.log(row(step), step=step))
    began = time.perf_counter()
    labrun.flush()
    return call, call * CALLS + time.perf_counter() - began


def row(step: int) -> dict[str, float]:
    return {name: step * 0.001 + at for at, name in enumerate(NAMES)}


def timed(act: Callable[[int], None]) -> float:
    """Seconds a call, without what making the row costs."""
    began = time.perf_counter()
    for step in range(CALLS):
        row(step)
    empty = time.perf_counter() - began
    began = time.perf_counter()
    for step in range(CALLS):
        act(step)
    return (time.perf_counter() - began - empty) / CALLS


def with_csv(path: Path) -> float:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("step", *NAMES))

        def write(step: int) -> None:
            writer.writerow({"step": step, **row(step)})
            file.flush()

        return timed(write)


if __name__ == "__main__":
    sys.exit(main())
