"""A disk that may fail, or lose what nobody has synced: `os` as `sync.storage` sees it.

    disk = Disk(logs)
    monkeypatch.setattr(storage, "os", disk)
    disk.on_point = …     # called before and after each call that changes the disk
    disk.lose_power(keeps)

Real files in a real folder; beside them it is noted what fsync has made sure of. Of a file that
is its bytes, of a folder its entries: what was created or renamed in it is gone after a power cut
until the folder itself was synced. For small files: each fsync reads the whole.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: Decides for one file or folder whether it keeps what was not synced.
Keeps = Callable[[], bool]


class Disk:
    def __init__(self, root: Path) -> None:
        self.root = root
        #: Told of "before write", "after write", …: may raise, or do something meanwhile.
        self.on_point: Callable[[str], None] = lambda point: None
        self.dead = False  # the process is: nothing of it reaches the disk any more
        self._serial = 0
        self._identity: dict[int, int] = {}  # of the file that has an inode number now
        self._bytes: dict[int, bytes] = {}  # identity → what is safe of a file
        self._entries: dict[int, dict[str, int]] = {}  # identity → what is safe of a folder
        root.mkdir(parents=True, exist_ok=True)
        self._adopt(root)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    # --- the calls that change something ---

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if not flags & os.O_CREAT:
            return os.open(path, flags, mode, dir_fd=dir_fd)
        return self._do("open", lambda: self._create(path, flags, mode, dir_fd))

    def fdopen(self, descriptor: int, mode: str, **how: Any) -> Any:
        file = os.fdopen(descriptor, mode, **how)
        return file if mode == "rb" else File(self, file)

    def fsync(self, descriptor: int) -> None:
        self._do("fsync", lambda: self._make_safe(descriptor))

    def rename(self, old: Any, new: Any, **where: int) -> None:
        self._do("rename", lambda: os.rename(old, new, **where))

    def link(self, old: Any, new: Any, **where: Any) -> None:
        self._do("link", lambda: os.link(old, new, **where))

    def unlink(self, path: Any, **where: int) -> None:
        self._do("unlink", lambda: os.unlink(path, **where))

    def rmdir(self, path: Any, **where: int) -> None:
        self._do("rmdir", lambda: os.rmdir(path, **where))

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        def make() -> None:
            os.mkdir(path, mode, dir_fd=dir_fd)
            self._begin(os.stat(path, dir_fd=dir_fd).st_ino)

        self._do("mkdir", make)

    def _do(self, what: str, work: Callable[[], Any]) -> Any:
        self.point(f"before {what}")
        result = work()
        self.point(f"after {what}")
        return result

    def point(self, name: str) -> None:
        if self.dead:
            raise Died(name)
        self.on_point(name)

    def _create(self, path: Any, flags: int, mode: int, dir_fd: int | None) -> int:
        try:
            os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
            is_new = False
        except FileNotFoundError:
            is_new = True
        descriptor = os.open(path, flags, mode, dir_fd=dir_fd)
        if is_new:
            self._begin(os.fstat(descriptor).st_ino)
        return descriptor

    # --- what is safe ---

    def _begin(self, inode: int) -> int:
        """Of a number that may have been another file's before."""
        self._serial += 1
        self._identity[inode] = self._serial
        return self._serial

    def _make_safe(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}")
        identity = self._identity.get(os.fstat(descriptor).st_ino)
        if identity is None:
            return  # beside the logs: nothing of it is ever looked at
        if path.is_dir():
            self._entries[identity] = self._listed(Path(os.readlink(path)))
        else:
            self._bytes[identity] = path.read_bytes()

    def _listed(self, folder: Path) -> dict[str, int]:
        return {
            path.name: self._identity[inode]
            for path in _in_order(folder)
            if (inode := path.lstat().st_ino) in self._identity
        }

    def _adopt(self, path: Path) -> int:
        """Take all beneath `path` for safe, as it is."""
        identity = self._begin(path.lstat().st_ino)
        if path.is_dir():
            self._entries[identity] = {below.name: self._adopt(below) for below in _in_order(path)}
        else:
            self._bytes[identity] = path.read_bytes()
        return identity

    # --- the power goes ---

    def lose_power(self, keeps: Keeps) -> None:
        """Begin again with what was safe, and with what `keeps` lets through of the rest."""
        now = dict(self._all(self.root))
        after = _Rebuilt(self, now, keeps)
        root = self._identity[self.root.stat().st_ino]
        tree = after.folder(root)
        shutil.rmtree(self.root)
        _lay(tree, self.root)
        self._identity.clear()
        self._bytes.clear()
        self._entries.clear()
        self._adopt(self.root)

    def _all(self, path: Path) -> Iterator[tuple[int, bytes | dict[str, int]]]:
        """Identity → what lies there now."""
        identity = self._identity.get(path.lstat().st_ino)
        if identity is None:
            return
        if not path.is_dir():
            yield identity, path.read_bytes()
            return
        yield identity, self._listed(path)
        for below in _in_order(path):
            yield from self._all(below)


def _in_order(folder: Path) -> list[Path]:
    """The same on any file system, so that a power cut that is repeated takes the same away."""
    return sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name))


class _Rebuilt:
    def __init__(self, disk: Disk, now: dict[int, Any], keeps: Keeps) -> None:
        self._bytes, self._entries = disk._bytes, disk._entries
        self._now, self._keeps = now, keeps

    def folder(self, identity: int) -> dict[str, Any]:
        safe, now = self._entries.get(identity, {}), self._now.get(identity, {})
        entries = now if self._keeps() else safe
        return {name: self._one(below) for name, below in entries.items()}

    def _one(self, identity: int) -> Any:
        if identity in self._entries or isinstance(self._now.get(identity), dict):
            return self.folder(identity)
        safe = self._bytes.get(identity, b"")
        return self._now.get(identity, safe) if self._keeps() else safe


def _lay(tree: dict[str, Any], at: Path) -> None:
    at.mkdir()
    for name, what in tree.items():
        if isinstance(what, dict):
            _lay(what, at / name)
        else:
            (at / name).write_bytes(what)


class Died(BaseException):
    """The process ended at this point. Nothing catches it but who plays the machine."""


class File:
    """A file that is written: each write and each cut is a point."""

    def __init__(self, disk: Disk, file: Any) -> None:
        self._disk, self._file = disk, file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "File":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        try:
            return self._disk._do("write", lambda: self._file.write(data))
        except Short:
            return self._file.write(data[: max(1, len(data) // 2)])

    def truncate(self, size: int) -> int:
        return self._disk._do("truncate", lambda: self._file.truncate(size))


class Short(Exception):
    """Raised before a write: only a part of it is written, and that is no error."""


class Failing:
    """Lets the n-th call that changes the disk fail, or from then on all.

    `error`: an errno; None: the n-th write is short, which is no error.
    """

    def __init__(self, number: int, error: int | None, *, for_good: bool = False) -> None:
        self._number, self._error, self._for_good = number, error, for_good
        self.calls = 0  # so far, of those that may fail

    def __call__(self, point: str) -> None:
        if not (point == "before write" if self._error is None else point.startswith("before")):
            return
        self.calls += 1
        if self.calls == self._number or (self._for_good and self.calls > self._number):
            self._fail()

    def _fail(self) -> None:
        if self._error is None:
            raise Short
        raise OSError(self._error, os.strerror(self._error))
