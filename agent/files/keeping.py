"""Deleting what ended runs left on this host, days after the server confirmed it (`--keep-days`).

Not done unless it is asked for: until then this host's copy is the second one of a lab's results.
A file goes only if the server confirmed its hash, its run has ended, and it is still the very file
that was confirmed. Days are those on which the agent ran: a clock that was set deletes nothing.
What lies in a job's working directory is its user's, and is never touched.
"""

import json
import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from agent import shim
from agent.backoff import Bell
from agent.files.regular import Mark
from agent.files.runfiles import RunFiles
from agent.files.tracked import Tracked
from agent.store import Store

logger = logging.getLogger(__name__)

DAY_SECONDS = 86_400.0
LOOK_SECONDS = 3600.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS kept_runs (
    attempt_id TEXT PRIMARY KEY,
    run_dir TEXT NOT NULL,
    marks TEXT NOT NULL,              -- JSON: name → mark of what was confirmed
    kept_seconds REAL NOT NULL DEFAULT 0
);
"""


class Keeping:
    def __init__(
        self,
        store: Store,
        days: float,
        rights_in: Callable[[Path], AbstractContextManager[None]] = lambda run_dir: nullcontext(),
    ) -> None:
        self._store = store
        self._seconds = days * DAY_SECONDS
        self._rights_in = rights_in
        self._bell = Bell()
        store.register(_SCHEMA)

    def note(self, run: RunFiles, files: Iterable[Tracked]) -> None:
        """A run is settled: from now on its files are kept for so long."""
        marks = {
            file.name: file.sent.mark
            for file in files
            if file.sent and file.sent.complete and not file.sent.deleted
            if not run.is_output(file.name)
        }
        with self._store.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO kept_runs (attempt_id, run_dir, marks) VALUES (?, ?, ?)",
                (run.attempt_id, str(run.run_dir), json.dumps(marks)),
            )

    def under_way(self, attempt_id: str) -> None:
        """It is not settled any more: of what the server has lost this is the only copy."""
        with self._store.transaction() as db:
            db.execute("DELETE FROM kept_runs WHERE attempt_id = ?", (attempt_id,))

    def moved(self, attempt_id: str, run_dir: Path) -> None:
        """They were put aside for another attempt's."""
        with self._store.transaction() as db:
            db.execute(
                "UPDATE kept_runs SET run_dir = ? WHERE attempt_id = ?", (str(run_dir), attempt_id)
            )

    def run(self, stop: threading.Event) -> None:
        """Block until `stop`, looking each hour."""
        began = shim.now()
        while not stop.is_set():
            self._bell.wait(LOOK_SECONDS)
            now = shim.now()
            try:
                self.look(now - began)
            except (OSError, sqlite3.Error) as exc:
                logger.warning("old files of runs cannot be deleted now: %s", exc)
            began = now

    def nudge(self) -> None:
        self._bell.ring()

    def look(self, seconds: float) -> None:
        """So much time has passed: delete what was kept for long enough."""
        with self._store.transaction() as db:
            db.execute("UPDATE kept_runs SET kept_seconds = kept_seconds + ?", (seconds,))
            rows = db.execute(
                "SELECT * FROM kept_runs WHERE kept_seconds >= ?", (self._seconds,)
            ).fetchall()
        for row in rows:
            run_dir = Path(row["run_dir"])
            with self._rights_in(run_dir):
                gone = [
                    name for name, mark in json.loads(row["marks"]).items()
                    if _delete(run_dir / name, mark)
                ]  # fmt: skip
                _delete_empty(run_dir, gone)
            logger.info("%d files in %s were kept for long enough", len(gone), run_dir)
            with self._store.transaction() as db:
                db.execute("DELETE FROM kept_runs WHERE attempt_id = ?", (row["attempt_id"],))


def _delete(path: Path, mark: str) -> bool:
    """Unless it is another file by now, or was changed since."""
    with suppress(OSError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and str(Mark.of(found)) == mark:
            path.unlink()
            return True
    return False


def _delete_empty(run_dir: Path, names: list[str]) -> None:
    """The folders that these were the last files in, and one that was made to put them aside."""
    folders = {run_dir / folder for name in names for folder in Path(name).parents}
    if run_dir.parent.name != ".old":
        folders.discard(run_dir)
    for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
        with suppress(OSError):  # it holds something else
            os.rmdir(folder)
