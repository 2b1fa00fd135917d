"""What the server has acknowledged of each file, and under which number.

A database of its own, so that a disk that is slow with a file's progress holds up neither a
poll nor an event. A generation is written here before its first use: none is ever used twice.
"""

import sqlite3
from dataclasses import dataclass

from agent.store import Store

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sent_files (
    attempt_id TEXT NOT NULL,
    name TEXT NOT NULL,
    generation INTEGER NOT NULL,
    acked_bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    complete INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    mark TEXT NOT NULL,
    PRIMARY KEY (attempt_id, name)
);
"""
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@dataclass(frozen=True)
class Sent:
    """What is known of the server's copy of one file.

    `sha256` is that of the acknowledged bytes of a file that grows, and of the version offered
    under `generation` for one that is sent whole.
    """

    generation: int
    acked_bytes: int = 0
    sha256: str = EMPTY_SHA256
    complete: bool = False  # the server has confirmed the hash of the whole
    deleted: bool = False  # the server does not want it any more
    mark: str = ""  # of the file here when all of it was acknowledged; see regular.Mark


class FileJournal:
    def __init__(self, store: Store) -> None:
        self._store = store
        store.register(_SCHEMA)

    def find(self, attempt_id: str, name: str) -> Sent | None:
        with self._store.transaction() as db:
            row = db.execute(
                "SELECT * FROM sent_files WHERE attempt_id = ? AND name = ?", (attempt_id, name)
            ).fetchone()
        return None if row is None else _sent(row)

    def of(self, attempt_id: str) -> dict[str, Sent]:
        """All files of an attempt that were ever offered, by name."""
        with self._store.transaction() as db:
            rows = db.execute("SELECT * FROM sent_files WHERE attempt_id = ?", (attempt_id,))
            return {row["name"]: _sent(row) for row in rows}

    def generation_in_the_way(self, attempt_id: str, name: str) -> int:
        """The newest of those files that cannot lie beside this one: each is the place of a folder
        of the other's. 0: none was ever offered."""
        parts = name.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts))]
        asked = ", ".join("?" * len(above))
        with self._store.transaction() as db:
            row = db.execute(
                "SELECT max(generation) AS newest FROM sent_files WHERE attempt_id = ?"  # noqa: S608
                f" AND (name IN ({asked}) OR (name > ? AND name < ?))",
                (attempt_id, *above, f"{name}/", f"{name}0"),  # what comes after "/" is "0"
            ).fetchone()
        return row["newest"] or 0

    def put(self, attempt_id: str, name: str, sent: Sent) -> None:
        """Durable when it returns."""
        with self._store.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO sent_files VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    attempt_id,
                    name,
                    sent.generation,
                    sent.acked_bytes,
                    sent.sha256,
                    sent.complete,
                    sent.deleted,
                    sent.mark,
                ),
            )

    def why_unusable(self, exc: sqlite3.Error) -> str:
        """For people: where it lies, and what is to be done."""
        folder = self._store.path.parent
        is_full = "full" in str(exc)
        do = f"make room on the disk of {folder}" if is_full else f"see to the disk of {folder}"
        return f"what was sent cannot be noted in {self._store.path}: {exc}: {do}"

    def forget(self, attempt_id: str) -> None:
        with self._store.transaction() as db:
            db.execute("DELETE FROM sent_files WHERE attempt_id = ?", (attempt_id,))


def _sent(row: sqlite3.Row) -> Sent:
    return Sent(
        generation=row["generation"],
        acked_bytes=row["acked_bytes"],
        sha256=row["sha256"],
        complete=bool(row["complete"]),
        deleted=bool(row["deleted"]),
        mark=row["mark"],
    )
