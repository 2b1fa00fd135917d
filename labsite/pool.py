"""Django's WSGI handler in a few persistent threads, as an ASGI application.

Under plain ASGI each request of a synchronous Django gets a thread and a database connection
of its own, and persistent connections leak; an event loop of its own it does not need. Here
the loop does what may take long without computing: it reads bodies (limited, spooled, never
cut short) and sends answers, files among them. A thread is held only while a view runs, so
slow clients on either side hold none. Threads keep their database connections.
"""

import asyncio
import json
import logging
import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http.response import HttpResponseBase

from labsite.body import Disconnected, Receive, Scope, Send, length_of, pieces
from labsite.environ import environ_of
from labsite.errors import CONTENT_TYPE, Busy, Refused, problem, problem_of, retry_headers
from labsite.spool import Spool, disk, temporary_file

logger = logging.getLogger(__name__)

#: Requests that may wait for a thread; at 4 threads and 5 ms each that is a bit over a second.
MAX_WAITING = 1000
CHUNK_BYTES = 256 * 1024
#: How much of a refused body is read and thrown away, and for how long, so that the client
#: gets to read the refusal before its connection is closed.
LINGER_BYTES = 8 * 1024**2
LINGER_SECONDS = 2.0


@dataclass
class Answer:
    """What a view answered, once its thread is free: bytes, or a part of a file."""

    status: int
    headers: list[tuple[bytes, bytes]]
    content: bytes = b""
    file: BinaryIO | None = None
    offset: int = 0
    length: int = 0


class Pool:
    """The ASGI application. One for each process."""

    def __init__(self, threads: int | None = None, handler: Any = None) -> None:
        self._handler = handler or WSGIHandler()
        self._threads = ThreadPoolExecutor(
            threads or settings.LAB_POOL_THREADS, thread_name_prefix="lab-web"
        )
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            spool, length = await self._spooled(scope, receive)
        except Disconnected:
            return
        except Refused as refused:
            await _refuse_unread(refused, receive, send)
            return
        try:
            answer = await self._in_thread(scope, spool, length)
        except Refused as refused:
            answer = _refusal(refused)
        await _send(answer, scope["method"], receive, send)

    async def _spooled(self, scope: Scope, receive: Receive) -> tuple[Spool, int]:
        length = length_of(scope["method"], scope["headers"], limit_of(scope["path"]))
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
            return await loop.run_in_executor(self._threads, self._run, scope, spool, length)
        finally:
            self._waiting -= 1

    def _run(self, scope: Scope, spool: Spool, length: int) -> Answer:
        """In a thread: have Django answer. The spool is this thread's from here on."""
        try:
            return self._respond(environ_of(scope, spool.reader(), length))
        except Refused:
            raise
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            return _problem(problem(500, "internal", "The server failed; it was logged."))
        finally:
            spool.close()

    def _respond(self, environ: dict[str, Any]) -> Answer:
        head: list[Any] = []
        response = self._handler(environ, lambda *given: head.extend(given))
        try:
            status, headers = head
            answer = Answer(int(status[:3]), _encoded(headers))
            _add_body(answer, response)
        finally:
            response.close()  # sends request_finished, in the thread whose connections it is about
        return answer


def limit_of(path: str) -> int:
    """The most bytes that a body to `path` may have."""
    return next(limit for prefix, limit in settings.LAB_BODY_LIMITS if path.startswith(prefix))


# --- in the thread ------------------------------------------------------------------------------


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("latin-1"), str(value).strip().encode("latin-1"))
        for name, value in headers
    ]


def _add_body(answer: Answer, response: HttpResponseBase) -> None:
    """Take from `response` what is to be sent, so that it can be closed before it is sent."""
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


# --- on the loop --------------------------------------------------------------------------------


def _problem(body: dict[str, Any], **headers: str) -> Answer:
    content = json.dumps(body).encode()
    named = {
        "content-type": CONTENT_TYPE,
        "content-length": str(len(content)),
        "cache-control": "no-store",
        **headers,
    }
    return Answer(body["status"], _encoded(named.items()), content)


def _refusal(refused: Refused, **headers: str) -> Answer:
    return _problem(problem_of(refused), **retry_headers(refused.facts), **headers)


async def _refuse_unread(refused: Refused, receive: Receive, send: Send) -> None:
    """Answer at once, without the rest of the body, and close the connection.

    Closed while the client still sends, a connection is reset, and the client may never see
    the answer: so some of the rest is read first.
    """
    answer = _refusal(refused, connection="close")
    await _start(answer, send)
    await send({"type": "http.response.body", "body": answer.content, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            await _throw_away(receive)
    await send({"type": "http.response.body", "body": b""})


async def _throw_away(receive: Receive) -> None:
    thrown = 0
    while thrown < LINGER_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        thrown += len(message.get("body", b""))


async def _start(answer: Answer, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})


async def _send(answer: Answer, method: str, receive: Receive, send: Send) -> None:
    await _start(answer, send)
    if answer.file is None:
        await _send_bytes(b"" if method == "HEAD" else answer.content, send)
        return
    with answer.file:
        if method == "HEAD":
            await _send_bytes(b"", send)
        else:
            await _send_file(answer, receive, send)


async def _send_bytes(content: bytes, send: Send) -> None:
    """In chunks: `send` waits when the client does not read."""
    for start in range(0, len(content) - CHUNK_BYTES, CHUNK_BYTES):
        chunk = content[start : start + CHUNK_BYTES]
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    rest = content[(max(len(content) - 1, 0) // CHUNK_BYTES) * CHUNK_BYTES :]
    await send({"type": "http.response.body", "body": rest})


async def _send_file(answer: Answer, receive: Receive, send: Send) -> None:
    gone = asyncio.ensure_future(_wait_until_gone(receive))
    try:
        at, end = answer.offset, answer.offset + answer.length
        while at < end and not gone.done():
            chunk = await _read(answer.file, at, min(CHUNK_BYTES, end - at))
            if not chunk:
                logger.warning("a file became shorter while it was sent")
                return  # without an end: the server cuts the connection, and the client knows
            at += len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        gone.cancel()


async def _read(file: Any, offset: int, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(disk, os.pread, file.fileno(), count, offset)


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
