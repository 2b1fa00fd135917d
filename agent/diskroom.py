"""Whether an agent that starts could note what it does: without that it starts nothing.

Jobs whose agent was ended go on, and may be what has filled the disk. So an agent whose disk is
full waits until there is room; whoever enrolls a host there is told at once.
"""

import errno
import logging
import os
import tempfile
import time
from pathlib import Path

from agent.complaint import Complaint
from agent.errors import ConfigError
from agent.service.notify import Notifier

logger = logging.getLogger(__name__)

NEEDED_BYTES = 1024 * 1024  # the journals and their logs at the start
LOOK_SECONDS = 5.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


def check(*folders: Path) -> None:
    """
    Raises:
        ConfigError: one of these lies on a disk that is full.
    """
    for folder in folders:
        if is_full(folder):
            raise ConfigError(words(folder))


def wait_for(*folders: Path, notifier: Notifier, look_seconds: float = LOOK_SECONDS) -> None:
    """Block until there is room in all of them. Whoever started us takes it for an agent that
    runs, or a service manager would start another one instead, again and again."""
    complaint = Complaint(logger)
    for folder in folders:
        while is_full(folder):
            complaint.about(f"{words(folder)}. This agent starts then; jobs that run go on")
            notifier.ready()
            notifier.turned(words(folder))
            time.sleep(look_seconds)
    complaint.over("there is room on the disk again")


def is_full(folder: Path) -> bool:
    """Whether nothing more can be written there; where it is not there yet, in what it will lie
    in. For any other reason that it cannot be written whoever comes to it says so."""
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * NEEDED_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        return exc.errno in _FULL
    return False


def words(folder: Path) -> str:
    return f"The disk on which {folder} lies is full: free some space there"
