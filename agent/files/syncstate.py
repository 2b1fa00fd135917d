"""`.sync_state.json` beside the projects: how far each file is, for people to read."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent import shim, wire
from agent.files.runfiles import RunFiles
from agent.files.tracked import Tracked

NAME = ".sync_state.json"
WRITE_SECONDS = 1.0
WRITING_SHARE = 0.05  # of the time, at most: that of a run of 100 000 images has 20 MB
KEPT_RUNS = 50  # the newest of those whose files are all sent


class SyncState:
    """Used by one thread. The agent itself never reads anything from it: see filejournal."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._runs = read(self._path)
        self._changed = False
        self._not_before = float("-inf")

    def note(
        self, run: RunFiles, files: dict[str, Tracked], left_out: Sequence[wire.LeftOut] = ()
    ) -> None:
        """How one attempt stands now."""
        told = {name: _told(file) for name, file in sorted(files.items())}
        entry = {
            "project": run.project,
            "run": run.run_name,
            "attempt": run.number,
            "folder": str(run.run_dir),
            "ended": run.exited,
            "behind_bytes": sum(file.behind_bytes for file in files.values()),
            "files": told,
            "left_out": {one.name: one.reason.value for one in left_out},
        }
        key = key_of(run.experiment_uid, run.number)
        if self._runs.get(key) != entry:
            self._runs.pop(key, None)  # to the end: the newest stand last
            self._runs[key] = entry
            self._changed = True

    def write(self) -> bool:
        """At most once in WRITE_SECONDS, and only what changed. By rename: never half.

        Return whether something is left to be written later.
        """
        began = shim.now()
        if not self._changed or began < self._not_before:
            return self._changed
        self._forget()
        content = json.dumps({"written_at": shim.wall_clock(), "runs": self._runs}, indent=1)
        part = self._path.with_name(f"{NAME}.part")
        with suppress(OSError):  # a full disk: it is tried again
            part.write_text(content)
            part.rename(self._path)
            self._changed = False
        took = shim.now() - began
        self._not_before = began + max(WRITE_SECONDS, took / WRITING_SHARE)
        return self._changed

    def _forget(self) -> None:
        """The oldest of the runs that are told of only because they were here."""
        sent = [key for key, run in self._runs.items() if run["ended"] and not _is_behind(run)]
        for key in sent[:-KEPT_RUNS]:
            del self._runs[key]


def key_of(experiment_uid: str, number: int) -> str:
    return f"{experiment_uid}-{number}"


def _is_behind(run: dict[str, Any]) -> bool:
    return any("why" in file for file in run["files"].values())


def _told(file: Tracked) -> dict[str, Any]:
    sent = file.sent
    told: dict[str, Any] = {
        "state": file.state,
        "size_bytes": file.seen.size,
        "acked_bytes": sent.acked_bytes if sent else 0,
        "generation": sent.generation if sent else None,
    }
    if file.why is not None:
        since = file.since if file.error else file.backlog.since
        told |= {"behind_bytes": file.behind_bytes, "why": file.why, "since": since}
    return told


def read(path: Path) -> dict[str, Any]:
    """Run and attempt (see key_of) → what is told of it; nothing, if that cannot be read. Any
    script may write there: what is not as we write it is left out."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        runs = json.loads(path.read_text())["runs"].items()
        return {key: run for key, run in runs if _is_ours(run)}
    return {}


def _is_ours(run: Any) -> bool:
    files = run.get("files") if isinstance(run, dict) and "ended" in run else None
    return isinstance(files, dict) and all(isinstance(file, dict) for file in files.values())
