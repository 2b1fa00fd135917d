"""Regular files: told apart without being read, and opened where a job may have laid a link."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """For reading what we wrote ourselves, where a job may have put anything in its place.

    Raises:
        OSError: it is a link, a device, or gone.
    """
    # O_NONBLOCK: a FIFO would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is no regular file")
    return open(descriptor, "rb")


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


def is_in(root: str, real_path: str) -> bool:
    return real_path.startswith(root.rstrip(os.sep) + os.sep)


def real_path_of(descriptor: int, path: Path) -> str:
    """Where an open file really lies: asked of the open file, so that no link can be swapped."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # no /proc
        return os.path.realpath(path)
