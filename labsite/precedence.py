"""Heartbeats go before pages: what makes a long page lets the lane's writer pass now and then.

Threads share one interpreter, and a thread that reads rows from SQLite asks for it anew at each.
A page that computes for a third of a second beside it holds it up at each of some hundred such
moments; so the page waits while a batch is written, and computes in between.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Longer than most batches; a writer that never rests makes pages slower, and ends none.
LONGEST_SECONDS = 0.01

_at_rest = threading.Event()
_at_rest.set()


@contextmanager
def at_work() -> Iterator[None]:
    """Around a batch, in the writer's thread. There is one writer in a process."""
    _at_rest.clear()
    try:
        yield
    finally:
        _at_rest.set()


def give_way() -> None:
    """To be called every few milliseconds by what computes for long."""
    _at_rest.wait(LONGEST_SECONDS)
