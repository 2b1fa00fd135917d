"""The bytes of code on the server's disk: one file for each content, named by its SHA-256.

A file's name is taken only once all of it is on the disk, so what has a name is whole; whether it
still is, its reader can tell by the name.
"""

import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from django.conf import settings

from agent.code.manifest import BLOCK_BYTES
from sync.storage import disk_errors_are_refused

_PART = ".part"
_LOCK = ".lock"
PREFIXES = tuple(f"{number:02x}" for number in range(256))


def path_of(sha256: str) -> Path:
    return settings.LAB_CODE_DIR / sha256[:2] / sha256


def open_blob(sha256: str) -> BinaryIO:
    """For reading. Raises FileNotFoundError."""
    return open(path_of(sha256), "rb")


def read(sha256: str) -> bytes:
    """All of a small one. Raises FileNotFoundError."""
    return path_of(sha256).read_bytes()


def blocks(sha256: str) -> Iterator[bytes]:
    """Raises FileNotFoundError, before the first one."""
    with open_blob(sha256) as file:
        while block := file.read(BLOCK_BYTES):
            yield block


@contextmanager
def writing() -> Iterator[None]:
    """Within the block nothing is removed: from the first byte to the commit of its row."""
    with disk_errors_are_refused():
        lock = _open_lock()
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield
        finally:
            os.close(lock)


@contextmanager
def removing() -> Iterator[bool]:
    """Within the block nobody writes. Says whether that is so: it waits for nobody."""
    with disk_errors_are_refused():
        lock = _open_lock()
        try:
            yield _is_alone(lock)
        finally:
            os.close(lock)


def _open_lock() -> int:
    settings.LAB_CODE_DIR.mkdir(mode=0o750, parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(settings.LAB_CODE_DIR / _LOCK, flags, 0o600)


def _is_alone(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Incoming:
    """Files on their way in, that take their names together. To be used within writing().

    with Incoming() as incoming:
        incoming.take(sha256, blocks)
        incoming.put()
    """

    def __init__(self) -> None:
        self._parts: dict[str, Path] = {}  # SHA-256 -> where it lies until then

    def __enter__(self) -> "Incoming":
        return self

    def __exit__(self, *_: object) -> None:
        for part in self._parts.values():
            part.unlink(missing_ok=True)

    def take(self, sha256: str, content: Iterable[bytes]) -> None:
        """Write it beside its place. Whoever makes the blocks sees to it that they are it."""
        folder = path_of(sha256).parent
        folder.mkdir(mode=0o750, exist_ok=True)
        part = folder / f".{secrets.token_hex(8)}{_PART}"
        self._parts[sha256] = part
        with open(part, "xb", buffering=0) as file:
            for block in content:
                view = memoryview(block)
                while view:
                    view = view[file.write(view) :]

    def put(self) -> None:
        """See all of them on the disk, then give each its name."""
        for part in self._parts.values():
            _flush(part)
        for sha256, part in self._parts.items():
            part.rename(path_of(sha256))
        for folder in {part.parent for part in self._parts.values()}:
            _flush(folder)
        self._parts.clear()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def older_than(prefix: str, seconds: float) -> dict[str, Path]:
    """Name -> place of what lies under names with these two first digits, written before that
    moment (seconds since 1970); what was cut off while it came in, too."""
    found = {}
    with suppress(FileNotFoundError), os.scandir(settings.LAB_CODE_DIR / prefix) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < seconds:
                    found[entry.name] = Path(entry.path)
    return found
