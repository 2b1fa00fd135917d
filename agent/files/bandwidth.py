"""How much of the line the files may take (`--max-upload`): one rate for all that are sent."""

import threading
from collections.abc import Iterator
from typing import Protocol

from agent import shim

YIELD_SECONDS = 0.01  # for a file that lets curves and logs go first


class Sized(Protocol):
    """A body of blocks, of which it is known how many bytes they are."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes]: ...


class Bandwidth:
    """Shared by all workers. What is sent is paid for afterwards, so that none ever waits for more
    than one block; while one of the first waits, none of the others goes on."""

    def __init__(self, bytes_per_second: float) -> None:
        self._seconds_per_byte = 1 / bytes_per_second
        self._free_at = shim.now()
        self._first_waiting = 0
        self._turn = threading.Condition()

    def take(self, length: int, *, first: bool) -> None:
        """Block until so many bytes may be sent."""
        with self._turn:
            self._first_waiting += first
            while (wait := self._wait_seconds(first)) > 0:
                self._turn.wait(wait)
            self._first_waiting -= first
            self._free_at = max(self._free_at, shim.now()) + length * self._seconds_per_byte

    def _wait_seconds(self, first: bool) -> float:
        until_free = self._free_at - shim.now()
        if not first and self._first_waiting:
            return max(until_free, YIELD_SECONDS)
        return until_free


class Paced:
    """A request's body that leaves no faster than it may."""

    def __init__(self, body: Sized, bandwidth: Bandwidth, *, first: bool) -> None:
        self._body = body
        self._bandwidth = bandwidth
        self._first = first

    def __len__(self) -> int:
        return len(self._body)

    def __iter__(self) -> Iterator[bytes]:
        for block in self._body:
            self._bandwidth.take(len(block), first=self._first)
            yield block
