"""How many requests one token may have under way: one agent gone wild, or a token in a loop of
curl, holds neither all threads nor all memory of the server.

An agent needs a connection for each of its few workers of files, and, counted apart, a held poll
and a heartbeat; what is beyond the bound is told 429 before its body is read, and agents ask again
a little later.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from devices.auth import token_of
from devices.models import digest
from labsite.body import Headers
from labsite.errors import Refused

MOST = 32
RETRY_SECONDS = 1


class TooManyAtOnce(Refused):
    status = 429
    code = "too_many_at_once"
    retryable = True


class Turns:
    """Of one process, on its event loop. A request without a device's token is not counted."""

    def __init__(self) -> None:
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def of(self, headers: Headers) -> Iterator[None]:
        """
        Raises:
            TooManyAtOnce: MOST requests with this token are under way.
        """
        token = _token(headers)
        if token is None:
            yield
            return
        key = digest(token)  # a token is kept nowhere, not even here
        if self._under_way[key] >= MOST:
            raise TooManyAtOnce(
                f"This GPU server has {MOST} requests under way; wait for one of them to end.",
                retry_after_seconds=RETRY_SECONDS,
            )
        self._under_way[key] += 1
        try:
            yield
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]


def _token(headers: Headers) -> str | None:
    for name, value in headers:
        if name == b"authorization":
            return token_of(value.decode("latin-1"))
    return None
