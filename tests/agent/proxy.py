"""An HTTP proxy as a campus has one: plain requests by their whole address, https by CONNECT."""

import contextlib
import http.client
import select
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class ForwardProxy:
    """Leads whatever host is asked for to one port of this machine.

    `asked` holds "METHOD address" of each request, `heard` all that passed in the clear.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[str] = []
        self.heard = b""
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@contextlib.contextmanager
def forwarding(port: int) -> Iterator[ForwardProxy]:
    proxy = ForwardProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()


def _handler(proxy: ForwardProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_CONNECT(self) -> None:
            proxy.asked.append(f"CONNECT {self.path}")
            self.close_connection = True
            with socket.create_connection(("127.0.0.1", proxy.port)) as upstream:
                self.send_response(200)
                self.end_headers()
                self._pass_on(upstream)

        def _pass_on(self, upstream: socket.socket) -> None:
            other = {self.connection: upstream, upstream: self.connection}
            while True:
                for ready in select.select(list(other), [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    proxy.heard += data
                    other[ready].sendall(data)

        def do_GET(self) -> None:
            proxy.asked.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            upstream = http.client.HTTPConnection("127.0.0.1", proxy.port)
            with contextlib.closing(upstream):
                upstream.request(self.command, parts.path, body, dict(self.headers))
                answer = upstream.getresponse()
                content = answer.read()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.send_response(answer.status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            pass

    return Handler
