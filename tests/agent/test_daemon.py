"""How the agent ends: by a signal, whenever it comes, or with the first loop that fails."""

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.daemon import Daemon, Loop

ROOT = Path(__file__).parents[2]

#: Stops a daemon by a signal at the n-th line that its main thread executes, for each n there is:
#: among them all at which it holds a lock. A handler that waits for one of those never returns.
AT_EACH_LINE = """
import os, signal, sys, threading
from agent.daemon import Daemon, Loop

def stopped_at(n):
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    stop = threading.Event()
    daemon = Daemon(stop)
    daemon.add(Loop("waits", lambda stop: stop.wait(), lambda: None))
    lines = 0

    def trace(frame, what, argument):
        nonlocal lines
        if what == "line" and callable(signal.getsignal(signal.SIGINT)):
            lines += 1
            if lines == n:
                signal.raise_signal(signal.SIGTERM)
        return trace

    over = threading.Event()

    def late():
        while not over.wait(0.05):  # the first may come before anybody listens
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=late).start()
    sys.settrace(trace)
    code = daemon.run()
    sys.settrace(None)
    over.set()
    assert code == 0
    return lines >= n

n = 1
while stopped_at(n):
    n += 1
print(n)
"""

#: Stops a daemon by a signal that another thread takes, so that nothing interrupts the main one:
#: as it is for one that comes in the moment before the main thread begins to wait.
TAKEN_BY_A_THREAD = """
import os, signal, threading, time
from agent.daemon import Daemon, Loop

def takes(stop):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    time.sleep(0.3)  # by now the main thread waits
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    stop.wait()

daemon = Daemon(threading.Event())
daemon.add(Loop("takes", takes, lambda: None))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
raise SystemExit(daemon.run())
"""


def test_a_signal_that_does_not_interrupt_the_main_thread_stops_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TAKEN_BY_A_THREAD],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=10,
    )

    assert done.returncode == 0, done.stderr


def test_a_signal_stops_it_at_whatever_line_it_comes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_EACH_LINE],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20  # it did go through run()


def test_the_end_of_one_loop_is_the_end_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    stop = threading.Event()
    daemon = Daemon(stop)
    seen = []

    def fails(event: threading.Event) -> None:
        raise RuntimeError("broken")

    def waits(event: threading.Event) -> None:
        event.wait()
        seen.append("stopped")

    daemon.add(Loop("waits", waits, lambda: None), Loop("fails", fails, lambda: None))

    assert daemon.run() == 1
    assert seen == ["stopped"]


def test_a_full_disk_ends_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    daemon = Daemon(threading.Event())
    troubles = [OSError(28, "No space left on device"), sqlite3.OperationalError("disk is full")]

    def writes(stop: threading.Event) -> None:
        if troubles:
            raise troubles.pop()

    daemon.add(Loop("writes", writes, lambda: None))

    assert daemon.run() == 0
    assert troubles == []
