"""How long a row takes from an agent's disk to the server's, with eight runs that write.

Each job writes rows with the time at which they were written (the wall clock of this host, which
both ends share); here it is looked for them in the server's files, as a page would show them.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.server import wait_for
from tests.faults.stack import Lab, Stack

RUNS = 8
ROWS_PER_SECOND = 2
P95_SECONDS = 1.0
LOOK_SECONDS = 0.01
STARTED_SECONDS = 120.0
SCRIPT = """
import os, time
end = time.time() + {seconds}
with open(os.environ["LAB_METRICS_CSV"], "a", buffering=1) as metrics:
    metrics.write("written_at,loss\\n")
    while time.time() < end:
        metrics.write(f"{{time.time():.6f}},0.5\\n")
        time.sleep({pause})
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    length = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder)) as stack:
        lab = stack.lab().start()
        stack.agent(lab, "gpu1", None, "--simulate-gpus", str(RUNS)).start()
        files = [begin(lab, number, length) for number in range(RUNS)]
        wait_for(lambda: all(map(has_rows, files)), "the first rows", STARTED_SECONDS)
        took = sorted(seen(files, length))
    median, p95 = statistics.median(took), took[int(0.95 * (len(took) - 1))]
    print(f"row written → at the server, {RUNS} runs, {len(took)} rows: median", end=" ")
    print(
        f"{median * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms, longest {took[-1] * 1000:.0f} ms",
        end=" ",
    )
    print(f"(to hold: p95 {P95_SECONDS * 1000:.0f} ms)")
    return 0 if p95 <= P95_SECONDS else 1


def begin(lab: Lab, number: int, length: float) -> Path:
    """Submit one that writes long enough; its file on the server's side."""
    project = f"bench{number}"
    script = SCRIPT.format(seconds=2 * length + STARTED_SECONDS, pause=1 / ROWS_PER_SECOND)
    command = [sys.executable, "-c", script]
    uid = lab.submit(command, project=project, resources={"gpus": 1})
    return lab.run_dir(project) / f"{lab.job(uid)['run_name']}.csv"


def has_rows(path: Path) -> bool:
    return path.exists() and path.read_bytes().count(b"\n") > 1


def seen(files: list[Path], length: float) -> list[float]:
    """Seconds that each row took which came in this time."""
    known = {path: path.stat().st_size for path in files}
    took, end = [], time.monotonic() + length
    while time.monotonic() < end:
        for path in files:
            if path.stat().st_size > known[path]:
                now, news = time.time(), path.read_bytes()[known[path] :]
                known[path] += len(news)
                took += [now - float(line.split(b",")[0]) for line in news.splitlines()]
        time.sleep(LOOK_SECONDS)
    return took


if __name__ == "__main__":
    sys.exit(main())
