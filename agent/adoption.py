"""Finding an attempt's processes again when the agent's own notes of them are gone.

Somebody may have emptied the state folder while jobs ran, moved or copied it, or named another
one. A supervisor bears its attempt's folder as its last argument, and goes on writing there as
soon as there is one.
"""

import os
import shutil
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from agent import kernel, shim


def adopt(folder: Path) -> bool:
    """Make the attempt's `folder` what its supervisor writes to, with `shim.json` and `run.json`.

    Return whether a supervisor of the attempt is alive: without one there is nothing to adopt.
    """
    supervisor = _supervisor(folder.name)
    if supervisor is None:
        return False
    pid, written = supervisor
    _lead_to(folder, written)
    with suppress(OSError):
        command = _command(pid)
        began_at = kernel.started_at(command) if command is not None else None
        if command is not None and began_at is not None:
            began = datetime.fromtimestamp(began_at, timezone.utc)
            started_at = began.isoformat(timespec="milliseconds")
            run = {**shim.identity(command), "started_at": started_at}
            shim.write(str(folder), "run.json", run)
    shim.write(str(folder), "shim.json", shim.identity(pid))
    return True


def follow(folder: Path) -> None:
    """Make one of `folder` and what the attempt's supervisor writes to, if that is another folder:
    the state was moved or copied while the job ran."""
    supervisor = _supervisor(folder.name)
    if supervisor is None or supervisor[1].resolve() == folder.resolve():
        return
    written = supervisor[1]
    if written.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        folder.symlink_to(written)
    else:
        written.parent.mkdir(parents=True, exist_ok=True)
        written.symlink_to(folder)


def _supervisor(attempt_id: str) -> tuple[int, Path] | None:
    """Its pid, and the folder that it writes to."""
    for pid in kernel.pids():
        arguments = kernel.arguments_of(pid)
        if not any("shim.main()" in text for text in arguments):
            continue
        ours = kernel.uid_of(pid) == os.getuid()  # nobody else's word is taken for it
        if ours and Path(arguments[-1]).name == attempt_id:
            return pid, Path(arguments[-1])
    return None


def _lead_to(folder: Path, written: Path) -> None:
    """`folder` exists, and is where the supervisor writes, also when that is another state's."""
    written.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink() or folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(written)


def _command(supervisor: int) -> int | None:
    """The child that leads its own session; what it left behind may have come to us too."""
    children = kernel.children_of(supervisor)
    leaders = [child for child in children if os.getsid(child) == child]
    return min(leaders, key=lambda child: kernel.started_at(child) or 0.0, default=None)
