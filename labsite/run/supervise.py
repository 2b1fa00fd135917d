"""Keeps a few programs running: starts them, starts them again, stops them in order.

One process with one thread and no database: it forks, so whatever it had open its children
would have too. Each program gets a session of its own, and its end is the end of all that is
left in that session.
"""

import gc
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from labsite.run import lifeline

#: All are down after so long, held requests included; what is not gets SIGKILL.
STOP_SECONDS = 4.5
#: A program that has run for so long starts again at once, and its back-off is forgotten.
STEADY_SECONDS = 30.0
FIRST_DELAY_SECONDS = 0.25
LONGEST_DELAY_SECONDS = 30.0

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


@dataclass(frozen=True)
class Cause:
    """Why a program ended: in words for the log, by a code for pages in any language."""

    code: str  # "signal" and "status" with the exit status; else a program's own
    words: str


@dataclass(frozen=True)
class Verdict:
    """What the end of a program says about another one; `kills` None: about all of them."""

    kills: str | None
    cause: Cause


@dataclass(frozen=True)
class Program:
    """One thing to keep running.

    `run` is called in a new process, in a session of its own, with nothing open but the
    standard streams and `descriptors`. `stop_stage`: lower ones are stopped first, and the
    next stage begins when they are gone or after `stop_seconds`.
    """

    name: str
    run: Callable[[], None]
    stop_stage: int = 1
    stop_seconds: float = STOP_SECONDS
    #: What it gets when the supervisor was killed.
    orphan_signal: signal.Signals = signal.SIGKILL
    descriptors: frozenset[int] = frozenset()
    #: Exit status → what that says. Such an end is no fault of the program's own.
    verdicts: Mapping[int, Verdict] = field(default_factory=dict)
    #: Exit status → why it ended, where there is more to say than the number.
    causes: Mapping[int, Cause] = field(default_factory=dict)


class Journal(Protocol):
    """Where the supervisor and its programs say things."""

    def line(self, name: str, text: str) -> None: ...

    def status(self, programs: dict[str, dict[str, object]]) -> None: ...


class _Child:
    """A program with its process, if it has one now."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.pid: int | None = None
        self.starts = 0
        self.start_at = 0.0  # due when this is past and there is no process
        self.ended_by: Cause | None = None
        self.ended_status: int | None = None
        self.ended_at: float | None = None  # wall clock, for people
        self.started_at: float | None = None  # the same
        self._since = 0.0
        self._delay = FIRST_DELAY_SECONDS
        self._output = -1
        self._unfinished = b""

    # --- starting -------------------------------------------------------------------------

    def start(self) -> None:
        reader, writer = os.pipe()
        sys.stdout.flush()
        gc.collect()
        gc.freeze()  # else the children's collectors would write to the pages that all share
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(self.program, writer, supervisor)
        os.close(writer)
        os.set_blocking(reader, False)
        self.pid, self._output = pid, reader
        self._since, self.started_at = time.monotonic(), time.time()
        self.starts += 1

    # --- its output -----------------------------------------------------------------------

    def fileno(self) -> int:
        return self._output

    def read(self) -> list[str]:
        """The lines it has written since, without waiting."""
        lines: list[bytes] = []
        with suppress(BlockingIOError):
            while self._output >= 0:
                data = os.read(self._output, 65536)
                *whole, self._unfinished = (self._unfinished + data).split(b"\n")
                lines += whole
                if not data:  # it has closed its output; select() would never rest again
                    self._close()
        return [line.decode(errors="replace") for line in lines]

    # --- ending ---------------------------------------------------------------------------

    def ended(self) -> int | None:
        """Its exit status if it has just ended (negative: killed by that signal)."""
        if self.pid is None:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def clear(self, cause: Cause, status: int, *, at_once: bool) -> None:
        """Kill what is left of its session, and set when it is to start again."""
        assert self.pid is not None
        signal_group(self.pid, signal.SIGKILL)
        self._close()
        self.pid, self._unfinished = None, b""
        self.ended_by, self.ended_status, self.ended_at = cause, status, time.time()
        now = time.monotonic()
        if at_once or now - self._since >= STEADY_SECONDS:
            self._delay, self.start_at = FIRST_DELAY_SECONDS, now
        else:
            self.start_at = now + self._delay
            self._delay = min(2 * self._delay, LONGEST_DELAY_SECONDS)

    def _close(self) -> None:
        if self._output >= 0:
            os.close(self._output)
        self._output = -1

    def facts(self) -> dict[str, object]:
        return {
            "pid": self.pid,
            "started_at": self.started_at,
            "restarts": max(0, self.starts - 1),
            "last_end": self.ended_by and self.ended_by.words,
            "last_end_at": self.ended_at,
            "last_cause": self.ended_by and self.ended_by.code,
            "last_status": self.ended_status,
        }


class Supervisor:
    """Runs `programs` until it is told to stop by SIGINT, SIGTERM or SIGHUP."""

    def __init__(self, programs: Sequence[Program], journal: Journal) -> None:
        self._children = {program.name: _Child(program) for program in programs}
        self._journal = journal
        #: The exit status that brought all down, if one did; None: somebody asked.
        self.verdict: int | None = None
        self._stopping = False
        self._sentenced: dict[str, Cause] = {}
        self._wakeup_reader, self._wakeup_writer = os.pipe()
        os.set_blocking(self._wakeup_reader, False)
        os.set_blocking(self._wakeup_writer, False)

    def run(self) -> None:
        """Return when every program has been stopped."""
        signal.set_wakeup_fd(self._wakeup_writer, warn_on_full_buffer=False)
        for signum in _SIGNALS:
            signal.signal(signum, self._on_signal)
        while not self._stopping:
            self._start_due()
            self._step(self._seconds_to_next_start())
        self._stop()

    def _on_signal(self, signum: int, frame: object) -> None:
        if signum == signal.SIGCHLD:
            return  # the wake-up is all
        if self._stopping:  # asked twice: at once
            for child in self._living():
                self._signal(child, signal.SIGKILL)
        self._stopping = True

    # --- one step ---------------------------------------------------------------------------

    def _start_due(self) -> None:
        now = time.monotonic()
        due = [c for c in self._children.values() if c.pid is None and c.start_at <= now]
        for child in due:
            child.start()
        if due:
            self._tell_status()

    def _seconds_to_next_start(self) -> float:
        waiting = [child.start_at for child in self._children.values() if child.pid is None]
        return max(0.0, min(waiting, default=time.monotonic() + 60) - time.monotonic())

    def _step(self, timeout_seconds: float) -> None:
        """Wait for something to happen, pass on what was said, and see who has ended."""
        living = self._living()
        speaking = [child for child in living if child.fileno() >= 0]
        select.select([self._wakeup_reader, *speaking], [], [], timeout_seconds)
        with suppress(BlockingIOError):
            os.read(self._wakeup_reader, 4096)
        for child in living:
            status = child.ended()  # before reading, so that its last words are all there
            for line in child.read():
                self._journal.line(child.program.name, line)
            if status is not None:
                self._bury(child, status)

    def _bury(self, child: _Child, status: int) -> None:
        verdict = child.program.verdicts.get(status)
        sentence = self._sentenced.pop(child.program.name, None)
        cause = sentence or (verdict.cause if verdict else _cause(child.program, status))
        child.clear(cause, status, at_once=sentence is not None or verdict is not None)
        if verdict is not None and verdict.kills is None:
            self.verdict, self._stopping = status, True
        elif verdict is not None:
            self._sentence(verdict.kills, verdict.cause)
        elif not self._stopping:
            delay = max(0.0, child.start_at - time.monotonic())
            again = f"in {delay:.1f} s" if delay else "at once"
            self._say(f"{child.program.name} {cause.words}; it is started again {again}")
        self._tell_status()

    def _sentence(self, name: str, cause: Cause) -> None:
        condemned = self._children[name]
        if condemned.pid is not None:
            self._sentenced[name] = Cause(cause.code, f"was killed, since {cause.words}")
            self._signal(condemned, signal.SIGKILL)

    # --- stopping ---------------------------------------------------------------------------

    def _stop(self) -> None:
        began = time.monotonic()
        self._say("stopping")
        for stage in sorted({c.program.stop_stage for c in self._children.values()}):
            members = [c for c in self._children.values() if c.program.stop_stage == stage]
            patience = max(member.program.stop_seconds for member in members)
            for child in members:
                self._signal(child, signal.SIGTERM)
            self._wait_for(members, min(time.monotonic() + patience, began + STOP_SECONDS))
        self._say(f"stopped in {time.monotonic() - began:.1f} s")

    def _wait_for(self, members: list[_Child], deadline: float) -> None:
        while any(child.pid for child in members) and time.monotonic() < deadline:
            self._step(deadline - time.monotonic())
        for child in members:
            if child.pid is not None:
                self._say(f"{child.program.name} did not stop in time and is killed")
                self._signal(child, signal.SIGKILL)
                _pid, status = os.waitpid(child.pid, 0)
                status = os.waitstatus_to_exitcode(status)
                child.clear(_cause(child.program, status), status, at_once=True)

    # --- small things -----------------------------------------------------------------------

    def _living(self) -> list[_Child]:
        return [child for child in self._children.values() if child.pid is not None]

    @staticmethod
    def _signal(child: _Child, signum: signal.Signals) -> None:
        """SIGTERM is for the program, which knows its own; SIGKILL is for all its session."""
        if child.pid is not None and signum == signal.SIGKILL:
            signal_group(child.pid, signum)
        elif child.pid is not None:
            os.kill(child.pid, signum)

    def _say(self, text: str) -> None:
        self._journal.line("runlab", text)

    def _tell_status(self) -> None:
        self._journal.status({name: child.facts() for name, child in self._children.items()})


def signal_group(pid: int, signum: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # gone; or macOS: only zombies are left
        os.killpg(pid, signum)


def _cause(program: Program, status: int) -> Cause:
    if status < 0:
        return Cause("signal", f"was killed by {signal.Signals(-status).name}")
    return program.causes.get(status) or Cause("status", f"ended with status {status}")


def _become(program: Program, output: int, supervisor: int) -> None:
    """In the new process: be the program, and nothing else of the supervisor."""
    status = 1
    try:
        os.setsid()
        lifeline.end_with(supervisor, program.orphan_signal)
        signal.set_wakeup_fd(-1)
        for signum in _SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
        _streams(output)
        _empty_all_but(program.descriptors)
        program.run()
        status = 0
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else 1
        if isinstance(exc.code, str):
            sys.stderr.write(f"{exc.code}\n")
    except BaseException:  # the one guard around a program
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _streams(output: int) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)


def _empty_all_but(kept: frozenset[int]) -> None:
    """Let go of what the supervisor had open, but keep the numbers taken.

    The supervisor's file objects live on in this process. One of them that is collected later
    closes its number, whatever that is by then: once it was that of SQLite's database, and with
    it went all locks on it. So each number stands for /dev/null until its object lets it go.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in map(int, os.listdir("/dev/fd")):
        if descriptor > 2 and descriptor != nothing and descriptor not in kept:
            with suppress(OSError):
                os.fstat(descriptor)  # not the one that listed the folder, which is closed
                os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)
