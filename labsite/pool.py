"""Django's WSGI handler in a few persistent threads, as an ASGI application.

Under plain ASGI each request of a synchronous Django gets a thread and a database connection
of its own, and persistent connections leak; an event loop of its own it does not need. Here
the loop does what may take long without computing: it reads bodies (limited, spooled, never
cut short) and sends answers, files among them. A thread is held only while a view runs, so
slow clients on either side hold none. Threads keep their database connections.
"""

import asyncio
import logging
import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any

from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.http.response import HttpResponseBase

from labsite.answer import Answer, encoded, failure, refusal, refuse_unread, send_answer
from labsite.body import Disconnected, Receive, Scope, Send, length_of, pieces
from labsite.environ import ARRIVED, environ_of
from labsite.errors import Busy, Refused
from labsite.precedence import give_way
from labsite.spool import MEMORY_BYTES, Spool, disk, temporary_file
from labsite.stackroom import with_room
from sync import room

logger = logging.getLogger(__name__)

#: Requests that may wait for a thread; at 4 threads and 5 ms each that is a bit over a second.
MAX_WAITING = 1000
#: What an open page asks for by itself, to be fresh: one at a time, however many look. Else fifty
#: viewers of a large lab hold every thread, and the interpreter that heartbeats need too.
PARTS_AT_ONCE = 1
_ASKED_BY_ITSELF = b"x-part"


class Pool:
    """The ASGI application. One for each process."""

    def __init__(self, threads: int | None = None, handler: Any = None) -> None:
        self._handler = handler or WSGIHandler()
        self._count = threads or settings.LAB_POOL_THREADS
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="lab-web")
        self._waiting = 0
        self._parts = asyncio.Semaphore(PARTS_AT_ONCE)

    def close(self) -> None:
        """End the threads and their database connections, after what they do. Blocks."""
        together = threading.Barrier(self._count)  # or one thread would close for two
        for _ in range(self._count):
            self._threads.submit(_close_connections, together)
        self._threads.shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ARRIVED] = time.monotonic()
        try:
            spool, length = await self._spooled(scope, receive)
        except Disconnected:
            return
        except Refused as refused:
            await refuse_unread(refused, receive, send)
            return
        try:
            async with self._turn_of(scope):
                answer = await self._in_thread(scope, spool, length)
        except Refused as refused:
            answer = refusal(refused)
        await send_answer(answer, scope["method"], receive, send)

    def _turn_of(self, scope: Scope) -> AbstractAsyncContextManager[Any]:
        return self._parts if _is_part(scope) else nullcontext()

    async def _spooled(self, scope: Scope, receive: Receive) -> tuple[Spool, int]:
        length = length_of(scope["method"], scope["headers"], limit_of(scope["path"]))
        if length > MEMORY_BYTES:  # refused before it is sent, and not when the disk is full
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(disk, room.make_sure_of, length)
        spool = Spool()
        try:
            if length:
                async for piece in pieces(receive, length):
                    await spool.write(piece)
        except BaseException:
            spool.close()
            raise
        return spool, length

    async def _in_thread(self, scope: Scope, spool: Spool, length: int) -> Answer:
        if self._waiting >= MAX_WAITING:
            spool.close()
            raise Busy("The server is busy; try again in a moment.")
        self._waiting += 1
        loop = asyncio.get_running_loop()
        try:
            run = partial(with_room, self._run, scope, spool, length)
            return await loop.run_in_executor(self._threads, run)
        finally:
            self._waiting -= 1

    def _run(self, scope: Scope, spool: Spool, length: int) -> Answer:
        """In a thread: have Django answer. The spool is this thread's from here on."""
        if _is_part(scope):
            give_way()
        try:
            environ = environ_of(scope, spool.reader(), length)
            environ[ARRIVED] = scope[ARRIVED]
            return self._respond(environ)
        except Refused:
            raise
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            return failure()
        finally:
            spool.close()

    def _respond(self, environ: dict[str, Any]) -> Answer:
        head: list[Any] = []
        response = self._handler(environ, lambda *given: head.extend(given))
        try:
            status, headers = head
            answer = Answer(int(status[:3]), encoded(headers))
            _add_body(answer, response)
        finally:
            response.close()  # sends request_finished, in the thread whose connections it is about
        return answer


def _is_part(scope: Scope) -> bool:
    return any(name == _ASKED_BY_ITSELF for name, _value in scope["headers"])


def _close_connections(together: threading.Barrier) -> None:
    together.wait()
    connections.close_all()


def limit_of(path: str) -> int:
    """The most bytes that a body to `path` may have."""
    limits = (limit for prefix, limit in settings.LAB_BODY_LIMITS if path.startswith(prefix))
    return next(limits, 0)  # `OPTIONS *` has a path that begins with nothing


# --- in the thread ------------------------------------------------------------------------------


def _add_body(answer: Answer, response: HttpResponseBase) -> None:
    """Take from `response` what is to be sent, so that it can be closed before it is sent.

    What is made part by part while it is sent (an archive of many gigabytes) a view names by
    `response.parts_to_send`: an iterable that needs neither database nor request.
    """
    if parts := getattr(response, "parts_to_send", None):
        answer.parts = iter(parts)
        return
    if not response.streaming:
        answer.content = response.content
    elif not _add_file(answer, response):
        answer.file = temporary_file()
        for part in response:
            answer.file.write(part)
        answer.length = answer.file.tell()
    _set_length(answer, answer.length if answer.file else len(answer.content))


def _add_file(answer: Answer, response: HttpResponseBase) -> bool:
    """Whether the answer is a file on disk, which the loop can send by itself.

    A view says so by a FileResponse, or by `response.file_to_send = (path or open file,
    offset, length)`, which wins.
    """
    file, answer.offset, length = getattr(response, "file_to_send", (None, 0, None))
    if file is None and (file := getattr(response, "file_to_stream", None)) is None:
        return False
    if isinstance(file, str | os.PathLike):
        answer.file = open(file, "rb")  # noqa: SIM115 - closed by whoever sends it
    elif _is_plain(file):
        if length is None:
            answer.offset = file.tell()
        answer.file = os.fdopen(os.dup(file.fileno()), "rb")
    else:
        return False
    size = os.fstat(answer.file.fileno()).st_size - answer.offset
    answer.length = length if length is not None else int(response.get("Content-Length", size))
    return True


def _is_plain(file: Any) -> bool:
    """Whether it can be read at any offset by its descriptor."""
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (AttributeError, OSError):
        return False


def _set_length(answer: Answer, length: int) -> None:
    known = any(name == b"content-length" for name, _ in answer.headers)
    if not known and answer.status not in (204, 304):
        answer.headers.append((b"content-length", str(length).encode()))
