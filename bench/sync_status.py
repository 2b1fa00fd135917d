"""How long the server takes to say how far a job's files are, when that is 10 GB of checkpoints.

The files are sparse: nothing of them is to be read for that.
"""

import os
import sqlite3
import statistics
import sys
import time
from contextlib import closing

from bench.sender import begin
from bench.server import running

CHECKPOINTS = 10
CHECKPOINT_BYTES = 10**9
ASKED = 200
P95_SECONDS = 0.020


def main() -> int:
    with running(agent=False) as server:
        sender = begin(server)
        uid = sender.experiment_uid
        with closing(sender.transport()) as transport:
            for number in range(CHECKPOINTS):
                name = f"{sender.run_name}/{number}.pt"
                transport.full(uid, name, b"weights", sender.headers())
        for path in (server.folder / "data" / "logs").rglob("*.pt"):
            os.truncate(path, CHECKPOINT_BYTES)
        with closing(sqlite3.connect(server.folder / "data" / "db.sqlite3", timeout=20)) as db:
            db.execute("UPDATE sync_syncfile SET size = ?", [CHECKPOINT_BYTES])
            db.commit()
        taken = sorted(asked(server, uid) for _ in range(ASKED))
    median, p95 = statistics.median(taken), taken[int(0.95 * (ASKED - 1))]
    print(f"/api/sync/status of {CHECKPOINTS * CHECKPOINT_BYTES / 1e9:.0f} GB: median", end=" ")
    print(f"{median * 1000:.1f} ms, p95 {p95 * 1000:.1f} ms", end=" ")
    print(f"(to hold: p95 {P95_SECONDS * 1000:.0f} ms)")
    return 0 if p95 <= P95_SECONDS else 1


def asked(server, uid: str) -> float:
    began = time.perf_counter()
    files = server.get(f"/api/sync/status/{uid}")["data"]["files"]
    seconds = time.perf_counter() - began
    assert sum(file["size"] for file in files.values()) == CHECKPOINTS * CHECKPOINT_BYTES
    return seconds


if __name__ == "__main__":
    sys.exit(main())
