"""The lane's one thread that speaks to the database: what waits together is written together.

A commit costs its fsync whether it holds one heartbeat or three hundred. So while one batch is
being committed the next one gathers, and nobody is answered before the commit that holds what
they said. Under load the batches grow, and the database does not notice.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import InterfaceError, OperationalError, close_old_connections, connection
from rest_framework.exceptions import AuthenticationFailed

from agent import wire
from devices.auth import REJECTED, TOKEN_SECONDS, resolve
from devices.heartbeat import Beat, record
from experiments.leases import Call, answer, poll, stamp
from labsite.api import refusal_of
from labsite.errors import Busy
from labsite.precedence import at_work

logger = logging.getLogger(__name__)

STAMP_SECONDS = 1.0
MAX_BATCH = 512
#: A batch begins no sooner than this after the one before. Who comes alone does not wait; a
#: crowd comes in fewer and larger batches, whose cost is mostly that of being a batch.
PACE_SECONDS = 0.01
#: Requests that may wait for a commit. Beyond it the database does not keep up.
MAX_WAITING = 10_000


@dataclass(eq=False)
class Asked:
    """One request: whose token it bears, what it says, and where its answer is awaited.

    `said` may be an exception: a request that is to be refused, but whose sender is to be made
    out first, since to a stranger the answer is another one.
    """

    token_sha256: str
    said: Any
    answered: asyncio.Future[Any]
    device_id: int = 0


@dataclass(eq=False)
class Look:
    """Held polls to be answered anew, all in one go. Reads only."""

    calls: Sequence[Call]
    answered: asyncio.Future[Any]


@dataclass(eq=False)
class _Tokens:
    """Which device a token belongs to, as of at most TOKEN_SECONDS ago."""

    known: dict[str, tuple[int, float]] = field(default_factory=dict)

    def make_out(self, asked: Sequence[Asked]) -> list[Exception | None]:
        """Find the device of each; the refusal of those that are not to be written."""
        now = time.monotonic()
        self.known = {token: who for token, who in self.known.items() if who[1] > now}
        unknown = {one.token_sha256 for one in asked} - self.known.keys()
        if unknown:
            until = now + TOKEN_SECONDS
            self.known |= {token: (pk, until) for token, pk in resolve(unknown).items()}
        return [self._refusal(one) for one in asked]

    def _refusal(self, one: Asked) -> Exception | None:
        one.device_id, _ = self.known.get(one.token_sha256, (0, 0.0))
        if not one.device_id:
            return AuthenticationFailed(REJECTED)
        return one.said if isinstance(one.said, Exception) else None


class Writer:
    """The thread. start() and ask() are the event loop's; all else runs in the thread."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Asked | Look | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._tokens = _Tokens()
        self._stamped_at = 0.0
        self._began_at = 0.0
        self._stopping = threading.Event()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="lab-lane", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end the thread."""
        self._stopping.set()
        self._waiting.put(None)
        if self._thread:
            self._thread.join()

    async def ask(self, token_sha256: str, said: Any) -> tuple[int, Any]:
        """Write `said` and return its device's id and the reply, once it is committed.

        Raises:
            AuthenticationFailed: no device has this token.
            Refused: what the domain says, or Busy.
        """
        if self._waiting.qsize() >= MAX_WAITING:
            raise Busy("The server is busy; try again in a moment.")
        asked = Asked(token_sha256, said, asyncio.get_running_loop().create_future())
        self._waiting.put(asked)
        reply = await asked.answered
        if isinstance(reply, Exception):
            raise reply
        return asked.device_id, reply

    async def look(self, calls: Sequence[Call]) -> list[Any]:
        """What the answers to `calls` would be now; an exception in the place of one is how
        that one failed."""
        look = Look(calls, asyncio.get_running_loop().create_future())
        self._waiting.put(look)
        replies = await look.answered
        return [replies] * len(calls) if isinstance(replies, Exception) else replies

    # --- in the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        going_on = True
        while going_on:
            batch = self._gather()
            going_on = None not in batch
            waiting = [one for one in batch if one is not None]
            try:
                with at_work():
                    self._work(waiting)
            except Exception as exc:  # whatever it is, the thread goes on: there is no other
                logger.exception("the lane's writer failed")
                deliver([(one.answered, exc) for one in waiting])
        connection.close()

    def _work(self, waiting: list[Asked | Look]) -> None:
        self._stamp_when_due()
        self._write([one for one in waiting if isinstance(one, Asked)])
        for one in waiting:
            if isinstance(one, Look):
                deliver([(one.answered, _each(answer, one.calls))])

    def _gather(self) -> list[Asked | Look | None]:
        """All that waits, or nothing when it is time for the stamp."""
        batch = []
        wait_seconds = max(0.0, self._stamped_at + STAMP_SECONDS - time.monotonic())
        try:
            batch.append(self._waiting.get(timeout=wait_seconds))
            self._stopping.wait(self._began_at + PACE_SECONDS - time.monotonic())
            while len(batch) < MAX_BATCH:
                batch.append(self._waiting.get_nowait())
        except queue.Empty:
            pass
        self._began_at = time.monotonic()
        return batch

    def _stamp_when_due(self) -> None:
        if time.monotonic() < self._stamped_at + STAMP_SECONDS:
            return
        self._stamped_at = time.monotonic()
        close_old_connections()  # and the next use of one checks that it still works
        _each(lambda stamps: [stamp() for _ in stamps], [None])

    def _write(self, asked: list[Asked]) -> None:
        """One transaction for heartbeats, one for polls; each answered once it is committed."""
        refusals = _each(self._tokens.make_out, asked)
        known: dict[type, list[Asked]] = defaultdict(list)
        refused = []
        for one, refusal in zip(asked, refusals, strict=True):
            if refusal is None:
                known[type(one.said)].append(one)
            else:
                refused.append((one.answered, refusal))
        deliver(refused)
        for message, some in known.items():
            wrap, write = WRITES[message]
            replies = _each(write, [wrap(one.device_id, one.said) for one in some])
            deliver([(one.answered, it) for one, it in zip(some, replies, strict=True)])


#: Type of a message -> what the domain calls it, with its device; and how it takes a batch in.
WRITES: dict[type, tuple[Callable[[int, Any], Any], Callable[[Sequence[Any]], list[Any]]]] = {
    wire.Heartbeat: (Beat, record),
    wire.Poll: (Call, poll),
}


def _each(call: Callable[[Sequence[Any]], list[Any]], items: Sequence[Any]) -> list[Any]:
    """`call(items)`, or an exception in the place of each item that it fails for.

    An item that fails takes no other with it: each is then tried alone. A lost connection is
    opened anew and all is said again, which changes nothing if it had been committed.
    """
    try:
        return _connected(call, items)
    except (OperationalError, InterfaceError) as exc:
        logger.warning("database: %s", exc)
        return [exc] * len(items)
    except Exception as exc:
        if len(items) == 1:
            if refusal_of(exc) is None:
                logger.exception("a request failed in the lane")
            return [exc]
    return [result for item in items for result in _each(call, [item])]


def _connected(call: Callable[[Sequence[Any]], list[Any]], items: Sequence[Any]) -> list[Any]:
    try:
        return call(items)
    except (OperationalError, InterfaceError):
        lost = not connection.is_usable()
        connection.close()
        if not lost:
            raise
        return call(items)


def deliver(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    """Hand the answers to the loop that awaits them, all at once."""
    if not answers:
        return
    loop = answers[0][0].get_loop()
    try:
        loop.call_soon_threadsafe(_set_results, answers)
    except RuntimeError:
        logger.debug("%s answers came after the loop had ended", len(answers))


def _set_results(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in answers:
        if not future.done():  # its client may be gone
            future.set_result(result)
