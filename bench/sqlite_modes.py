"""Why transactions are IMMEDIATE and synchronous is FULL (docs/adr/0001): lock errors, and rates.

Threads read a row and then change it, as a state machine does, on one database file.
"""

import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

THREADS = 8
SECONDS = 4.0


def main() -> int:
    results = {}
    for begin, synchronous in (
        ("DEFERRED", "FULL"),
        ("IMMEDIATE", "FULL"),
        ("IMMEDIATE", "NORMAL"),
    ):
        counts = results[begin, synchronous] = measure(begin, synchronous)
        print(
            f"{begin:9} {synchronous:6}: {counts['done'] / SECONDS:6.0f} transactions/s,", end=" "
        )
        print(f"{counts['locked']} times “database is locked”")
    return 1 if results["IMMEDIATE", "FULL"]["locked"] else 0


def measure(begin: str, synchronous: str) -> Counter[str]:
    """How many transactions were done, and how many refused, by all threads together."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / "db.sqlite3"
        with connected(path, synchronous) as db:
            db.execute("CREATE TABLE job (id INTEGER PRIMARY KEY, tries INTEGER)")
            db.executemany("INSERT INTO job VALUES (?, 0)", [(n,) for n in range(THREADS)])
        counts: Counter[str] = Counter()
        end = time.monotonic() + SECONDS
        threads = [
            threading.Thread(target=work, args=(path, begin, synchronous, number, end, counts))
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return counts


def work(
    path: Path, begin: str, synchronous: str, number: int, end: float, counts: Counter[str]
) -> None:
    db = connected(path, synchronous)
    while time.monotonic() < end:
        try:
            db.execute(f"BEGIN {begin}")
            [tries] = db.execute("SELECT tries FROM job WHERE id = ?", (number,)).fetchone()
            db.execute("UPDATE job SET tries = ? WHERE id = ?", (tries + 1, number))
            db.execute("COMMIT")
            counts["done"] += 1
        except sqlite3.OperationalError:
            counts["locked"] += 1
            if db.in_transaction:
                db.execute("ROLLBACK")
    db.close()


def connected(path: Path, synchronous: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=20, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={synchronous}")
    return db


if __name__ == "__main__":
    sys.exit(main())
