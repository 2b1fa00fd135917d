"""The door for what grows: small deltas, hundreds a second.

    head → body → one thread: sync.steady.go_on(all that waits) → answer, or the pool

A delta that goes on where its file ends is answered here, after the one commit that it shares
with what waited beside it. All others go on to the pool as if they had come to it: what is not
plain is done, and what is wrong is refused, by the DRF view alone.
"""

import asyncio
import json
import logging
import queue
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from django.db import connection
from django.utils.datastructures import CaseInsensitiveMapping

from devices.auth import token_of
from devices.models import digest
from labsite.answer import json_answer, refuse_unread, send_answer
from labsite.body import Disconnected, Headers, Message, Receive, Scope, Send, length_of, whole
from labsite.errors import Refused
from labsite.pool import Pool
from labsite.writer import deliver
from sync.intake import Taken
from sync.steady import Asked, go_on

logger = logging.getLogger(__name__)

#: A larger one takes so long by itself that nobody should wait for it.
MAX_BYTES = 64 * 1024
#: Each holds a lock and a file open; beyond it the next batch begins.
MAX_BATCH = 48
#: That sync their files side by side.
THREADS = 8
#: Requests that may wait for a batch. Beyond it the pool has its own word.
MAX_WAITING = 1000

_PATH = re.compile(r"/api/sync/delta/(?P<uid>[-a-zA-Z0-9_]+)/(?P<name>.+)")
_RAW = "application/octet-stream"


@dataclass(eq=False)
class _Waiting:
    asked: Asked
    answered: asyncio.Future[Taken | None]


class Deltas:
    """The ASGI application. One for each process; call start() on its loop first."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._disk = ThreadPoolExecutor(THREADS, thread_name_prefix="lab-delta")
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="lab-deltas", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the threads, after what waits there. Blocks."""
        self._waiting.put(None)
        if self._thread:
            self._thread.join()
        self._disk.shutdown()

    @staticmethod
    def is_for(scope: Scope) -> bool:
        if scope["method"] != "POST" or not _PATH.fullmatch(scope["path"]):
            return False
        return _is_plain(_named(scope["headers"]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await whole(receive, length_of("POST", scope["headers"], MAX_BYTES))
        except Disconnected:
            return
        except Refused as refused:
            await refuse_unread(refused, receive, send)
            return
        taken = await self._taken(asked_of(scope, body))
        if taken is None:
            await self._pool(scope, _Again(body, receive), send)
            return
        await send_answer(json_answer(content_of(taken)), "POST", receive, send)

    async def _taken(self, asked: Asked) -> Taken | None:
        if self._waiting.qsize() >= MAX_WAITING:
            return None
        waiting = _Waiting(asked, asyncio.get_running_loop().create_future())
        self._waiting.put(waiting)
        return await waiting.answered

    # --- in the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        going_on = True
        while going_on:
            batch = self._gather()
            going_on = None not in batch
            some = [one for one in batch if one is not None]
            taken = self._done([one.asked for one in some])
            deliver([(one.answered, it) for one, it in zip(some, taken, strict=True)])
        connection.close()

    def _gather(self) -> list[_Waiting | None]:
        batch = [self._waiting.get()]
        try:
            while len(batch) < MAX_BATCH:
                batch.append(self._waiting.get_nowait())
        except queue.Empty:
            pass
        return batch

    def _done(self, asked: Sequence[Asked]) -> list[Taken | None]:
        try:
            return go_on(asked, self._disk.map)
        except Exception as exc:  # whatever it is, the pool's door finds out for each by itself
            logger.warning("%d deltas go on one by one: %s", len(asked), exc, exc_info=True)
            connection.close()  # it may be what failed
            return [None] * len(asked)


class _Again:
    """A body that was read, to be read once more; then whatever else the client does."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _named(headers: Headers) -> dict[str, str]:
    """By their names; of one that was sent twice nothing is believed here."""
    named: dict[str, str] = {}
    for raw_name, value in headers:
        name = raw_name.decode("latin-1")
        named[name] = "" if name in named else value.decode("latin-1")
    return named


def _is_plain(headers: Mapping[str, str]) -> bool:
    """As far as the head tells."""
    length = headers.get("content-length", "")
    is_number = length.isascii() and length.isdigit() and len(length) < 8
    is_small = is_number and 0 < int(length) <= MAX_BYTES
    says_where = "x-sync-offset" in headers and "x-file-sha256" not in headers
    return is_small and says_where and headers.get("content-type") == _RAW


def asked_of(scope: Scope, body: bytes) -> Asked:
    """What a request asks for that is_for() this door."""
    headers = _named(scope["headers"])
    token = token_of(headers.get("authorization", "")) or ""
    uid, name = _PATH.fullmatch(scope["path"]).groups()
    return Asked(digest(token), uid, name, CaseInsensitiveMapping(headers), body)


def content_of(taken: Taken) -> bytes:
    return json.dumps({"success": True, "data": taken.facts}).encode()
