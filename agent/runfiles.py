"""Which files a run has, and how they are opened.

    {run_dir}/{run_name}.*      its files
    {run_dir}/{run_name}/**     its artifacts

A link is followed only to a file in `run_dir`: whoever may write there must not get the agent to
send what it alone can read.
"""

import logging
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from agent import wire

logger = logging.getLogger(__name__)

MAX_NAME_LENGTH = 512
UNFINISHED = (".tmp", ".temp", ".part", ".partial", ".swp", "~")  # written to be renamed
_EARLIER_GENERATION = re.compile(r"\.g\d+$")  # how the server names what it laid aside


@dataclass(frozen=True)
class Mark:
    """Tells without reading it whether a file has changed."""

    inode: int
    size: int  # in bytes
    mtime_ns: int

    @classmethod
    def of(cls, result: os.stat_result) -> "Mark":
        return cls(result.st_ino, result.st_size, result.st_mtime_ns)

    def __str__(self) -> str:
        return f"{self.inode}:{self.size}:{self.mtime_ns}"


@dataclass
class RunFiles:
    """The files of one attempt."""

    attempt_id: str
    experiment_uid: str
    project: str
    run_name: str
    number: int
    run_dir: Path
    exited: bool = False  # nothing changes any more
    #: Name → generation as the server had it when it was asked; None: it was not yet.
    on_server: dict[str, int] | None = None
    _complained: set[str] = field(default_factory=set)

    def look(self) -> dict[str, Mark]:
        """Name → mark of each file there is now.

        Raises:
            OSError: the folder cannot be read just now. One that is gone has no files.
        """
        found: dict[str, Mark] = {}
        prefix = f"{self.run_name}."
        for entry in _entries(self.run_dir):
            if entry.name == self.run_name and entry.is_dir(follow_symlinks=False):
                self._look_into(entry, found)
            elif entry.name.startswith(prefix) and not entry.is_dir(follow_symlinks=False):
                self._note(entry.name, entry, found)
        return found

    def open(self, name: str) -> BinaryIO:
        """For reading.

        Raises:
            FileNotFoundError: it is gone, no regular file, or not in the run's folder.
        """
        path = self.run_dir / name
        # O_NONBLOCK: a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if not regular or not self._holds(_real_path(descriptor, path)):
            os.close(descriptor)
            raise FileNotFoundError(f"{path} is no file of this run")
        return open(descriptor, "rb", buffering=0)

    def _look_into(self, folder: "os.DirEntry[str]", found: dict[str, Mark]) -> None:
        below = [Path(folder.name)]
        while below:
            part = below.pop()
            for entry in _entries(self.run_dir / part):
                if entry.name.startswith("."):
                    continue  # a temporary file, by its name
                if entry.is_dir(follow_symlinks=False):
                    below.append(part / entry.name)
                else:
                    self._note(str(part / entry.name), entry, found)

    def _note(self, name: str, entry: "os.DirEntry[str]", found: dict[str, Mark]) -> None:
        if name.endswith(UNFINISHED):
            return
        if not _is_legal(name):
            return self._complain(name, "its name may hold letters, digits, '.', '_', '-' only")
        try:
            result = entry.stat()
            if entry.is_symlink() and not self._holds(os.path.realpath(entry.path)):
                return self._complain(name, "it is a link out of the run's folder")
        except OSError:
            return  # gone since, or a link to nothing
        if stat.S_ISREG(result.st_mode):
            found[name] = Mark.of(result)

    def _holds(self, real_path: str) -> bool:
        return real_path.startswith(os.path.realpath(self.run_dir) + os.sep)

    def _complain(self, name: str, why: str) -> None:
        if name not in self._complained:
            self._complained.add(name)
            logger.warning("%s/%s is not sent: %s", self.project, name, why)


def _entries(folder: Path) -> "Iterator[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return


def _is_legal(name: str) -> bool:
    parts = all(wire.is_name(part) for part in name.split("/"))
    return parts and len(name) <= MAX_NAME_LENGTH and not _EARLIER_GENERATION.search(name)


def _real_path(descriptor: int, path: Path) -> str:
    """Where an open file really lies: asked of the open file, so that no link can be swapped."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # no /proc
        return os.path.realpath(path)
