"""Who is told: an HTTP server on this host that keeps what it gets, and answers as it is asked."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Listener:
    url: str = ""
    status: int = 200
    answer: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict)
    on_got: Callable[[], None] | None = None  # before it answers
    drip_seconds: float = 0.0  # between the bytes of its answer's headers, which then never end
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def bodies(self) -> list[bytes]:
        return [body for _path, _headers, body in self.got]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    listener: Listener


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        listener = self.server.listener
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        listener.got.append((self.path, dict(self.headers), body))
        if listener.on_got:
            listener.on_got()
        if listener.drip_seconds:
            self._drip(listener.drip_seconds)
            return
        self.send_response(listener.status)
        for name, value in listener.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(listener.answer)))
        self.end_headers()
        self.wfile.write(listener.answer)

    do_GET = do_POST

    def _drip(self, pause_seconds: float) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            for _ in range(1000):
                self.wfile.write(b"x")
                time.sleep(pause_seconds)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def listening() -> Iterator[Listener]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        listener = server.listener = Listener()
        listener.url = f"http://127.0.0.1:{server.server_port}/services/T0/B0/s3cr3t"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield listener
        finally:
            server.shutdown()
