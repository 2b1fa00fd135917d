"""Finding an attempt's processes again when the agent's own notes of them are gone.

Somebody may have emptied the state folder while jobs ran, or named another one. A supervisor bears
its attempt's folder as its last argument, and goes on writing there as soon as there is one.
"""

import os
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import psutil

from agent import shim


def adopt(folder: Path) -> bool:
    """Make the attempt's `folder` what its supervisor writes to, with `shim.json` and `run.json`.

    Return whether a supervisor of the attempt is alive: without one there is nothing to adopt.
    """
    supervisor = _supervisor(folder.name)
    if supervisor is None:
        return False
    _lead_to(folder, Path(supervisor.cmdline()[-1]))
    with suppress(psutil.Error, OSError):
        command = _command(supervisor)
        if command is not None:
            began = datetime.fromtimestamp(command.create_time(), timezone.utc)
            started_at = began.isoformat(timespec="milliseconds")
            run = {**shim.identity(command.pid), "started_at": started_at}
            shim.write(str(folder), "run.json", run)
    shim.write(str(folder), "shim.json", shim.identity(supervisor.pid))
    return True


def _supervisor(attempt_id: str) -> psutil.Process | None:
    for process in psutil.process_iter(["cmdline", "uids"]):
        arguments = process.info["cmdline"] or []
        if not any("shim.main()" in text for text in arguments):
            continue
        ours = process.info["uids"].real == os.getuid()  # nobody else's word is taken for it
        if ours and Path(arguments[-1]).name == attempt_id:
            return process
    return None


def _lead_to(folder: Path, written: Path) -> None:
    """`folder` exists, and is where the supervisor writes, also when that is another state's."""
    written.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink() or folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(written)


def _command(supervisor: psutil.Process) -> psutil.Process | None:
    """The child that leads its own session; what it left behind may have come to us too."""
    leaders = [child for child in supervisor.children() if os.getsid(child.pid) == child.pid]
    return min(leaders, key=lambda child: child.create_time(), default=None)
