"""Which code lies in `--source`: its commit, and what was changed since."""

import hashlib
import logging
import subprocess
import threading
from pathlib import Path

from agent import wire
from agent.backoff import Bell

logger = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
GIT_SECONDS = 20.0  # `git status` of a large checkout on NFS takes a while


class SourceWatch:
    """Asks git now and then, in a thread of its own, so that no heartbeat waits for a disk."""

    def __init__(self, folder: Path | None) -> None:
        """None: nobody is asked. A repository may name programs for git to run, so whoever can
        write there could have an agent of root's run them."""
        self._folder = folder
        self._latest: wire.Source | None = None
        self._bell = Bell()

    def latest(self) -> wire.Source | None:
        """None: not a git checkout, or not known yet."""
        return self._latest

    def nudge(self) -> None:
        self._bell.ring()

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._latest = read(self._folder) if self._folder else None
            self._bell.wait(LOOK_SECONDS)


def read(folder: Path) -> wire.Source | None:
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD").strip()
        changes = _git(folder, "diff", "HEAD", "--no-ext-diff", "--no-textconv")
        untracked = _git(folder, "status", "--porcelain", "--untracked-files=normal")
    except (OSError, subprocess.SubprocessError) as exc:
        logger.debug("no source information of %s: %s", folder, exc)
        return None
    digest = hashlib.sha256(f"{commit}\n{changes}{untracked}".encode()).hexdigest()
    return wire.Source(commit, branch[:255], dirty=bool(untracked), source_hash=digest)


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "--no-optional-locks", "-C", str(folder), *arguments],
        capture_output=True,
        check=True,
        timeout=GIT_SECONDS,
    )
    return done.stdout.decode(errors="replace")
