"""Where a run's bytes lie, and how they are touched: beneath one folder, no symlink followed.

    logs/{project}/run_001.csv                          a result
    logs/{project}/run_001.csv.g3                       an earlier generation of it
    logs/{project}/.attempts/{uid}/{number}/run_001.csv left behind by an attempt given up
    logs/.uploads/17                                    the upload of that number, so far
    logs/.trash/91/run_001.csv                          of the file of that number, deleted
    logs/.lines/91                                      where that log's lines begin (sync.logs)

Every folder on the way is opened relative to the one above it with O_NOFOLLOW, so that a
symlink that somebody laid there leads nowhere (openat(2)).
"""

import errno
import fcntl
import hashlib
import logging
import os
import secrets
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from django.conf import settings

from agent.wire import grows, is_file_of
from experiments.models import Job
from sync.errors import DiskFull, FileBusy, WrongName

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1024 * 1024
LOCK_SECONDS = 2.0
#: So many locks for all files: a lock of its own for each would leave a file for each.
LOCKS = 1024
UPLOADS = ".uploads"
TRASH = ".trash"
_PART = ".part"
_NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Place:
    """Where one file of a run lies."""

    folders: tuple[str, ...]  # beneath the logs folder
    name: str

    @classmethod
    def of(cls, job: Job, file_name: str, shelf: int = 0) -> "Place":
        """
        Args:
            file_name: `run_001.csv`, or `run_001/images/1.png` for an artifact.
            shelf: the number of the attempt that left it behind; 0: a result.

        Raises:
            WrongName: it is not a name of this run's.
        """
        *folders, name = check_name(job, file_name).split("/")
        above = [job.project.name]
        if shelf:
            above += [".attempts", job.uid, str(shelf)]
        return cls((*above, *folders), name)

    @property
    def path(self) -> Path:
        """For reading by people's pages and tests; this module itself opens step by step."""
        return settings.LAB_LOGS_DIR.joinpath(*self.folders, self.name)


def check_name(job: Job, file_name: str) -> str:
    """`file_name`, if it may be one of this run's: no other run's files are reached by it."""
    if not is_file_of(job.run_name, file_name):
        raise WrongName(
            f"“{file_name[:80]}” is no name for a file of this run: it must be "
            f"{job.run_name}.something in letters, digits, dots, dashes and underscores, or lie "
            f"beneath {job.run_name}/ under names that can be printed."
        )
    return file_name


@contextmanager
def disk_errors_are_refused() -> Iterator[None]:
    """Turn what the disk says into a refusal. Nothing of the request was kept.

    Raises:
        DiskFull: no room, or the disk cannot be written; to be tried again.
        FileBusy: a folder was taken away meanwhile, since a file takes its place.
        WrongName: a link, or something that is none of this run's, lies where the file belongs.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR):
            raise WrongName(
                "On the server's disk a link, or a file or folder that this server has not laid "
                "there, is in this file's place; a manager has to take it away."
            ) from exc
        if exc.errno == errno.ENOENT:
            raise FileBusy(
                "This file's folder was taken away meanwhile; try again.", retry_after_seconds=1
            ) from exc
        logger.error("the logs folder cannot be written: %s", exc)
        raise DiskFull(
            f"The server cannot write its disk ({exc.strerror}), so nothing of this was kept; "
            "the agent keeps it and tries again. A manager has to make room.",
            retry_after_seconds=30,
        ) from exc


@contextmanager
def folder_of(place: Place, *, make: bool = False) -> Iterator[int]:
    """A descriptor of the file's folder, reached without following any symlink."""
    settings.LAB_LOGS_DIR.mkdir(parents=True, exist_ok=True)
    at = os.open(settings.LAB_LOGS_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in place.folders:
            if make and _make_folder(name, at):
                os.fsync(at)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW, dir_fd=at)
            os.close(at)
            at = below
        yield at
    finally:
        os.close(at)


def _make_folder(name: str, at: int) -> bool:
    try:
        os.mkdir(name, 0o750, dir_fd=at)
    except FileExistsError:
        return False
    return True


@contextmanager
def locked(place: Place, *, kind: str = "", seconds: float | None = None) -> Iterator[None]:
    """Be the only writer of that file, among all processes of this server; what the disk says
    meanwhile is refused.

    Args:
        kind: of what is held, if not the file itself. Locks are shared by files, so what is
            held for long (while a large file is hashed) needs a kind of its own.
        seconds: so long it is waited for; None: LOCK_SECONDS.

    Raises:
        FileBusy: another one held it for so long.
    """
    folder = settings.LAB_LOGS_DIR / ".locks"
    number = zlib.crc32("/".join((*place.folders, place.name)).encode()) % LOCKS
    with disk_errors_are_refused():
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / f"{kind}{number}", os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o600)
        try:
            _wait_for(lock, LOCK_SECONDS if seconds is None else seconds)
            yield
        finally:
            os.close(lock)


def _wait_for(lock: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    pause = 0.001
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise FileBusy(
                    "Another request writes this file; try again.", retry_after_seconds=1
                ) from None
        time.sleep(pause)  # flock(2) itself knows no timeout
        pause = min(2 * pause, 0.05)


# --- bytes --------------------------------------------------------------------------------------


def size_of(place: Place) -> int:
    """In bytes; 0 when there is no such file."""
    try:
        with folder_of(place) as at:
            return os.stat(place.name, dir_fd=at, follow_symlinks=False).st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def open_file(place: Place) -> BinaryIO:
    """For reading. Raises FileNotFoundError; a symlink is as good as none."""
    try:
        with folder_of(place) as at:
            return os.fdopen(os.open(place.name, os.O_RDONLY | _NO_FOLLOW, dir_fd=at), "rb")
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT):
            raise FileNotFoundError(place.name) from exc
        raise


def readable_size(name: str, acknowledged: int, file: BinaryIO) -> int:
    """How much of an open file of a run may be read, in bytes.

    A growing file may hold more than was acknowledged. Any other one took its place by a rename,
    a moment before or after its row was moved: whichever version was opened, it is whole.
    """
    there = os.fstat(file.fileno()).st_size
    return min(acknowledged, there) if grows(name) else there


def read(place: Place, offset: int, length: int) -> bytes:
    """At most `length` bytes from `offset`; fewer at the end, none when there is no file."""
    try:
        with open_file(place) as file:
            file.seek(offset)
            return file.read(length)
    except FileNotFoundError:
        return b""


def write_at(place: Place, offset: int, data: bytes) -> None:
    """Cut the file to `offset` bytes, add `data`, and see both on the disk.

    From the beginning on it is another file, which takes the place of what is there: that may be
    kept under a second name, as an earlier generation.
    """
    if not offset:
        with incoming(place) as part:
            part.take(BytesIO(data))
            part.put()
        return
    with disk_errors_are_refused(), folder_of(place, make=True) as at:
        flags = os.O_WRONLY | os.O_CREAT | _NO_FOLLOW
        descriptor = os.open(place.name, flags, 0o640, dir_fd=at)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            before = os.fstat(descriptor).st_size
            file.truncate(offset)
            file.seek(offset)
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(descriptor)
        if before != offset:  # a crash left it: its name may not be safe
            os.fsync(at)


def sha256_of(place: Place, size: int) -> str:
    """Hex SHA-256 of the file's first `size` bytes."""
    digest = hashlib.sha256()
    left = size
    with open_file(place) as file:
        while left and (block := file.read(min(BLOCK_BYTES, left))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def starts_with(place: Place, other: BinaryIO, size: int) -> bool:
    """Whether `other`'s first `size` bytes are those of the file. Leaves `other` anywhere."""
    other.seek(0)
    left = size
    with open_file(place) as file:
        while left:
            mine = file.read(min(BLOCK_BYTES, left))
            if not mine or mine != other.read(len(mine)):
                return False
            left -= len(mine)
    return True


def keep_generation(place: Place, generation: int) -> int:
    """Keep the file as `….g<N>`; of these the newest LAB_KEEP_VERSIONS are kept. Return how many
    bytes they have.

    It stays where it is as well, until what comes after it takes its place at once: whoever reads
    finds the one or the other. Kept once: a request that was cut off afterwards comes again, and
    what lies in the file's place by then may be what was never acknowledged.
    """
    with disk_errors_are_refused(), folder_of(place, make=True) as at:
        aside = f"{place.name}.g{generation}"
        if not _exists(aside, at):
            with suppress(FileNotFoundError):
                _give_second_name(place.name, aside, at)
        newest_first = sorted(_generations(place.name, at), reverse=True)
        names = [f"{place.name}.g{number}" for number in newest_first]
        for name in names[settings.LAB_KEEP_VERSIONS :]:
            os.unlink(name, dir_fd=at)
        os.fsync(at)
        kept = names[: settings.LAB_KEEP_VERSIONS]
        return sum(os.stat(name, dir_fd=at, follow_symlinks=False).st_size for name in kept)


def _give_second_name(name: str, second: str, at: int, there: int | None = None) -> None:
    there = at if there is None else there
    try:
        os.link(name, second, src_dir_fd=at, dst_dir_fd=there, follow_symlinks=False)
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        os.rename(name, second, src_dir_fd=at, dst_dir_fd=there)  # a file system without links


def _exists(name: str, at: int) -> bool:
    try:
        os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_file(name: str, at: int) -> bool:
    """Whether something lies there that is no folder: that is other files' place by now."""
    try:
        mode = os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISDIR(mode)


def _generations(of: str, at: int) -> list[int]:
    """The numbers of a file's earlier versions that lie there; no folder that is called so."""
    parts = (name.rpartition(".g") for name in os.listdir(at))
    numbers = [int(tail) for head, _, tail in parts if head == of and tail.isdecimal()]
    return [number for number in numbers if _is_file(f"{of}.g{number}", at)]


@contextmanager
def incoming(place: Place) -> Iterator["Incoming"]:
    """A file beside the target that takes its place by put(), or else leaves no trace."""
    with disk_errors_are_refused(), _beside(place) as at:
        beginning = f".{place.name[:100]}."
        _sweep(at, beginning)
        name, descriptor = _new_part(at, beginning)
        with os.fdopen(descriptor, "w+b", buffering=0) as file:
            part = Incoming(place, at, name, file)
            try:
                yield part
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=at)


@contextmanager
def _beside(place: Place) -> Iterator[int]:
    """The file's folder; or, while a file lies where that belongs, that of the uploads: what
    comes in is to be looked at before anything goes for it."""
    with ExitStack() as opened:
        try:
            at = opened.enter_context(folder_of(place, make=True))
        except NotADirectoryError:
            at = opened.enter_context(folder_of(upload_place(0), make=True))
        yield at


def _new_part(at: int, beginning: str) -> tuple[str, int]:
    """A new file that this process holds by flock, so that _sweep() lets it be."""
    while True:
        name = f"{beginning}{secrets.token_hex(6)}{_PART}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_FOLLOW
        descriptor = os.open(name, flags, 0o640, dir_fd=at)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return name, descriptor
        os.close(descriptor)  # swept away before it was held


def _sweep(at: int, beginning: str) -> None:
    """Take away what a server that was killed had begun to receive under this name."""
    for name in os.listdir(at):
        if name.startswith(beginning) and name.endswith(_PART):
            with suppress(FileNotFoundError, BlockingIOError):
                descriptor = os.open(name, os.O_RDONLY | _NO_FOLLOW, dir_fd=at)
                with os.fdopen(descriptor, "rb"):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=at)


class Incoming:
    """A whole file on its way in. See incoming()."""

    def __init__(self, place: Place, at: int, name: str, file: BinaryIO) -> None:
        self._place, self._at, self._name = place, at, name
        self.file = file
        self.size = 0
        self.sha256 = ""

    def take(self, source: BinaryIO) -> None:
        """Copy all of `source`, hash it, and see it on the disk; memory stays at one block."""
        digest = hashlib.sha256()
        with disk_errors_are_refused():
            while block := source.read(BLOCK_BYTES):
                digest.update(block)
                view = memoryview(block)
                while view:
                    view = view[self.file.write(view) :]
                self.size += len(block)
            os.fsync(self.file.fileno())
        self.sha256 = digest.hexdigest()

    def put(self) -> None:
        """Take the target's place: a reader sees the old file or the new one, never a mix."""
        with folder_of(self._place, make=True) as there:
            os.rename(self._name, self._place.name, src_dir_fd=self._at, dst_dir_fd=there)
            os.fsync(there)


class Arrived:
    """A whole file that came in chunks: what Incoming is to one that came at once."""

    def __init__(self, place: Place, target: Place, file: BinaryIO, sha256: str) -> None:
        self._place, self._target = place, target
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.sha256 = sha256

    def put(self) -> None:
        with (
            disk_errors_are_refused(),
            folder_of(self._place) as at,
            folder_of(self._target, make=True) as there,
        ):
            os.rename(self._place.name, self._target.name, src_dir_fd=at, dst_dir_fd=there)
            os.fsync(there)
            os.fsync(at)


def upload_place(number: int) -> Place:
    """Where the bytes of an upload lie until they are whole; no project is called so."""
    return Place((UPLOADS,), str(number))


def upload_numbers() -> list[int]:
    """Of all uploads that have bytes on the disk."""
    try:
        with folder_of(upload_place(0)) as at:
            return [int(name) for name in os.listdir(at) if name.isdigit()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove(place: Place) -> None:
    """Take a file away, if it is there."""
    with suppress(FileNotFoundError), folder_of(place) as at:
        os.unlink(place.name, dir_fd=at)


# --- the trash ----------------------------------------------------------------------------------


def trashed_place(number: int, name: str) -> Place:
    """Where a deleted file's bytes lie: a folder for each, so that nothing is in the way."""
    return Place((TRASH, str(number)), name)


def lay_away(place: Place, number: int, *, versions: bool) -> None:
    """Move a file into the trash, with its earlier versions where it has some. Twice is once."""
    with disk_errors_are_refused(), suppress(FileNotFoundError), folder_of(place) as at:
        names = [place.name] if _is_file(place.name, at) else []
        if versions:
            names += [f"{place.name}.g{number}" for number in _generations(place.name, at)]
        if names:
            _move(names, at, trashed_place(number, place.name))


def lay_beside(place: Place, number: int, *, versions: bool) -> None:
    """Give a file and its earlier versions a second name in the trash; nothing moves."""
    with disk_errors_are_refused(), suppress(FileNotFoundError), folder_of(place) as at:
        numbers = _generations(place.name, at) if versions else []
        with folder_of(trashed_place(number, place.name), make=True) as there:
            for name in [place.name, *(f"{place.name}.g{number}" for number in numbers)]:
                _lay_link(name, at, there)
            os.fsync(there)


def _lay_link(name: str, at: int, there: int) -> None:
    """One that is there of an earlier try may be another version by now."""
    with suppress(FileNotFoundError):
        if not _is_file(name, at):
            return
        inode = os.stat(name, dir_fd=at, follow_symlinks=False).st_ino
        if _exists(name, there):
            if os.stat(name, dir_fd=there, follow_symlinks=False).st_ino == inode:
                return
            os.unlink(name, dir_fd=there)
        _give_second_name(name, name, at, there)


def is_in_trash(place: Place, number: int) -> bool:
    try:
        with folder_of(trashed_place(number, place.name)) as at:
            return _exists(place.name, at)
    except FileNotFoundError:
        return False


def put_back(place: Place, number: int) -> None:
    """Move a file out of the trash to where it was. Twice is once."""
    trashed = trashed_place(number, place.name)
    with disk_errors_are_refused(), suppress(FileNotFoundError), folder_of(trashed) as at:
        _move(os.listdir(at), at, place)
    throw_away(number)


def _move(names: list[str], at: int, to: Place) -> None:
    with folder_of(to, make=True) as there:
        for name in names:
            os.rename(name, name, src_dir_fd=at, dst_dir_fd=there)
        os.fsync(there)
        os.fsync(at)


def throw_away(number: int) -> None:
    """Remove what the trash holds of a file."""
    folder = trashed_place(number, "")
    with disk_errors_are_refused(), suppress(FileNotFoundError):
        with folder_of(folder) as at:
            for name in os.listdir(at):
                os.unlink(name, dir_fd=at)
        with folder_of(Place((TRASH,), "")) as at:
            os.rmdir(str(number), dir_fd=at)
            os.fsync(at)


def forget(place: Place, *, versions: bool) -> None:
    """Remove a file for good, with its earlier versions where it has some."""
    with disk_errors_are_refused(), suppress(FileNotFoundError), folder_of(place) as at:
        numbers = _generations(place.name, at) if versions else []
        for name in [place.name, *(f"{place.name}.g{number}" for number in numbers)]:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=at)


# --- a file where a folder is to be, and the reverse ---------------------------------------------


def is_regular(place: Place) -> bool:
    """Whether a file lies there, and no link nor folder."""
    return stat.S_ISREG(_mode_of(place))


def is_folder(place: Place) -> bool:
    return stat.S_ISDIR(_mode_of(place))


def is_beneath_a_file(place: Place) -> bool:
    """Whether one lies where a folder on the way is called so."""
    above = range(1, len(place.folders))
    return any(is_regular(Place(place.folders[:at], place.folders[at])) for at in above)


def _mode_of(place: Place) -> int:
    try:
        with folder_of(place) as at:
            return os.stat(place.name, dir_fd=at, follow_symlinks=False).st_mode
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT):
            return 0
        raise


def files_beneath(place: Place) -> list[str]:
    """The paths of all files below a folder, as files of the run are called: of what lies aside
    that of which it is a version, without what is on its way in."""
    found = dict.fromkeys(_beneath(place))
    return [path for path in found if not path.endswith(_PART)]


def _beneath(place: Place) -> Iterator[str]:
    with suppress(FileNotFoundError), folder_of(Place((*place.folders, place.name), "")) as at:
        for name in os.listdir(at):
            mode = os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                below = Place((*place.folders, place.name), name)
                yield from (f"{name}/{path}" for path in _beneath(below))
            elif stat.S_ISREG(mode):
                head, _, tail = name.rpartition(".g")
                yield head if head and tail.isdecimal() else name


def remove_empty(place: Place) -> None:
    """Take a folder away in which there is nothing but empty folders, and what a server that was
    killed had begun to receive. One that holds more is left, as far as it does."""
    within = Place((*place.folders, place.name), "")
    with disk_errors_are_refused(), suppress(FileNotFoundError):
        with folder_of(within) as at:
            _sweep(at, ".")
            for name in os.listdir(at):
                if stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                    remove_empty(Place(within.folders, name))
            if any(name.startswith(".") and name.endswith(_PART) for name in os.listdir(at)):
                raise FileBusy(
                    "Another file is on its way into this place; try again.",
                    retry_after_seconds=1,
                )
        with folder_of(place) as above:
            try:
                os.rmdir(place.name, dir_fd=above)
            except OSError as exc:
                if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            os.fsync(above)
