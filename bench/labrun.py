"""What `labrun.log` costs a training: in the loop itself, and until all of it is in the file.

Four metrics a call. In processor time of the whole process, its writing thread included, so that a
busy machine says the same; and as the clock on the wall has it. Beside it stands the usual way, a
csv.DictWriter that is flushed at each row; and what one column more costs when the file is large.
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
    cost, clock = best(lambda: one_round(labrun))
    whole = path.read_bytes().count(b"\n") == ROUNDS * CALLS + 1
    plain, plain_clock = best(lambda: with_csv(path.with_name("plain.csv")))
    began = time.process_time()
    labrun.log({"late": 1.0})
    labrun.flush()
    late = time.process_time() - began
    print(
        f"labrun.log: {cost * 1e6:.2f} µs a call until written (to hold: "
        f"{CALL_MICROSECONDS:.0f}), {1 / cost:.0f} calls/s (to hold: {CALLS_PER_SECOND}); by the "
        f"clock {clock * 1e6:.2f} µs; csv.DictWriter with flush: {plain * 1e6:.2f} µs, by the "
        f"clock {plain_clock * 1e6:.2f}; a new column at {path.stat().st_size / 1e6:.0f} MB: "
        f"{late * 1000:.0f} ms"
    )
    return 0 if whole and cost * 1e6 < CALL_MICROSECONDS and 1 / cost >= CALLS_PER_SECOND else 1


def best(measure: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """The least processor time a call of some rounds, and the least by the clock."""
    costs, clocks = zip(*(measure() for _ in range(ROUNDS)), strict=True)
    return min(costs), min(clocks)


def one_round(labrun: Any) -> tuple[float, float]:
    def all_calls() -> None:
        for step in range(CALLS):
            labrun.log(row(step), step=step)
        labrun.flush()

    return per_call(all_calls)


def with_csv(path: Path) -> tuple[float, float]:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("step", *NAMES))

        def all_rows() -> None:
            for step in range(CALLS):
                writer.writerow({"step": step, **row(step)})
                file.flush()

        return per_call(all_rows)


def per_call(act: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the processor and of the clock, without what making the rows costs."""
    empty = measured(lambda: [row(step) for step in range(CALLS)])
    full = measured(act)
    return (full[0] - empty[0]) / CALLS, (full[1] - empty[1]) / CALLS


def measured(act: Callable[[], object]) -> tuple[float, float]:
    cost, clock = time.process_time(), time.perf_counter()
    act()
    return time.process_time() - cost, time.perf_counter() - clock


def row(step: int) -> dict[str, float]:
    return {name: step * 0.001 + at for at, name in enumerate(NAMES)}


if __name__ == "__main__":
    sys.exit(main())
