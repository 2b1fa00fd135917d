"""The agent's memory: one SQLite file in the state folder.

What is written here and committed survives a power cut (WAL, synchronous=FULL), and the
agent says nothing to the server that it has not written first. Modules bring their own tables:

    store.register("CREATE TABLE IF NOT EXISTS …;")
    with store.transaction() as db:
        db.execute(…)
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_META = "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);"


class Store:
    """Safe for use by several threads: transactions of one process take turns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.RLock()
        self._db = sqlite3.connect(path, timeout=20, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self.register(_META)

    def register(self, schema: str) -> None:
        """Make a module's tables. `schema` may be several statements, each IF NOT EXISTS."""
        with self._turn:
            self._db.executescript(schema)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and durable at the end of the block.

        Rows are sqlite3.Row. No network, process or sleep inside: other threads wait.
        """
        with self._turn:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:  # a full disk at COMMIT too
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def get(self, key: str) -> str | None:
        with self._turn:
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row["value"])

    def put(self, key: str, value: str) -> None:
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def close(self) -> None:
        with self._turn:
            self._db.close()


class StoreReader(Store):
    """The store of an agent that may be running: nothing is written, and nobody is held up."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            sqlite3.Error: there is none, or it cannot be read.
        """
        self.path = path
        self._turn = threading.RLock()
        uri = f"{path.absolute().as_uri()}?mode=ro"
        self._db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row

    def register(self, schema: str) -> None:
        """The tables are those that the agent has made."""

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with self._turn:
            yield self._db
