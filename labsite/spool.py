"""Bytes that pass through: small ones in memory, others in a file without a name.

Written from the event loop, which never touches a disk itself: whatever goes to one goes
through a thread of its own, so that a slow disk holds up neither heartbeats nor pages.
"""

import asyncio
import errno
import io
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from django.conf import settings

from labsite.errors import Refused

#: One body in memory at most; beyond it, on disk.
MEMORY_BYTES = 1024**2
#: All bodies in memory together; beyond it each new piece goes to disk at once.
MEMORY_BYTES_IN_ALL = 64 * 1024**2

disk = ThreadPoolExecutor(2, thread_name_prefix="lab-disk")


class DiskFull(Refused):
    status = 507
    code = "disk_full"
    retryable = True


class Spool:
    """A body as it comes in. close() it, or hand it to somebody who does."""

    _in_memory_in_all = 0

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._in_memory = 0
        self._file: BinaryIO | None = None

    async def write(self, piece: bytes) -> None:
        """
        Raises:
            DiskFull: there is no room for it.
        """
        self._pieces.append(piece)
        self._count(len(piece))
        if self._in_memory > MEMORY_BYTES or Spool._in_memory_in_all > MEMORY_BYTES_IN_ALL:
            block = self._take()
            await asyncio.get_running_loop().run_in_executor(disk, self._to_disk, block)

    def reader(self) -> BinaryIO:
        """The whole of it from its start. May touch the disk: call it in a thread."""
        if self._file is None:
            return io.BytesIO(self._take())
        self._to_disk(self._take())
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        self._take()
        if self._file is not None:
            self._file.close()

    def _take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        self._count(-self._in_memory)
        return taken

    def _count(self, change: int) -> None:
        self._in_memory += change
        Spool._in_memory_in_all += change

    def _to_disk(self, block: bytes) -> None:
        try:
            if self._file is None:
                self._file = temporary_file()
            self._file.write(block)
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DiskFull(
                "The server's disk is full; nothing of this was kept.", retry_after_seconds=30
            ) from exc


def temporary_file() -> BinaryIO:
    """A file that nobody else sees and that is gone when it is closed."""
    folder = Path(settings.LAB_SPOOL_DIR)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder, buffering=0)
