"""`.sync_state.json` beside the projects: how far each file is, for people to read."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent import shim
from agent.runfiles import RunFiles
from agent.tracked import Tracked

NAME = ".sync_state.json"
WRITE_SECONDS = 1.0
KEPT_RUNS = 50  # the newest; also those whose files are all sent


class SyncState:
    """Used by one thread. Nothing is ever read from it but by people: see agent.filejournal."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._runs = _read(self._path)
        self._changed = False
        self._written_at = float("-inf")

    def note(self, run: RunFiles, files: dict[str, Tracked]) -> None:
        """How one attempt stands now."""
        told = {name: _told(file) for name, file in sorted(files.items())}
        entry = {
            "project": run.project,
            "run": run.run_name,
            "attempt": run.number,
            "folder": str(run.run_dir),
            "ended": run.exited,
            "files": told,
        }
        key = f"{run.experiment_uid}-{run.number}"
        if self._runs.get(key) != entry:
            self._runs.pop(key, None)  # to the end: the newest stand last
            self._runs[key] = entry
            self._changed = True

    def write(self) -> bool:
        """At most once in WRITE_SECONDS, and only what changed. By rename: never half.

        Return whether something is left to be written later.
        """
        if not self._changed or shim.now() - self._written_at < WRITE_SECONDS:
            return self._changed
        self._runs = dict(list(self._runs.items())[-KEPT_RUNS:])
        content = json.dumps({"written_at": shim.wall_clock(), "runs": self._runs}, indent=1)
        part = self._path.with_name(f"{NAME}.part")
        with suppress(OSError):  # a full disk: it is written again
            part.write_text(content)
            part.rename(self._path)
        self._changed = False
        self._written_at = shim.now()
        return False


def _told(file: Tracked) -> dict[str, Any]:
    sent = file.sent
    told: dict[str, Any] = {
        "state": file.state,
        "size_bytes": file.seen.size,
        "acked_bytes": sent.acked_bytes if sent else 0,
        "generation": sent.generation if sent else None,
    }
    if file.error is not None:
        told |= {"error": file.error, "since": file.since}
    return told


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return dict(json.loads(path.read_text())["runs"])
    return {}
