"""The supervisor of one attempt: a small process that outlives the agent.

The agent may be killed, upgraded or cut off at any moment; the command must not notice. So it is
not the agent's child but this program's: started as `python -I -S shim.py` with the order as
JSON on stdin, in a session of its own. It imports the standard library only, all of it at the
start (an upgrade may replace the files beneath it), and stays below 10 MB.

In the attempt's folder it leaves, each by rename:
    shim.json  who supervises: written once; a second supervisor of the attempt gives way
    run.json   the command's process
    exit.json  how it ended: the last thing written, when nothing of the job lives any more
and reads:
    stop       the file exists: bring the job to its end (SIGUSR1 says: look now)
    fence      CLOCK_BOOTTIME seconds of the agent's last answered poll (policy `requeue`)
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from contextlib import suppress
from datetime import datetime, timezone

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing costs a running supervisor half a megabyte
    from typing import TypedDict

    class Order(TypedDict):
        folder: str  # the attempt's own, in the agent's state folder
        executable: str  # absolute
        arguments: list[str]  # the first is the program's name
        directory: str
        environment: dict[str, str]
        log: str
        time_limit_seconds: float | None
        grace_seconds: float
        fence_seconds: float | None  # policy `requeue`
        user: tuple[str, int, int] | None  # name, uid and gid to run as; None: ours
        cgroup: str | None  # to be made for the command; of version 2
        own_locks: list[int]  # descriptors that the command does not inherit; of version 3


PR_SET_CHILD_SUBREAPER = 36
CLAIMED = 3  # exit code: another supervisor has this attempt

LOOK_SECONDS = 5.0  # between looks at `stop`, should SIGUSR1 be lost
FENCE_LOOK_SECONDS = 0.5  # the host may have slept: no timer can be trusted for long
FENCE_GRACE_SECONDS = 15.0  # the server gives the job to another host 30 s after the fence
LEFTOVER_GRACE_SECONDS = 2.0  # for what the command left behind
UNKILLABLE_SECONDS = 30.0  # a process in uninterruptible sleep; its pid is named in exit.json
RETRY_SECONDS = 5.0  # between tries to write exit.json on a full disk

SIGNALS = [signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


def now() -> float:
    """Seconds that run on while the host sleeps, and that nobody can set."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def wall_clock() -> str:
    """For people to read, never to decide upon."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def stat(pid: int | str) -> tuple[bool, int, int] | None:
    """(alive, parent's pid, ticks from boot to its start), or None: no such process.

    With the boot id and the pid the ticks are the process's name for ever. A zombie has all
    three, and is not alive.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[0] not in (b"Z", b"X"), int(fields[1]), int(fields[19])


def descendants(root: int) -> list[int]:
    """All processes below `root`, zombies left out."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        process = stat(name)
        if process and process[0]:
            children.setdefault(process[1], []).append(int(name))
    found: list[int] = []
    todo = [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def write(folder: str, name: str, content: dict[str, object]) -> None:
    """The file is there whole and durable, or not at all."""
    path = os.path.join(folder, name)
    with open(f"{path}.tmp", "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}.tmp", path)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Cgroup:
    """The command's, which nothing leaves by forking quickly, by a session of its own or by an
    emptied environment. Without a path all of this does nothing."""

    def __init__(self, path: str | None) -> None:
        self.path = path

    def enter(self) -> None:
        """By the command's process itself. A job without it is better than no job."""
        if self.path is not None:
            with suppress(OSError):
                os.makedirs(self.path, exist_ok=True)
                self._tell("cgroup.procs", b"0")

    def members(self) -> list[int]:
        """Also of those that it has made below its own; zombies left out."""
        found: list[int] = []
        for folder in self._folders():
            with suppress(OSError), open(os.path.join(folder, "cgroup.procs")) as file:
                found += map(int, file)
        return found

    def kill(self) -> None:
        """All at once, with SIGKILL (Linux 5.14; before it, nothing)."""
        self._tell("cgroup.kill", b"1")

    def remove(self) -> None:
        for folder in reversed(self._folders()):
            with suppress(OSError):  # somebody is in it
                os.rmdir(folder)

    def _folders(self) -> list[str]:
        """From the top down."""
        return [folder for folder, _, _ in os.walk(self.path)] if self.path is not None else []

    def _tell(self, name: str, word: bytes) -> None:
        if self.path is None:
            return
        with suppress(OSError):
            handle = os.open(os.path.join(self.path, name), os.O_WRONLY)
            try:
                os.write(handle, word)
            finally:
                os.close(handle)


class Supervisor:
    def __init__(self, order: Order) -> None:
        self.order = order
        self.cgroup = Cgroup(order.get("cgroup"))  # that of an older agent names none
        self.folder = order["folder"]
        self.pid = 0
        self.born = now()
        self.status: int | None = None  # as waitpid gives it
        self.started_at = ""
        self.is_noted = False
        self.deadline = float("inf")
        self.look_seconds = FENCE_LOOK_SECONDS if order["fence_seconds"] else LOOK_SECONDS
        self.terminated = False  # somebody sent SIGTERM to us: the host is going down

    # --- the two steps of its life ---

    def start(self) -> None:
        """Start the command in a session of its own, its output straight to the log.

        What the agent gave us to inherit, the locks of GPUs, it inherits as well: should somebody
        kill us, its cards are its own as long as it lives. Our own opening of them it does not: it
        could unlock that too.

        Raises:
            OSError: the system will not run it.
        """
        order = self.order
        for descriptor in order.get("own_locks", []):
            os.set_inheritable(descriptor, False)
        read, write = os.pipe()
        self.pid = os.fork()  # posix_spawn() cannot change the user
        if self.pid == 0:
            become_command(order, self.cgroup, write)
        os.close(write)
        with open(read, "rb") as pipe:
            error = pipe.read()  # nothing: the pipe was closed by exec()
        if error:
            os.waitpid(self.pid, 0)
            raise OSError(0, error.decode())
        self.started_at = wall_clock()
        if order["time_limit_seconds"] is not None:
            self.deadline = now() + order["time_limit_seconds"]
        self.note_process()

    def supervise(self) -> str | None:
        """Block until the command has ended. Return why it was made to, None: by itself."""
        while self.status is None:
            self.note_process()
            if cause := self.reason_to_stop():
                self.stop(self.grace_of(cause))
                return cause
            self.wait(min(self.look_seconds, max(0.0, self.deadline - now())))
        return None

    # --- what they are made of ---

    def note_process(self) -> None:
        """Not synced to disk: after a power cut there is no process to be found by it. While the
        disk is full it is left for later: the command runs, and is watched over all the same."""
        path = os.path.join(self.folder, "run.json")
        if self.is_noted:
            return
        with suppress(OSError):
            with open(f"{path}.tmp", "w") as file:
                json.dump({**identity(self.pid), "started_at": self.started_at}, file)
            os.rename(f"{path}.tmp", path)
            self.is_noted = True

    def reason_to_stop(self) -> str | None:
        if os.path.exists(os.path.join(self.folder, "stop")):
            return "stopped"
        if now() >= self.deadline:
            return "timed_out"
        return "fenced" if self.overdue() >= 0 else None

    def overdue(self) -> float:
        limit = self.order["fence_seconds"]
        return float("-inf") if limit is None else overdue(self.folder, limit, self.born)

    def grace_of(self, cause: str) -> float:
        """None for a fence that is long overdue (the host slept, or somebody stopped us): by now
        the job may run elsewhere."""
        if cause != "fenced":
            return self.order["grace_seconds"]
        return FENCE_GRACE_SECONDS - self.overdue()

    def stop(self, grace_seconds: float) -> None:
        """SIGTERM to the whole group; whoever is still there after the grace, SIGKILL.

        A long grace ends with the fence's: by then the job may run elsewhere.
        """
        if grace_seconds > 0:
            self.signal_group(signal.SIGTERM)
            self.signal_group(signal.SIGCONT)  # one that was stopped could not act on it
        end = now() + grace_seconds
        while self.status is None and now() < end and self.overdue() < FENCE_GRACE_SECONDS:
            self.wait(max(0.0, min(self.look_seconds, end - now())))
        self.signal_group(signal.SIGKILL)
        while self.status is None:
            self.wait(1.0)

    def sweep(self) -> list[int]:
        """End what the command left behind. Return the pids that cannot be killed.

        As a subreaper we inherit each orphan below us, also one that made a session of its own.
        """
        began, told = now(), set[int]()
        while left := self.left():
            spent = now() - began
            if spent > UNKILLABLE_SECONDS:
                return left
            if spent > LEFTOVER_GRACE_SECONDS:
                self.cgroup.kill()
            for pid in left:
                with suppress(OSError):
                    if spent > LEFTOVER_GRACE_SECONDS:
                        os.kill(pid, signal.SIGKILL)
                    elif pid not in told:
                        os.kill(pid, signal.SIGTERM)
            told.update(left)
            self.wait(0.05)
        self.cgroup.remove()
        return []

    def left(self) -> list[int]:
        return sorted({*descendants(os.getpid()), *self.cgroup.members()})

    def wait(self, seconds: float) -> None:
        """Wait for a signal, then collect whoever has died."""
        info = signal.sigtimedwait(SIGNALS, seconds)
        if info is not None and info.si_signo == signal.SIGTERM:
            self.terminated = True
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.status = status

    def signal_group(self, signum: int) -> None:
        with suppress(OSError):  # nobody of the group is left, which is what we wanted
            os.killpg(self.pid, signum)


def become_command(order: Order, cgroup: Cgroup, complain: int) -> None:
    """In the child: turn into the command. Never returns.

    Args:
        complain: a pipe that takes the reason when it cannot be; exec() closes it.
    """
    try:
        os.setsid()
        cgroup.enter()
        if order["user"] is not None:
            become_user(*order["user"])
        os.chdir(order["directory"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(open_log(order["log"]), 1)
        os.dup2(1, 2)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python
            signal.signal(ignored, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execve(order["executable"], order["arguments"], order["environment"])  # noqa: S606
    except (OSError, ValueError) as exc:  # the latter: what no process can be given, such as NUL
        why = exc.strerror if isinstance(exc, OSError) else None
        os.write(complain, (why or str(exc)).encode())
    finally:
        os._exit(127)


def open_log(path: str) -> int:
    """
    Raises:
        OSError: what lies there is no file. A FIFO would keep us waiting for its reader.
    """
    mode = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        log = os.open(path, mode | os.O_NONBLOCK, 0o644)
    except OSError as exc:
        raise OSError(exc.errno, f"{path} cannot be written: {exc.strerror}") from None
    if not os.path.isfile(path):
        raise OSError(0, f"{path} is no file: remove it")
    os.set_blocking(log, True)
    return log


def become_user(name: str, uid: int, gid: int) -> None:
    """For good, before anything of the job's is opened: a link may lie where its log is to be."""
    os.initgroups(name, gid)
    os.setgid(gid)
    os.setuid(uid)
    os.umask(0o027)


def overdue(folder: str, limit_seconds: float, born_seconds: float = float("inf")) -> float:
    """Seconds since the lease of the attempt in `folder` ran out; negative: it holds.

    Args:
        limit_seconds: how long it holds after an answered poll, whose time stands in `fence`.
        born_seconds: CLOCK_BOOTTIME of the supervisor's birth, which counts until then.
    """
    renewed = born_seconds
    with suppress(OSError, ValueError), open(os.path.join(folder, "fence")) as file:
        renewed = float(file.read())
    return now() - renewed - limit_seconds


def claim(folder: str, who: dict[str, object]) -> bool:
    """Write once who is the attempt's only supervisor. False: there is one, or there was."""
    mine = os.path.join(folder, f"shim.{os.getpid()}")
    with open(mine, "w") as file:
        json.dump(who, file)
    try:
        os.link(mine, os.path.join(folder, "shim.json"))
    except FileExistsError:
        return False
    finally:
        os.unlink(mine)
    return True


def identity(pid: int) -> dict[str, object]:
    process = stat(pid)
    ticks = process[2] if process else None
    return {"pid": pid, "start_ticks": ticks, "boot_id": boot_id()}


def say(word: str) -> None:
    """Tell the agent that waits at the other end of stdout; it may be gone."""
    with suppress(OSError):
        os.write(1, word.encode() + b"\n")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def conclude(folder: str, end: dict[str, object]) -> None:
    """Write exit.json, however long the disk is full."""
    while True:
        try:
            write(folder, "exit.json", {**end, "ended_at": wall_clock()})
        except OSError as exc:
            sys.stderr.write(f"exit.json cannot be written: {exc}\n")
            time.sleep(RETRY_SECONDS)
        else:
            return


def main() -> int:
    order: Order = json.load(sys.stdin)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    supervisor = Supervisor(order)
    who = {**identity(os.getpid()), "cgroup": supervisor.cgroup.path}
    if not claim(supervisor.folder, who):
        return CLAIMED
    if cause := supervisor.reason_to_stop():  # before it came to be
        conclude(supervisor.folder, {"pid": None, "exit_code": None, "cause": cause})
        say("ended")
        return 0
    try:
        supervisor.start()
    except OSError as exc:
        conclude(supervisor.folder, {"pid": None, "exit_code": None, "error": exc.strerror})
        say("ended")
        return 0
    say("started")
    cause = supervisor.supervise()
    leftovers = supervisor.sweep()
    end = {
        "pid": supervisor.pid,
        "started_at": supervisor.started_at,
        "exit_code": os.waitstatus_to_exitcode(supervisor.status or 0),
        "cause": cause,
        "terminated": supervisor.terminated,
        "leftovers": leftovers,
    }
    conclude(supervisor.folder, end)
    return 0


if __name__ == "__main__":
    sys.exit(main())
