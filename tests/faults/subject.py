"""A job for the kill matrix: the workload's rows, and a witness against whoever runs it wrongly.

It goes on from the checkpoint's metrics that it was given. In `--folder` it leaves:
    truth.RUN.ATTEMPT   the number of each row that it has written
    faults              what must never be: a second living process of its job, a card that
                        another's memory is still on
Whether another one lives says the lock on `alive`, which ends with its process.
"""

import argparse
import fcntl
import os
import sys
import time
from pathlib import Path

from tests.faults import memory, workload

ROWS_PER_CHECKPOINT = 10
OVERLAP = 97  # exit code


def begin(folder: Path, cards: Path | None) -> None:
    """Note what is wrong already."""
    alive = os.open(folder / "alive", os.O_WRONLY | os.O_CREAT)
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        complain(folder, "another process of the job lives")
        sys.exit(OVERLAP)
    uuids = [uuid for uuid in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if uuid]
    for uuid in memory.take(cards, uuids) if cards else []:
        complain(folder, f"{uuid} was given to it while memory of another was held there")


def complain(folder: Path, what: str) -> None:
    with open(folder / "faults", "a") as file:
        file.write(f"{os.environ['LAB_RUN_NAME']} try {os.environ['LAB_ATTEMPT']}: {what}\n")


def rows_given(metrics: Path) -> int:
    """How many rows an earlier attempt's metrics bring; the rest of a torn one is cut off."""
    content = metrics.read_bytes() if metrics.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if not whole.startswith(workload.HEADER + b"\n"):
        metrics.write_bytes(workload.HEADER + b"\n")
        return 0
    if whole != content:
        metrics.write_bytes(whole)
    return whole.count(b"\n") - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--memory", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rows-per-second", type=float, default=20.0)
    args = parser.parse_args()
    begin(args.folder, args.memory)
    metrics = Path(os.environ["LAB_METRICS_CSV"])
    number = rows_given(metrics)
    name = f"truth.{os.environ['LAB_RUN_NAME']}.{os.environ['LAB_ATTEMPT']}"
    writer = workload.Writer(metrics, args.folder / name, Path(os.environ["LAB_CHECKPOINT"]))
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        number += 1
        writer.write(number)
        if number % ROWS_PER_CHECKPOINT == 0:
            writer.save(number)
        time.sleep(1 / args.rows_per_second)


if __name__ == "__main__":
    main()
