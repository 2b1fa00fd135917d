"""Which Unix user runs a job, and acting with that user's rights.

By default it is the agent's own. An agent of root that was started with `--run-as submitter` runs
each job as the user whom its order names, and none as root: what root consented to on the host
holds, whatever a server asks for (docs/security.md, docs/adr/0014).
"""

import ctypes
import os
import platform
import pwd
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent import host, shim
from agent.errors import ConfigError, StartFailed

FIRST_UID = 1000  # below are accounts of the system
GROUPS_SECONDS = 600.0
NOBODY_UID = 65534  # what cannot be mapped, on NFS and in containers; no person

#: setgroups(2) of this thread alone: the C library's changes all threads at once.
_SETGROUPS = {"x86_64": 116, "aarch64": 159, "riscv64": 159, "ppc64le": 81}
_UNCHANGED = -1  # setfsuid(2) and setfsgid(2) then only tell


@dataclass(frozen=True)
class User:
    """An account of this host."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: Path
    shell: str  # empty: as the agent's environment says

    @property
    def is_own(self) -> bool:
        return self.uid == os.geteuid()

    @property
    def for_supervisor(self) -> tuple[str, int, int]:
        return self.name, self.uid, self.gid

    def rights(self) -> AbstractContextManager[None]:
        """Within the block this thread reaches files as this user does."""
        return acting_as(self.uid, self.gid, self.groups)


def own() -> User:
    """Who runs this process."""
    groups = tuple(os.getgroups())
    return User(host.unix_user(), os.geteuid(), os.getegid(), groups, host.home(), "")


def is_other(name: str | None) -> bool:
    """Whether an order that names this user wants another than the agent's own."""
    return name is not None and (os.geteuid() == 0 or name != host.unix_user())


def of_order(name: str | None, *, as_submitter: bool) -> User:
    """Who runs the job of an order that names this user.

    Args:
        name: None: nobody in particular.
        as_submitter: whether root started the agent for this.

    Raises:
        StartFailed: nobody may.
    """
    if not as_submitter:
        if is_other(name):
            raise StartFailed(
                f"The job asks to run as {name!r}, and this agent runs jobs as "
                f"{host.unix_user()!r} only: root starts it with --run-as submitter to allow that"
            )
        return own()
    if name is None:
        raise StartFailed(
            "This agent runs each job as its submitter, and the submitter has no Unix name: a "
            "manager sets it on the site, under Administration, Users"
        )
    return find(name)


def find(name: str) -> User:
    """
    Raises:
        StartFailed: there is no such account here, or it is no person's.
    """
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):  # the latter: what no account can be called
        raise StartFailed(
            f"There is no Unix user {name!r} on this host: make the account there, or have a "
            "manager correct the Unix name of whoever submitted the job"
        ) from None
    if entry.pw_uid < FIRST_UID or entry.pw_uid == NOBODY_UID:
        raise StartFailed(
            f"{name!r} is an account of the system on this host (uid {entry.pw_uid}), and no job "
            "runs as such: a manager sets the Unix name of the person who submitted it"
        )
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    home, shell = Path(entry.pw_dir), entry.pw_shell or "/bin/sh"
    return User(name, entry.pw_uid, entry.pw_gid, groups, home, shell)


_known_groups: dict[int, tuple[float, tuple[int, ...]]] = {}  # by uid: when asked, and which


def groups_of(uid: int) -> tuple[int, ...]:
    """The groups of a user by its number; none of one that this host never knew. What a directory
    server (LDAP) said is believed for a while, and for as long as it says nothing else."""
    asked_at, groups = _known_groups.get(uid, (float("-inf"), ()))
    if shim.now() - asked_at >= GROUPS_SECONDS:
        with suppress(KeyError):
            entry = pwd.getpwuid(uid)
            groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
        _known_groups[uid] = shim.now(), groups
    return groups


# --- rights -----------------------------------------------------------------------------------


@contextmanager
def acting_as(uid: int, gid: int, groups: Sequence[int]) -> Iterator[None]:
    """Within the block this thread reaches files with the rights of that user, others as before.

    Whoever is not root keeps its own rights: there are no others to have. Keep the block to what
    touches files of that user: neither the journal nor a log can be opened in it.

    Raises:
        OSError: the system does not let us.
    """
    if os.geteuid() != 0 or uid == 0:
        yield
        return
    before = os.getgroups()
    try:
        _take(uid, gid, groups)
        yield
    finally:
        _take(0, 0, before)


def check_rights() -> None:
    """
    Raises:
        ConfigError: acting_as() does not work here.
    """
    if os.geteuid() != 0:
        raise ConfigError("--run-as submitter needs root: start the agent as root, or without it")
    try:
        with acting_as(FIRST_UID, FIRST_UID, []):
            pass
    except OSError as exc:
        raise ConfigError(
            f"--run-as submitter does not work here ({exc.strerror}): does a container keep root "
            "from becoming another user?"
        ) from exc


def _take(uid: int, gid: int, groups: Sequence[int]) -> None:
    """The uid goes last and, coming back, first: only root may change the others."""
    libc = ctypes.CDLL(None, use_errno=True)
    if uid == 0:
        _set(libc.setfsuid, uid)
    number = _SETGROUPS.get(platform.machine()) if sys.platform == "linux" else None
    if number is None:
        raise OSError(0, f"unknown on {sys.platform}, {platform.machine()}")
    if libc.syscall(number, len(groups), (ctypes.c_uint32 * len(groups))(*groups)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    _set(libc.setfsgid, gid)
    if uid != 0:
        _set(libc.setfsuid, uid)


def _set(call: "ctypes._NamedFuncPointer", value: int) -> None:
    """These two never fail aloud: they tell what was before, so ask again."""
    call.restype = ctypes.c_uint32
    call(value)
    if call(_UNCHANGED) != value:
        raise OSError(0, f"{call.__name__}({value}) has no effect")
