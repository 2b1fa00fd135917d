"""How many durable deltas of 1 KiB a second the server takes: logs, metrics, and small files.

Eight logs of one run grow, each over a connection of its own with one request under way at most;
a delta counts when its answer has come, which is after its fsync and its commit. Then the metrics
of eight runs, of which the server keeps the last and best values up to date. Then one connection
sends as many small files, each for itself and thirty-two in a request.
"""

import argparse
import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing

import requests

from bench.sender import Sender, begin_runs
from bench.server import running

HOLD_TO_RATE = 300.0
DELTA_BYTES = 1024
FILES = 8
ARTIFACTS = 256
BATCH = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    with running(agent=False) as server:
        senders = begin_runs(server, FILES)
        sender = senders[0]
        logs = [(sender, f"{sender.run_name}.{number}.log") for number in range(FILES)]
        rate = deltas(logs, os.urandom(DELTA_BYTES), options.seconds)
        print(f"{rate:.0f} durable deltas/s of 1 KiB to {FILES} logs", end=" ")
        print(f"(to hold: {HOLD_TO_RATE:.0f})")
        metrics = [(one, f"{one.run_name}.csv") for one in senders]
        print(f"{deltas(metrics, rows(), options.seconds):.0f}/s to the metrics of {FILES} runs")
        for what, send in (("each for itself", singly), (f"{BATCH} in a request", batched)):
            seconds = timed(lambda: send(sender))  # noqa: B023
            print(f"{ARTIFACTS} files of 1 KiB, {what}: {ARTIFACTS / seconds:.0f}/s")
    return 0 if rate >= HOLD_TO_RATE else 1


def rows() -> bytes:
    """A delta of a CSV: a few rows of six columns."""
    row = b",".join(b"%.8f" % (number / 7) for number in range(6)) + b"\n"
    return row * (DELTA_BYTES // len(row))


def deltas(files: list[tuple[Sender, str]], piece: bytes, seconds: float) -> float:
    """How many a second, all files together; each grows by `piece`."""
    counts = [0] * len(files)
    digest = hashlib.sha256(piece).hexdigest()
    until = time.monotonic() + seconds

    def grow(number: int) -> None:
        sender, name = files[number]
        with closing(sender.transport()) as transport:
            while time.monotonic() < until:
                offset = counts[number] * len(piece)
                headers = sender.headers(X_Sync_Offset=offset, X_Chunk_SHA256=digest)
                answer = transport.delta(sender.experiment_uid, name, piece, headers)
                assert answer["data"]["acked_bytes"] == offset + len(piece)
                counts[number] += 1

    workers = [threading.Thread(target=grow, args=(number,)) for number in range(len(files))]
    return timed(lambda: all_of(workers), counts)


def all_of(workers: list[threading.Thread]) -> None:
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def timed(work: Callable[[], object], counts: list[int] | None = None) -> float:
    """Seconds; with `counts`, how many a second."""
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    return seconds if counts is None else sum(counts) / seconds


def singly(sender: Sender) -> None:
    with closing(sender.transport()) as transport:
        for number in range(ARTIFACTS):
            name = f"{sender.run_name}/single/{number}.bin"
            transport.full(sender.experiment_uid, name, os.urandom(DELTA_BYTES), sender.headers())


def batched(sender: Sender) -> None:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {sender.token}"
        url = f"{sender.url}/api/sync/batch/{sender.experiment_uid}"
        for first in range(0, ARTIFACTS, BATCH):
            files = [
                ("file", (f"{sender.run_name}/batch/{number}.bin", os.urandom(DELTA_BYTES),
                          "application/octet-stream", sender.headers()))
                for number in range(first, first + BATCH)
            ]  # fmt: skip
            answer = session.post(url, files=files, timeout=60).json()
            assert {part["status"] for part in answer["data"]["parts"]} == {200}


if __name__ == "__main__":
    sys.exit(main())
