"""`.sync_state.json` beside the projects: how far each file is, for people to read."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent import shim
from agent.syncedfile import Origin, SyncedFile
from agent.workspace import replace_file

NAME = ".sync_state.json"
WRITE_SECONDS = 1.0
KEPT_RUNS = 50  # the newest; also those whose files are all sent


class SyncState:
    """One file for each server's folder. Used by one thread."""

    def __init__(self) -> None:
        self._roots: dict[Path, dict[str, Any]] = {}
        self._changed: set[Path] = set()
        self._written_at = float("-inf")

    def note(
        self, origin: Origin, run_dir: Path, files: Iterable[SyncedFile], deleted: bool
    ) -> None:
        """How one attempt stands now."""
        root = _root(run_dir, origin)
        if root not in self._roots:
            self._roots[root] = _read(root / NAME)
        told = {file.name: _told(file) for file in files}
        entry = {
            "project": origin.project,
            "run": origin.run_name,
            "attempt": origin.number,
            "sync_status": "deleted" if deleted else _status(told.values()),
            "files": told,
        }
        key = f"{origin.experiment_uid}-{origin.number}"
        if self._roots[root].get(key) != entry:
            self._roots[root].pop(key, None)  # to the end: the newest stand last
            self._roots[root][key] = entry
            self._changed.add(root)

    def write(self) -> None:
        """At most once in WRITE_SECONDS, and only what changed."""
        if not self._changed or shim.now() - self._written_at < WRITE_SECONDS:
            return
        for root in self._changed:
            runs = dict(list(self._roots[root].items())[-KEPT_RUNS:])
            self._roots[root] = runs
            content = json.dumps({"written_at": shim.wall_clock(), "runs": runs}, indent=1)
            with suppress(OSError):  # for people only: it is written again
                replace_file(root / NAME, content.encode())
        self._changed.clear()
        self._written_at = shim.now()


def _told(file: SyncedFile) -> dict[str, Any]:
    told: dict[str, Any] = {
        "size": file.size,
        "synced": file.sent.acked_bytes,
        "generation": file.sent.generation,
    }
    if file.problem:
        told["problem"] = file.problem
    return told


def _status(files: Iterable[dict[str, Any]]) -> str:
    behind = any(file["synced"] < file["size"] for file in files)
    return "syncing" if behind else "synced"


def _root(run_dir: Path, origin: Origin) -> Path:
    """The server's folder: `run_dir` is a project's, or lies in that one's `.old`."""
    for folder in (run_dir, *run_dir.parents):
        if folder.name == origin.project:
            return folder.parent
    return run_dir.parent


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        runs = json.loads(path.read_text())["runs"]
        return dict(runs)
    return {}
