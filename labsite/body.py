"""Reading a request's body on the event loop: whole, within its limit, and not too slowly.

Shared by both doors, lane and pool. A body is never handed on cut short: a client that goes
away, a length that does not fit and a sender that trickles all end here.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from labsite.errors import BadRequest, Refused, TooLarge

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

#: A body slower than this many bytes a second over a whole window is refused (protocol §7).
SLOW_BYTES_PER_SECOND = 1024
SLOW_WINDOW_SECONDS = 15.0

METHODS_WITH_BODY = ("POST", "PUT", "PATCH")


class LengthRequired(Refused):
    status = 411
    code = "length_required"


class TooSlow(Refused):
    status = 408
    code = "too_slow"
    retryable = True


class Disconnected(Exception):
    """The client went away before its body was complete. There is nobody to answer."""


def length_of(method: str, headers: Headers, limit: int) -> int:
    """How long the body will be, in bytes, before any of it is read.

    Raises:
        LengthRequired: a chunked body, or a method with a body and no Content-Length.
        BadRequest: Content-Length is not a number.
        TooLarge: it is above `limit`.
    """
    given = None
    for name, value in headers:
        if name == b"transfer-encoding":
            raise LengthRequired("Send the body with a Content-Length; chunked is not taken here.")
        if name == b"content-length":
            given = value
    if given is None:
        if method in METHODS_WITH_BODY:
            raise LengthRequired("Send a Content-Length; 0 if there is no body (curl: -d '').")
        return 0
    if not given.isdigit() or len(given) > 19:
        raise BadRequest("Content-Length must be a number of bytes.")
    length = int(given)
    if length > limit:
        raise TooLarge(
            f"The body has {length} bytes; at most {limit} are taken here.", limit=limit
        )
    return length


async def pieces(receive: Receive, length: int) -> AsyncIterator[bytes]:
    """Yield the body piece by piece, `length` bytes in all, then end.

    Raises:
        TooSlow, BadRequest: it comes too slowly, or is not as long as was said.
        Disconnected: the client went away.
    """
    window = _Window()
    got = 0
    more = True
    while more:
        message = await window.next(receive)
        if message["type"] == "http.disconnect":
            raise Disconnected
        piece = message.get("body", b"")
        more = message.get("more_body", False)
        got += len(piece)
        if got > length or (got < length and not more):
            raise BadRequest(f"The body has {got} bytes, and Content-Length says {length}.")
        window.add(len(piece))
        if piece:
            yield piece


async def whole(receive: Receive, length: int) -> bytes:
    """A small body in memory. The same as pieces(), joined."""
    return b"".join([piece async for piece in pieces(receive, length)])


class _Window:
    """The 408 rule: in each window of SLOW_WINDOW_SECONDS enough must come."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._begin()

    def _begin(self) -> None:
        self._ends_at = self._clock() + SLOW_WINDOW_SECONDS
        self._got = 0

    def add(self, count: int) -> None:
        self._got += count
        if self._clock() >= self._ends_at:
            self._judge()

    async def next(self, receive: Receive) -> Message:
        while True:
            try:
                async with asyncio.timeout_at(self._ends_at):
                    return await receive()
            except TimeoutError:
                self._judge()

    def _judge(self) -> None:
        if self._got < SLOW_BYTES_PER_SECOND * SLOW_WINDOW_SECONDS:
            raise TooSlow(
                f"The body comes slower than {SLOW_BYTES_PER_SECOND} bytes a second.",
                retry_after_seconds=1,
            ) from None
        self._begin()
