"""The agent's threads, and the order of their end."""

import logging
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

from agent.backoff import Backoff

logger = logging.getLogger(__name__)

JOIN_SECONDS = 2.0  # for all loops together; a held poll may be left where it is
LOOP_ENDED = 0  # no signal has this number


@dataclass(frozen=True)
class Loop:
    name: str
    run: Callable[[threading.Event], None]  # blocks until the event is set
    nudge: Callable[[], None]  # ends its waiting, so that it sees the event


class Daemon:
    """Runs the loops, one thread each, until a signal or until one of them ends.

    Half an agent is worse than none, so the end of any loop is the end of all; but for a disk
    that is full or away, which passes: then the loop begins anew. Threads are daemons: whatever a
    loop is in the middle of, the journal is such that it may be cut off there.
    Jobs are not touched: they belong to their supervisors.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._loops: list[Loop] = []
        # Why it ends, a byte each: a signal's number, or LOOP_ENDED. The interpreter writes a
        # signal's from within the signal handler proper. A handler in Python would run only when
        # the main thread next executes a line: never, if the signal came between its last line
        # and the system call that it then waits in, or was taken by another thread.
        self._why, self._ends = os.pipe()
        os.set_blocking(self._ends, False)
        self.failure: BaseException | None = None

    def add(self, *loops: Loop) -> None:
        self._loops += loops

    def run(self) -> int:
        """Block until the end. Return 0 if asked to stop, 1 if a loop failed."""
        signal.set_wakeup_fd(self._ends, warn_on_full_buffer=False)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, _on_signal)
        threads = [
            threading.Thread(target=self._guard, args=(loop,), name=loop.name, daemon=True)
            for loop in self._loops
        ]
        for thread in threads:
            thread.start()
        why = os.read(self._why, 1)[0]
        if why != LOOP_ENDED:
            logger.info("%s: stopping; jobs here go on", signal.Signals(why).name)
        self._stop.set()
        for loop in self._loops:
            loop.nudge()
        for thread in threads:
            thread.join(JOIN_SECONDS / len(threads))
        return 1 if self.failure else 0

    def _guard(self, loop: Loop) -> None:
        try:
            self._run(loop)
        except BaseException as exc:
            logger.exception("the loop %s failed", loop.name)
            self.failure = exc
        finally:
            self._end()

    def _end(self) -> None:
        with suppress(BlockingIOError):  # full: so many reasons are enough
            os.write(self._ends, bytes([LOOP_ENDED]))

    def _run(self, loop: Loop) -> None:
        backoff = Backoff()
        while True:
            try:
                return loop.run(self._stop)
            except (OSError, sqlite3.OperationalError):
                logger.exception("the loop %s failed, and begins anew", loop.name)
            self._stop.wait(backoff.next_seconds())


def _on_signal(signum: int, frame: FrameType | None) -> None:
    """Nothing: its number in the pipe is all. But without a handler it would end the process."""
