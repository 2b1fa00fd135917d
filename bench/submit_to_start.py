"""How long from a submit to the running process, on an idle local agent.

Each job is submitted over the API and says itself when it began (the wall clock of this host,
which both ends share). The next is submitted when the one before has ended, after a pause of
random length, so that no tick of the server's is met in step.
"""

import random
import statistics
import sys
import time
from pathlib import Path

from bench.server import Server, running, wait_for

JOBS = 50
MEDIAN_SECONDS = 0.5
P99_SECONDS = 1.5
ENDED = ("succeeded", "failed", "cancelled")


def main() -> int:
    with running(agent=True) as server:
        taken = sorted(start(server, number) for number in range(JOBS))
    median, p99 = statistics.median(taken), taken[round(0.99 * (JOBS - 1))]
    print(f"submit → process started, {JOBS} jobs: median {median * 1000:.0f} ms, ", end="")
    print(f"p99 {p99 * 1000:.0f} ms, longest {taken[-1] * 1000:.0f} ms", end=" ")
    print(f"(to hold: {MEDIAN_SECONDS * 1000:.0f} and {P99_SECONDS * 1000:.0f} ms)")
    return 0 if median <= MEDIAN_SECONDS and p99 <= P99_SECONDS else 1


def start(server: Server, number: int) -> float:
    """Submit one job, wait for its end, and return the seconds until its process began."""
    mark = server.folder / f"began-{number}"
    submitted_at = time.time()
    job = server.post(
        "/api/jobs/",
        project="bench",
        command=["sh", "-c", f"date +%s.%N > {mark}.part && mv {mark}.part {mark}"],
        resources={"gpus": 0},
    )
    began_at = wait_for(lambda: read(mark), f"the start of {job['run_name']}")
    wait_for(lambda: server.get(f"/api/jobs/{job['uid']}/")["state"] in ENDED, "its end")
    time.sleep(random.uniform(0.2, 1.2))
    return began_at - submitted_at


def read(mark: Path) -> float | None:
    return float(mark.read_text()) if mark.exists() else None


if __name__ == "__main__":
    sys.exit(main())
