"""How soon a backlog is at the server once the network is back.

A job's CSV grows by 10 MiB while its agent is cut off; measured is the time from when the line is
whole again until all of it is in the server's file. In it are the agent's finding out that the
server is back, and its asking what the server has. Beside it rsync --append-verify and cp bring
10 MiB from disk to disk, which know all that beforehand.
"""

import argparse
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.processes import wait_for
from tests.faults.stack import Stack

BACKLOG_BYTES = 10 * 1024**2
HOLD_TO_SECONDS = 5.0  # the slowest of a hundred
CUT_SECONDS = 3.0
LOOK_SECONDS = 0.01
VAIN_SECONDS = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        copied = dict(copies(Path(folder), rounds))
        healed = sorted(healings(Path(folder), rounds))
    p99 = healed[min(len(healed) - 1, round(0.99 * len(healed)))]
    median = statistics.median(healed)
    for name, seconds in copied.items():
        print(f"{name}: {seconds:.2f} s (healing takes {median / seconds:.0f} times as long)")
    print(f"healing 10 MiB: median {median:.2f} s, p99 {p99:.2f} s of {rounds}", end=" ")
    print(f"(to hold: p99 {HOLD_TO_SECONDS:.0f} s)")
    return 0 if p99 <= HOLD_TO_SECONDS else 1


def healings(folder: Path, rounds: int) -> Iterator[float]:
    """How long each took, in seconds."""
    draw = random.Random(7)
    with Stack(folder) as stack:
        lab = stack.lab().start()
        proxy = stack.proxy(lab)
        agent = stack.agent(lab, "gpu1", proxy.url).start()
        uid = lab.submit(["sleep", "100000"])
        lab.wait_running(uid)
        name = f"{lab.job(uid)['run_name']}.csv"
        here, there = agent.run_dir() / name, lab.run_dir() / name
        for _ in range(rounds):
            proxy.cut()
            with here.open("ab") as file:
                file.write(rows(draw))
            time.sleep(CUT_SECONDS)
            began = time.perf_counter()
            proxy.heal()
            while not there.exists() or there.stat().st_size < here.stat().st_size:
                assert time.perf_counter() - began < VAIN_SECONDS, "the backlog does not come"
                time.sleep(LOOK_SECONDS)
            yield time.perf_counter() - began
        wait_for(lambda: there.read_bytes() == here.read_bytes(), "both are equal", 10)


def rows(draw: random.Random) -> bytes:
    """Metrics as scripts write them: digits that compress to a half."""
    lines, size = [], 0
    while size < BACKLOG_BYTES:
        line = f"{len(lines)},{draw.random():.6f},{draw.random():.6f},{draw.random():.6f}\n"
        lines.append(line)
        size += len(line)
    return "".join(lines).encode()


def copies(folder: Path, rounds: int) -> Iterator[tuple[str, float]]:
    source, target = folder / "source", folder / "target"
    source.write_bytes(rows(random.Random(7)))
    commands = {"cp": ["cp"], "rsync --append-verify": ["rsync", "--append-verify"]}
    for name, command in commands.items():
        if not shutil.which(command[0]):
            print(f"{command[0]} is not installed, so it is not compared with")
            continue
        taken = [copied([*command, str(source), str(target)], target) for _ in range(rounds)]
        yield name, statistics.median(taken)


def copied(command: list[str], target: Path) -> float:
    target.unlink(missing_ok=True)
    began = time.perf_counter()
    subprocess.run(command, check=True)
    subprocess.run(["sync", str(target)], check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
