"""A lock for each GPU of this host, so that two lab servers never use one card (ADR 0015).

Agents of several servers, and of several Unix users, know nothing of each other. What they share
is the host: each card has a file there, named for its UUID, two bytes of which are locked.

    AGENT  by the agent, from before the start until the card's memory is back
    JOB    by the supervisor and by the job, each with an opening of its own, which they inherit,
           as long as any of them lives: a job that unlocks its own takes the other's not away

Whoever wants the card takes both, AGENT first. Whoever only wants to know asks the kernel, which
takes nothing, so looking never stands in the way of a start. The locks are F_OFD_SETLK's: they
go when the last descriptor of their opening is closed, however its holders ended. A file that lies
around locks nothing.
"""

import errno
import fcntl
import logging
import os
import stat
import struct
import tempfile
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from agent import host
from agent.complaint import Complaint
from agent.errors import ConfigError, GPUTaken, StartFailed
from agent.wire import GPUReading

logger = logging.getLogger(__name__)

AGENT, JOB = 0, 1  # the bytes

#: The first also for a service with a private /tmp; not every system opens it to all users.
FOLDERS = (Path("/run/lock"), Path("/var/tmp"))  # noqa: S108 - no name in it is trusted
_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid
_WHY_HELD = (errno.EAGAIN, errno.EACCES)


def lock_folder(chosen: Path | None) -> Path:
    """Where the locks of this host are: the same place for all its agents, whoever starts them.

    Raises:
        ConfigError: there is none that can be used.
    """
    found = chosen or next((path for path in FOLDERS if _is_for_all(path)), None)
    if found is None:
        raise ConfigError(
            "Neither /run/lock nor /var/tmp is a folder of root's that all users may write to "
            "(mode 1777): name one with --lock-dir, the same for all agents of this host"
        )
    if not found.is_dir() or not os.access(found, os.W_OK):
        raise ConfigError(f"--lock-dir {found} is not a folder that can be written: name another")
    if _is_private(found):
        raise ConfigError(
            f"{found} is this service's own (systemd's PrivateTmp), and nobody else sees what it "
            "locks there: take PrivateTmp out of the unit, or name another folder with --lock-dir"
        )
    if host.on_network(found):
        raise ConfigError(f"--lock-dir {found} is on a network file system: name a local folder")
    return found


def _is_private(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether systemd has laid a folder of the service's own over it."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return False
    # proc_pid_mountinfo(5): the fourth field is a mount's root in its file system, then its place
    laid = [line.split()[3:5] for line in lines]
    return any("systemd-private-" in root and path.is_relative_to(place) for root, place in laid)


def _is_for_all(path: Path) -> bool:
    """Whether all users may make files there, and nobody but root remove another's."""
    try:
        found = path.lstat()
    except OSError:
        return False
    for_all = stat.S_ISVTX | stat.S_IWOTH
    return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and found.st_mode & for_all == for_all


class Taken(NamedTuple):
    """Descriptors that hold the JOB of some cards."""

    supervisor: tuple[int, ...] = ()  # which the job is not to inherit from it
    job: tuple[int, ...] = ()

    def with_job(self, descriptor: int) -> "Taken":
        return self._replace(job=(*self.job, descriptor))

    def with_supervisor(self, descriptor: int) -> "Taken":
        return self._replace(supervisor=(*self.supervisor, descriptor))

    def close(self) -> None:
        for descriptor in (*self.supervisor, *self.job):
            os.close(descriptor)


NOTHING = Taken()


class GPULocks:
    """The locks as one agent takes part in them. Safe for use by several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._turn = threading.Lock()
        self._wanted: dict[str, set[str]] = {}  # uuid -> attempts that keep the card
        self._held: dict[str, int] = {}  # uuid -> descriptor that holds its AGENT
        self._complaints: dict[str, Complaint] = {}

    def take(self, attempt_id: str, uuids: list[str]) -> Taken:
        """Take the cards for an attempt whose supervisor is to be started now.

        What it returns is to be inherited, and to be closed here afterwards. AGENT stays ours
        until let_go().

        Raises:
            GPUTaken: another agent of this host has one of them; then none is taken.
            StartFailed: the lock's file cannot be made.
        """
        taken = NOTHING
        with self._turn:
            try:
                for uuid in sorted(uuids):  # of two that want the same two, one gets both
                    self._wanted.setdefault(uuid, set()).add(attempt_id)
                    if not self._hold(uuid):
                        raise GPUTaken(uuid)
                    taken = taken.with_job(self._lock(uuid, JOB))
                    taken = taken.with_supervisor(_shared(taken.job[-1]))
            except StartFailed:
                taken.close()
                self._let_go(attempt_id)
                raise
        return taken

    def join(self, attempt_id: str, uuids: list[str]) -> None:
        """Keep the cards of an attempt that an earlier agent took them for.

        Nobody else can have them while its processes live, as these hold JOB. Should another
        agent be trying just now, ours is taken at one of the next looks.
        """
        with self._turn:
            for uuid in uuids:
                self._wanted.setdefault(uuid, set()).add(attempt_id)
            self._keep()

    def let_go(self, attempt_id: str) -> None:
        """The attempt needs its cards no more. May be called twice."""
        with self._turn:
            self._let_go(attempt_id)

    def look(self, readings: list[GPUReading]) -> list[GPUReading]:
        """The readings, each with whether another agent of this host has the card."""
        with self._turn:
            self._keep()
            return [replace(r, used_elsewhere=self._is_elsewhere(r.uuid)) for r in readings]

    # --- below; in turn ---

    def _let_go(self, attempt_id: str) -> None:
        for uuid, attempts in list(self._wanted.items()):
            attempts.discard(attempt_id)
            if not attempts:
                del self._wanted[uuid]
                if uuid in self._held:
                    os.close(self._held.pop(uuid))

    def _keep(self) -> None:
        """Hold what is wanted, also where a cleaner of old files has removed one."""
        for uuid in self._wanted:
            with suppress(StartFailed):
                self._hold(uuid)

    def _hold(self, uuid: str) -> bool:
        """Have AGENT of the card's present file. Return whether we do."""
        ours = self._held.get(uuid)
        if ours is not None and _is_at(ours, self._path(uuid)):
            return True
        try:
            self._held[uuid] = self._lock(uuid, AGENT)
        except GPUTaken:
            return False
        if ours is not None:
            os.close(ours)
        return True

    def _is_elsewhere(self, uuid: str) -> bool:
        """Ask the kernel. A file that we cannot lock is somebody else's as well."""
        if uuid in self._wanted:
            return False
        complaint = self._complaints.setdefault(uuid, Complaint(logger))
        try:
            descriptor = _open(self._path(uuid))
        except FileNotFoundError:
            return False
        except OSError as exc:
            complaint.about(f"{self._path(uuid)} cannot be locked ({exc.strerror}): remove it")
            return True
        complaint.over(f"{self._path(uuid)} can be locked again")
        try:
            return any(_is_locked(descriptor, byte) for byte in (AGENT, JOB))
        finally:
            os.close(descriptor)

    def _lock(self, uuid: str, byte: int) -> int:
        """
        Raises:
            GPUTaken: somebody has it.
            StartFailed: there is no file, and none can be made.
        """
        path = self._path(uuid)
        while True:
            descriptor = self._opened(uuid, path)
            try:
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _exclusive(byte))
            except OSError as exc:
                os.close(descriptor)
                if exc.errno in _WHY_HELD:
                    raise GPUTaken(uuid) from None
                raise StartFailed(f"{path} cannot be locked: {exc.strerror}") from exc
            if _is_at(descriptor, path):
                with suppress(OSError):
                    os.utime(descriptor)  # cleaners go by age
                return descriptor
            os.close(descriptor)  # removed since we opened it: that lock is nobody's

    def _opened(self, uuid: str, path: Path) -> int:
        while True:
            try:
                return _open(path)
            except FileNotFoundError:
                _make(path)
            except OSError:
                raise GPUTaken(uuid) from None

    def _path(self, uuid: str) -> Path:
        return self._folder / f"lab-agent-{uuid}.lock"


def _shared(descriptor: int) -> int:
    """Another opening that holds JOB too, as this one does from now on. No agent can take it in
    between: none has AGENT but we.

    Raises:
        StartFailed: the system has no more descriptors.
    """
    with ExitStack() as opened:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _lock_of(fcntl.F_RDLCK, JOB))
            # Not by its name, at which another file may lie by now.
            other = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
            opened.callback(os.close, other)
            fcntl.fcntl(other, fcntl.F_OFD_SETLK, _lock_of(fcntl.F_RDLCK, JOB))
        except OSError as exc:
            raise StartFailed(f"A GPU's lock cannot be opened again: {exc.strerror}") from exc
        opened.pop_all()
    return other


def _open(path: Path) -> int:
    """
    Raises:
        OSError: it is not there, is a link or no file at all, or another user's alone.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a file")


def _make(path: Path) -> None:
    """An empty file that all users may lock, whatever our umask; it appears with that mode."""
    try:
        descriptor, new = tempfile.mkstemp(prefix=".lab-agent-", dir=path.parent)
        try:
            os.fchmod(descriptor, 0o666)
            with suppress(FileExistsError):
                os.link(new, path)
        finally:
            os.close(descriptor)
            os.unlink(new)
    except OSError as exc:
        raise StartFailed(
            f"{path}, which keeps other lab servers off the GPU, cannot be made: {exc.strerror}"
        ) from exc


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    return False


def _is_locked(descriptor: int, byte: int) -> bool:
    """Whether anybody, ourselves included, holds that byte by another opening."""
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _exclusive(byte))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _exclusive(byte: int) -> bytes:
    return _lock_of(fcntl.F_WRLCK, byte)


def _lock_of(kind: int, byte: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)
