"""Starting, finding again and stopping the supervisor of an attempt (agent.shim).

What is true of an attempt's processes stands in its folder, written by the supervisor. The agent
only reads it: so an agent that starts anew knows as much as the one that was killed.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import host, kernel, shim
from agent.gpulock import NOTHING, Taken

logger = logging.getLogger(__name__)

#: By import, for its compiled form: half the memory and a quicker start than by path.
_SHIM = (
    "import sys; sys.path.append(sys.argv[1]); import shim; sys.exit(shim.main())",
    str(Path(shim.__file__).parent),
)
ADOPTED_LOOK_SECONDS = 30.0
LEFTOVER_LOOK_SECONDS = 0.1
QUIET_LOOKS = 2  # a process in the middle of exec() shows no environment
UNKILLABLE_SECONDS = 60.0
#: After the end of a fenced job's grace; the server gives it to another host 15 s after that.
FENCE_WAKE_SECONDS, FENCE_KILL_SECONDS = 3.0, 6.0
FENCE_BYTES = 32  # more than a number has: what is written over an older one covers all of it


@dataclass(frozen=True)
class Identity:
    """A process, never to be confused with a later one of the same pid."""

    pid: int
    start_ticks: int
    boot_id: str

    @property
    def alive(self) -> bool:
        process = shim.stat(self.pid)
        return (
            process is not None
            and process[0]
            and process[2] == self.start_ticks
            and self.boot_id == shim.boot_id()
        )


@dataclass(frozen=True)
class Running:
    process: Identity
    started_at: str


@dataclass(frozen=True)
class Ended:
    """What the supervisor wrote at the end. `error`: the system would not run the command."""

    exit_code: int | None
    cause: str | None
    started_at: str | None
    ended_at: str
    error: str | None
    terminated: bool  # the host was going down
    leftovers: list[int]


class Supervision:
    """The processes of one attempt, known by the folder that its supervisor writes to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None

    # --- what is ---

    def supervisor(self) -> Identity | None:
        """Whoever claimed the attempt, alive or not."""
        return _identity(self._read("shim.json"))

    def running(self) -> Running | None:
        """The command's process, once it was started; it may have ended since."""
        content = self._read("run.json")
        process = _identity(content)
        return Running(process, content["started_at"]) if process and content else None

    def ended(self) -> Ended | None:
        content = self._read("exit.json")
        if content is None:
            return None
        return Ended(
            exit_code=content["exit_code"],
            cause=content.get("cause"),
            started_at=content.get("started_at"),
            ended_at=content["ended_at"],
            error=content.get("error"),
            terminated=content.get("terminated", False),
            leftovers=content.get("leftovers", []),
        )

    # --- what is to be ---

    def start(self, order: "shim.Order", locks: Taken = NOTHING) -> None:
        """Give the attempt a supervisor, and return when its command runs or has failed to.

        It inherits these locks, and the command its own from it: they end with them.

        If there is a supervisor already (the agent was killed before it could note so), this is
        the one that goes on. The environment travels through a pipe: its secrets are never
        written, nor seen in the list of processes; there it bears its folder alone.
        """
        with open(self._folder / "shim.log", "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", *_SHIM, str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                env={},
                pass_fds=(*locks.supervisor, *locks.job),
                start_new_session=True,
            )
        assert child.stdin is not None
        assert child.stdout is not None
        with suppress(BrokenPipeError), child.stdin:
            child.stdin.write(json.dumps({**order, "own_locks": list(locks.supervisor)}).encode())
        with child.stdout:
            child.stdout.readline()
        if child.poll() == shim.CLAIMED:
            logger.info("%s has a supervisor already", self._folder.name)
        self._child = child

    def forbid(self) -> bool:
        """Let no supervisor claim the attempt any more. False: one has, now or before."""
        claim: dict[str, object] = {"pid": 0, "start_ticks": None, "boot_id": shim.boot_id()}
        return shim.claim(str(self._folder), claim)

    def wait(self) -> None:
        """Block until the supervisor is gone, whoever started it."""
        while not self.wait_for(ADOPTED_LOOK_SECONDS):
            pass

    def wait_for(self, seconds: float) -> bool:
        """Block so long at most. Return whether the supervisor is gone."""
        with suppress(subprocess.TimeoutExpired):
            if self._child is not None:
                self._child.wait(seconds)
        supervisor = self.supervisor()
        if supervisor is None or not supervisor.alive:
            return True
        if self._child is None or self._child.pid != supervisor.pid:
            kernel.wait_for_end(supervisor.pid, seconds)
        return not supervisor.alive

    def enforce_fence(self, limit_seconds: float) -> None:
        """Do the supervisor's duty when it does not: somebody has stopped it (SIGSTOP).

        Woken, it ends the job itself and says why; if it is stopped again, the job goes first.
        """
        past = self.past_fence(limit_seconds)
        supervisor, running = self.supervisor(), self.running()
        if past < FENCE_WAKE_SECONDS or supervisor is None or not supervisor.alive:
            return
        if past >= FENCE_KILL_SECONDS and running is not None and running.process.alive:
            with suppress(OSError):
                os.killpg(running.process.pid, signal.SIGKILL)
            self._cgroup().kill()
        _kill(supervisor.pid, signal.SIGCONT)

    def past_fence(self, limit_seconds: float) -> float:
        """Seconds since the moment when nothing of the job may live any more; negative: until."""
        return shim.overdue(str(self._folder), limit_seconds) - shim.FENCE_GRACE_SECONDS

    def ask_to_stop(self) -> None:
        """The supervisor brings the job to its end; also one that is only being born."""
        with suppress(FileNotFoundError):  # the folder goes when all is over
            (self._folder / "stop").touch()
        supervisor = self.supervisor()
        if supervisor is not None and supervisor.alive:
            with suppress(ProcessLookupError):
                os.kill(supervisor.pid, signal.SIGUSR1)

    def touch_fence(self, sent_at_seconds: float) -> None:
        """A poll sent then (CLOCK_BOOTTIME) was answered: the lease is renewed.

        Raises:
            OSError: that cannot be noted.
        """
        new, fence = self._folder / "fence.tmp", self._folder / "fence"
        try:
            new.write_text(repr(sent_at_seconds))
            new.rename(fence)
        except OSError:  # a full disk has the place of the old one still
            with open(fence, "r+b") as file:
                file.write(repr(sent_at_seconds).encode().ljust(FENCE_BYTES))
                file.truncate()

    def clear_away(self, attempt_id: str, grace_seconds: float) -> list[int]:
        """End what lives on without its supervisor. Return the pids that cannot be killed."""
        began, told, quiet = shim.now(), set[int](), 0
        while quiet < QUIET_LOOKS:
            left, spent = self._orphans(attempt_id), shim.now() - began
            if left and spent > grace_seconds + UNKILLABLE_SECONDS:
                return left
            if spent > grace_seconds:
                self._cgroup().kill()
            for pid in left:
                if spent > grace_seconds:
                    _kill(pid, signal.SIGKILL)
                elif pid not in told:
                    _kill(pid, signal.SIGTERM)
            told.update(left)
            quiet = 0 if left else quiet + 1
            time.sleep(LEFTOVER_LOOK_SECONDS)
        self._cgroup().remove()
        return []

    # --- below ---

    def _orphans(self, attempt_id: str) -> list[int]:
        found = {*host.processes_with("LAB_ATTEMPT_ID", attempt_id), *self._cgroup().members()}
        running = self.running()
        if running is not None and running.process.boot_id == shim.boot_id():
            found.update(_session(running.process))
        return sorted(pid for pid in found if (process := shim.stat(pid)) and process[0])

    def _cgroup(self) -> shim.Cgroup:
        return shim.Cgroup((self._read("shim.json") or {}).get("cgroup"))

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            content = json.loads((self._folder / name).read_bytes())
        except (OSError, ValueError):  # not there, or torn by a power cut
            return None
        return content if isinstance(content, dict) else None


def _identity(content: dict[str, Any] | None) -> Identity | None:
    if content is None or content.get("start_ticks") is None:
        return None
    return Identity(content["pid"], content["start_ticks"], content["boot_id"])


def _kill(pid: int, signum: signal.Signals) -> None:
    with suppress(OSError):  # already gone, which is what we wanted
        os.kill(pid, signum)


def _session(leader: Identity) -> list[int]:
    """Members of the session that `leader` made. No pid is given anew while it names one."""
    found = []
    for pid in kernel.pids():
        with suppress(OSError):
            if os.getsid(pid) == leader.pid:
                found.append(pid)
    return found
