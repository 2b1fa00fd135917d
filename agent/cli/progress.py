"""How far a transfer is, for whoever watches; nothing where nobody does.

with progress.bytes("Sending code", total) as advance:
    advance(len(block))
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Where transfers report to."""

    def bytes(
        self, label: str, total: int | None
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Within the block, what is called with each number of bytes that went.

        `total` is None where nobody knows it. A transfer that goes on where another stopped calls
        with what is there already.
        """
        ...


class Silent:
    """For programs, pipes and --json."""

    @contextmanager
    def bytes(self, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        yield lambda count: None
