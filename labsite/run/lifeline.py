"""Processes that do not outlive the one that started them, however it ends.

A supervisor that is killed with -9 can tell nobody. On Linux the kernel tells its children
(PR_SET_PDEATHSIG); elsewhere each child looks once a second whether it still has its parent.
"""

import ctypes
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 1.0

# Loaded here and not after the fork: a fresh child should do as little as possible.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def end_with(parent_pid: int, signum: signal.Signals = signal.SIGKILL) -> None:
    """Send `signum` to this process when its parent, `parent_pid`, has ended.

    Holds across exec. The parent must have one thread only: Linux looks at the thread that
    forked. Call it right after the fork.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent_pid, signum), daemon=True).start()
    if os.getppid() != parent_pid:  # it ended before we could say so
        os.kill(os.getpid(), signum)


def pass_on() -> None:
    """Let every process that this one forks from now on end with the one that forked it."""
    parents = {"pid": 0}

    def before() -> None:
        parents["pid"] = os.getpid()

    os.register_at_fork(before=before, after_in_child=lambda: end_with(parents["pid"]))


def _watch(parent_pid: int, signum: signal.Signals) -> None:
    pause = threading.Event()
    while os.getppid() == parent_pid:
        pause.wait(_LOOK_SECONDS)
    os.kill(os.getpid(), signum)
