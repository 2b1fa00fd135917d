"""What is sent back, and sending it from the event loop: both doors' answers end here."""

import asyncio
import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from labsite.body import Receive, Send
from labsite.errors import CONTENT_TYPE, Refused, headers_of, problem, problem_of
from labsite.spool import disk

logger = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
#: How much of a refused body is read and thrown away, and for how long, so that the client
#: gets to read the refusal before its connection is closed.
LINGER_BYTES = 8 * 1024**2
LINGER_SECONDS = 2.0


@dataclass
class Answer:
    """Bytes, or `length` bytes of `file` from `offset` on, or `parts` one after the other, whose
    length nobody knows yet. Whoever sends it closes the file."""

    status: int
    headers: list[tuple[bytes, bytes]]
    content: bytes = b""
    file: BinaryIO | None = None
    offset: int = 0
    length: int = 0
    parts: Iterator[bytes] | None = None


def encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("latin-1"), str(value).strip().encode("latin-1"))
        for name, value in headers
    ]


def json_answer(content: bytes) -> Answer:
    """For an agent: nothing between us and it keeps such a thing."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        (b"cache-control", b"no-store"),
    ]
    return Answer(200, headers, content)


def _problem(body: dict[str, Any], **headers: str) -> Answer:
    content = json.dumps(body).encode()
    named = {
        "content-type": CONTENT_TYPE,
        "content-length": str(len(content)),
        "cache-control": "no-store",
        **headers,
    }
    return Answer(body["status"], encoded(named.items()), content)


def refusal(refused: Refused, **headers: str) -> Answer:
    return _problem(problem_of(refused), **headers_of(refused.facts), **headers)


def failure() -> Answer:
    """For a fault of ours. What it was stands in the log, and nowhere else."""
    return _problem(problem(500, "internal", "The server failed; it was logged."))


async def refuse_unread(refused: Refused, receive: Receive, send: Send) -> None:
    """Answer at once, without the rest of the body, and close the connection.

    Closed while the client still sends, a connection is reset, and the client may never see
    the answer: so some of the rest is read first.
    """
    answer = refusal(refused, connection="close")
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


async def send_answer(answer: Answer, method: str, receive: Receive, send: Send) -> None:
    await _start(answer, send)
    if answer.parts is not None and method != "HEAD":
        await _send_parts(answer.parts, receive, send)
        return
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


async def _send_parts(parts: Iterator[bytes], receive: Receive, send: Send) -> None:
    """Each is made when the client has taken the one before, so a slow one costs no memory."""
    loop = asyncio.get_running_loop()
    gone = asyncio.ensure_future(_wait_until_gone(receive))
    try:
        while not gone.done():
            part = await loop.run_in_executor(disk, next, parts, None)
            if part is None:
                await send({"type": "http.response.body", "body": b""})
                return
            if part:
                await send({"type": "http.response.body", "body": part, "more_body": True})
    except OSError:  # without an end: the server cuts the connection, and the client knows
        logger.warning("an archive could not be made to its end", exc_info=True)
    finally:
        gone.cancel()


async def _read(file: Any, offset: int, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(disk, os.pread, file.fileno(), count, offset)


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
