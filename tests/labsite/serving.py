"""A real uvicorn in a thread, and plain sockets to speak to it with."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import uvicorn

TIMEOUT_SECONDS = 10


@contextmanager
def served(app) -> Iterator[tuple[str, int]]:
    """Serve `app` on a free port of this host; yield its address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(
        app, lifespan="off", log_level="warning", proxy_headers=False,
        timeout_graceful_shutdown=1, ws="websockets-sansio",
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True
    )
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join(TIMEOUT_SECONDS)
        listener.close()
        assert not thread.is_alive()


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, TIMEOUT_SECONDS)


def request(method: str, path: str, body: bytes = b"", **headers: object) -> bytes:
    """The bytes of a request; a header's underscores are its dashes."""
    headers.setdefault("host", "localhost")
    if body:
        headers.setdefault("content_length", len(body))
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + body


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one answer that has a Content-Length."""
    with connection.makefile("rb") as reader:
        status = int(reader.readline().split()[1])
        headers = {}
        while line := reader.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        return status, headers, reader.read(int(headers.get("content-length", 0)))


def ask(address: tuple[str, int], *args: object, **headers: object):
    with closing(connect(address)) as connection:
        connection.sendall(request(*args, **headers))
        return read_answer(connection)
