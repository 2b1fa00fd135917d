"""Real processes: naming them beyond their pid, and ending all that a test has started."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

LOOK_SECONDS = 0.05

Found = TypeVar("Found")


@dataclass(frozen=True)
class Born:
    """A process that no later one of the same pid is taken for."""

    pid: int
    created_at: float

    @classmethod
    def of(cls, pid: int) -> "Born":
        """
        Raises:
            psutil.NoSuchProcess: there is none.
        """
        return cls(pid, psutil.Process(pid).create_time())

    @property
    def alive(self) -> bool:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            same = process.create_time() == self.created_at
            return same and process.status() != psutil.STATUS_ZOMBIE
        return False


def tree(pid: int) -> list[Born]:
    """A process and all below it."""
    root = psutil.Process(pid)
    found = []
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            found.append(Born.of(process.pid))
    return found


def kill(processes: Iterable[Born]) -> None:
    """kill -9, each by its pid, all that are still themselves."""
    for process in processes:
        if process.alive:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


def mentioning(folder: Path) -> dict[Born, str]:
    """Every living process whose environment or arguments name `folder` or what is in it, with
    its command line. That finds whoever works there, whatever became of its parents."""
    needle = os.fsencode(folder)
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        if int(name) == os.getpid():
            continue
        with suppress(OSError, psutil.NoSuchProcess):
            arguments = Path("/proc", name, "cmdline").read_bytes()
            if needle in arguments + Path("/proc", name, "environ").read_bytes():
                born = Born.of(int(name))
                if born.alive:
                    found[born] = arguments.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def lost_files(folder: Path) -> list[str]:
    """Files beneath `folder` that a process has open although they are deleted: a database's
    write-ahead log among them means that what is committed there will be lost."""
    found = []
    for process in mentioning(folder):
        with suppress(OSError):
            for name in os.listdir(f"/proc/{process.pid}/fd"):
                target = os.readlink(f"/proc/{process.pid}/fd/{name}")
                if target.startswith(str(folder)) and target.endswith("(deleted)"):
                    found.append(f"{process.pid}: {target}")
    return found


def wait_for(look: Callable[[], Found], what: str, seconds: float) -> Found:
    """What `look` returns once that is true. Other processes can only be looked at."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(LOOK_SECONDS)
    return found
