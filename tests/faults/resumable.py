"""A training whose curve is known: each epoch's value follows from the one before.

It keeps a checkpoint of each epoch, as many scripts do, and goes on from `$LAB_RESUME_FROM`. It
needs the standard library only.

    python tests/faults/resumable.py --epochs 12 --seconds 1
"""

import argparse
import hashlib
import json
import os
import time
from pathlib import Path

HEADER = "epoch,value\n"


def after(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def curve(epochs: int) -> str:
    """The CSV of a run that nothing happened to."""
    rows, value = HEADER, ""
    for epoch in range(1, epochs + 1):
        value = after(value)
        rows += f"{epoch},{value}\n"
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="of each epoch")
    args = parser.parse_args()
    metrics, folder = Path(os.environ["LAB_METRICS_CSV"]), Path(os.environ["LAB_RUN_DIR"])
    checkpoints = folder / os.environ["LAB_RUN_NAME"]
    checkpoints.mkdir(exist_ok=True)
    epoch, value = 0, ""
    if resume_from := os.environ.get("LAB_RESUME_FROM"):
        epoch, value = json.loads(Path(resume_from).read_text())
        print(f"going on after epoch {epoch}", flush=True)
    kept = metrics.read_text().splitlines(keepends=True) if epoch else [HEADER]
    metrics.write_text("".join(kept[: epoch + 1]))  # rows past the checkpoint are written anew
    while epoch < args.epochs:
        time.sleep(args.seconds)
        epoch, value = epoch + 1, after(value)
        with metrics.open("a") as file:
            file.write(f"{epoch},{value}\n")
        (checkpoints / f"ckpt_epoch{epoch}.pt").write_text(json.dumps([epoch, value]))


if __name__ == "__main__":
    main()
