"""Room for deep calls: the frames of a thread lie in one piece of memory.

CPython keeps the frames of Python functions in pieces of 16 kB, asks the system for the next one
where a call does not fit any more, and gives it back as soon as that call returns. Templates
within templates are some hundred frames deep; whatever loop happens to run at the edge of a piece
then pays two system calls and two page faults for each call that it makes: measured, a fifth of
the time of the list of 40 GPU servers.

A frame that is said to need more than half of a large piece gets the large piece, and all calls
beneath it lie in what is left of that one. What is not touched of it costs no memory.
"""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

#: Of eight bytes each: a piece of 1 MiB, of which 488 kB are left for what is called.
SLOTS = 66_000


def with_room(call: Callable[..., T], *given: Any) -> T:
    """`call(*given)`."""
    return call(*given)


with_room.__code__ = with_room.__code__.replace(co_stacksize=SLOTS)
