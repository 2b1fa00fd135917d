"""SHA-256 of files that were read before, so that an unchanged file is not read again."""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from agent.code.manifest import blocks_of

#: A file that was changed so shortly before it was read may change again within one tick of the
#: file system's clock, and look the same.
SETTLED_NS = 2_000_000_000
_Mark = list[int]  # size, mtime, ctime, inode


class StatCache:
    """Of one folder. Lost without harm, and never trusted about what was written just now."""

    def __init__(self, folder: Path, caches: Path | None = None) -> None:
        """`caches`: where they lie; None: the user's cache folder."""
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
        self._path = (caches or user_caches("code")) / f"{name}.json"
        self._known: dict[str, tuple[_Mark, str]] = _read(self._path)
        self._seen: dict[str, tuple[_Mark, str]] = {}
        self._began_ns = time.time_ns()

    def sha256_of(self, path: str, found: os.stat_result) -> str:
        """Of a regular file, whose state is `found`: of so many bytes, though it grew since."""
        mark = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
        known = self._known.get(path)
        sha256 = known[1] if known and known[0] == mark else _sha256(path, found.st_size)
        if max(found.st_mtime_ns, found.st_ctime_ns) < self._began_ns - SETTLED_NS:
            self._seen[path] = (mark, sha256)
        return sha256

    def keep(self) -> None:
        """Remember what was seen for the next time; whatever was not is forgotten."""
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = self._path.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps(self._seen))
            part.rename(self._path)


def user_caches(kind: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "lab" / kind


def _read(path: Path) -> dict[str, tuple[_Mark, str]]:
    try:
        return {name: (mark, sha256) for name, (mark, sha256) in _loaded(path).items()}
    except (OSError, ValueError, TypeError):
        return {}


def _loaded(path: Path) -> dict[str, tuple[_Mark, str]]:
    content: dict[str, tuple[_Mark, str]] = json.loads(path.read_bytes())
    return content


def _sha256(path: str, left: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in blocks_of(file):
            digest.update(block[:left])
            left -= min(left, len(block))
            if not left:
                break
    return digest.hexdigest()
