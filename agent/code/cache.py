"""Files of code that this host has been sent, by the SHA-256 of their content.

What an attempt lacks is fetched once and serves all that come after it. A file is checked each
time it is used, so nothing here has to be on the disk for certain; what was not used for longest
goes first.
"""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from agent.code.manifest import Frame, blocks_of

MOST_BYTES = 4 * 1024**3


class CodeCache:
    """Several attempts may use it at once, and several agents of one state folder never do."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        self._most_bytes = most_bytes

    def has(self, sha256: str) -> bool:
        return self._path(sha256).exists()

    def add(self, frame: Frame) -> None:
        """
        Raises:
            Damaged: it is not what it was said to be; nothing is kept.
            OSError: it cannot be written.
        """
        path = self._path(frame.sha256)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with open(part, "xb") as file:
                for block in frame.blocks():
                    file.write(block)
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)

    def copy(self, sha256: str, open_target: Callable[[], BinaryIO]) -> bool:
        """Copy a file to what `open_target` opens. False: it is not here, or damaged."""
        path = self._path(sha256)
        try:
            source = open(path, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return False
        with source, open_target() as target:
            os.utime(source.fileno())
            is_it = _copied(blocks_of(source), target) == sha256
        if not is_it:
            path.unlink(missing_ok=True)
        return is_it

    def trim(self) -> None:
        """Remove what was used least lately, until the rest fits."""
        found = sorted(self._all())
        too_much = sum(size for _, size, _ in found) - self._most_bytes
        for _used_at, size, path in found:
            if too_much <= 0:
                return
            with suppress(OSError):
                os.unlink(path)
                too_much -= size

    def _all(self) -> Iterator[tuple[float, int, str]]:
        for folder in self._folder.glob("??"):
            with os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        yield found.st_mtime, found.st_size, entry.path

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256


def _copied(blocks: Iterable[bytes], target: BinaryIO) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
        target.write(block)
    return digest.hexdigest()
