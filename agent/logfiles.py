"""`logs/agent.log` and `logs/agent.err` beneath the workdir, for an agent without a terminal.

The first holds all that the agent says, the second what is wrong, and what Python itself prints
when it dies. Both are turned over at a size, so that they never fill a disk.
"""

import logging
import os
from dataclasses import dataclass
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from agent import host, presence
from agent.errors import ConfigError

MAX_BYTES = 10 * 1024 * 1024
KEPT = 5  # older ones of each
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@dataclass(frozen=True)
class LogFiles:
    log: Path
    err: Path

    def begin(self, level: int, max_bytes: int = MAX_BYTES) -> None:
        """From now on, all that this process says goes there."""
        everything = RotatingFileHandler(
            self.log, maxBytes=max_bytes, backupCount=KEPT, encoding="utf-8"
        )
        wrong = _WithStderr(self.err, maxBytes=max_bytes, backupCount=KEPT, encoding="utf-8")
        wrong.setLevel(logging.WARNING)
        logging.basicConfig(level=level, format=FORMAT, handlers=[everything, wrong], force=True)


class _WithStderr(RotatingFileHandler):
    """Takes the process's own stdout and stderr along, also when the file is turned over."""

    def _open(self) -> TextIOWrapper:
        stream = super()._open()
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
        return stream


def claim(workdir: Path, state: Path) -> LogFiles:
    """The files of the agent of this state: `agent.log`, or a longer name while another agent
    that runs in the same workdir has that one.

    Raises:
        ConfigError: the folder cannot be written.
    """
    folder = workdir / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = "agent" if _is_ours(folder / ".agent.owner", state) else f"agent_{state.name}"
        for suffix in (".log", ".err"):
            (folder / f"{name}{suffix}").touch()
    except OSError as exc:
        raise ConfigError(
            f"{folder} cannot be written ({exc.strerror}): choose another --workdir"
        ) from exc
    return LogFiles(folder / f"{name}.log", folder / f"{name}.err")


def _is_ours(mark: Path, state: Path) -> bool:
    """Whether the short name belongs to this state, or to nobody that runs, and so to us now."""
    ours = f"{host.machine_id()} {state}"
    owner = mark.read_text() if mark.exists() else None
    if owner == ours:
        return True  # not written once more: the disk may be full
    if owner is not None:
        machine, _, folder = owner.partition(" ")
        record = presence.read(Path(folder))
        if machine != host.machine_id() or (record is not None and record.alive):
            return False
    mark.write_text(ours)
    return True
