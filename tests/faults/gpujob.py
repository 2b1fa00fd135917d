"""A job that uses the cards it was given, and writes down whoever else does.

    python gpujob.py --cards FOLDER --seconds 2

It holds 8 GiB of each card in CUDA_VISIBLE_DEVICES (tests.faults.fakenvml), and locks the card for
its own life, so that two living jobs on one card cannot stay unseen. What it finds wrong, and that
it ran, is a line of FOLDER/../jobs.log.
"""

import argparse
import fcntl
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.faults.fakenvml import memory

BYTES = 8 * 2**30
SHARED, HELD = "SHARED", "HELD"  # how a line begins that tells of something wrong


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cards", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    log = given.cards.parent / "jobs.log"
    locks = []
    for uuid in os.environ["CUDA_VISIBLE_DEVICES"].split(","):
        card = given.cards / uuid
        locks.append(open(card / "lock", "a"))  # noqa: SIM115 - for life
        try:
            fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(log, f"{SHARED} {uuid}: another job lives on it")
        if held := memory(card):
            say(log, f"{HELD} {uuid}: its memory is held by {held}")
        (card / f"{os.getpid()}.new").write_text(str(BYTES))
        (card / f"{os.getpid()}.new").rename(card / str(os.getpid()))
        say(log, f"RAN {uuid}")
    time.sleep(given.seconds)


def say(log: Path, text: str) -> None:
    with open(log, "a") as file:
        file.write(f"{text} ({os.environ['LAB_ATTEMPT_ID']}, pid {os.getpid()})\n")


if __name__ == "__main__":
    main()
