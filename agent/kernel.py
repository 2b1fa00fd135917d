"""What Linux says in /proc of processes, of memory and of load.

Nothing compiled is needed for it, so one `agent.pyz` serves every machine (docs/adr/0036).
tests/agent/test_kernel.py holds each answer against psutil's.
"""

import os
import pwd
import select
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent import shim

LOOK_SECONDS = 0.1  # at a process, where the kernel has no pidfd
_IDLE, _IOWAIT = 3, 4  # of the fields of /proc/stat
_OWN_TIMES = 8  # of them; the times of guests that follow are in these already


# --- processes ---


def pids() -> Iterator[int]:
    return map(int, filter(str.isdigit, os.listdir("/proc")))


def wait_for_end(pid: int, seconds: float) -> None:
    """Block until the process has ended, whoever's child it is; so long at most."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    # Before Linux 5.3, or a sandbox that does not know it; a Python that was built for an older
    # system, as conda's are, has no such function.
    except (OSError, AttributeError):
        return _look_for_end(pid, seconds)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll(seconds * 1000)
    finally:
        os.close(handle)


def _look_for_end(pid: int, seconds: float) -> None:
    pause, end = threading.Event(), time.monotonic() + seconds
    while (process := shim.stat(pid)) and process[0] and time.monotonic() < end:
        pause.wait(LOOK_SECONDS)


def user_of(pid: int) -> str | None:
    """Who runs it: a name, or a number that has none; None: there is no such process."""
    uid = uid_of(pid)
    try:
        return None if uid is None else pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def uid_of(pid: int) -> int | None:
    """Its real user."""
    for line in _read(f"{pid}/status").splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    return None


def arguments_of(pid: int) -> list[str]:
    """Its command line; empty: it has none (a thread of the kernel's, a zombie), or has gone."""
    return _read(f"{pid}/cmdline").split("\0")[:-1]


def children_of(pid: int) -> list[int]:
    found = []
    for one in pids():
        process = shim.stat(one)
        if process is not None and process[1] == pid:
            found.append(one)
    return found


def started_at(pid: int) -> float | None:
    """When, in seconds since 1970 as the clock stands now; None: there is no such process."""
    process = shim.stat(pid)
    if process is None:
        return None
    [booted] = [line.split()[1] for line in _read("stat").splitlines() if line.startswith("btime")]
    return float(booted) + process[2] / os.sysconf("SC_CLK_TCK")


# --- the machine ---


@dataclass(frozen=True)
class Memory:
    total_bytes: int
    available_bytes: int

    @property
    def used_bytes(self) -> int:
        return max(0, self.total_bytes - self.available_bytes)


def memory() -> Memory:
    lines = (line.split() for line in _read("meminfo").splitlines())
    kilobytes = {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}
    free = kilobytes.get("MemFree", 0)  # before Linux 3.14 there is no better figure
    available = kilobytes.get("MemAvailable", free)
    return Memory(kilobytes["MemTotal"] * 1024, available * 1024)


@dataclass(frozen=True)
class Disk:
    total_bytes: int
    free_bytes: int  # for this user


def disk(path: Path) -> Disk:
    """The one that holds `path`.

    Raises:
        OSError: it cannot be asked.
    """
    found = os.statvfs(path)
    return Disk(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


class Load:
    """How busy all CPUs were between two looks."""

    def __init__(self) -> None:
        self._last = _cpu_ticks()

    def percent(self) -> float:
        """Since the last time that this was asked: 0 to 100."""
        last, self._last = self._last, _cpu_ticks()
        busy, total = (now - before for now, before in zip(self._last, last, strict=True))
        return min(100.0, max(0.0, 100.0 * busy / total)) if total > 0 else 0.0


def _cpu_ticks() -> tuple[int, int]:
    """Those of work, and all, since the start; waiting for a disk is no work."""
    times = [int(word) for word in _read("stat").split("\n", 1)[0].split()[1:]][:_OWN_TIMES]
    return sum(times) - times[_IDLE] - times[_IOWAIT], sum(times)


def mounts(kind: str) -> list[Path]:
    """Where file systems of this kind are mounted for this process."""
    lines = (line.split() for line in _read("self/mounts").splitlines())
    points = [words[1] for words in lines if words[2] == kind]
    return [Path(point.encode().decode("unicode_escape")) for point in points]  # a space: \040


def _read(name: str) -> str:
    """Empty: it is not there, or not for us."""
    try:
        return Path("/proc", name).read_text(errors="surrogateescape")
    except OSError:
        return ""
