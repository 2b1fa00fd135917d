"""The proxy's faults, seen from a client: a fault that does nothing would prove anything."""

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.faults.proxy import FaultProxy

LARGE_BYTES = 400_000


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.handled: list[str] = []
        self.bodies: list[bytes] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections are broken on purpose here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.handled.append(self.path)
        body = b"x" * (LARGE_BYTES if self.path == "/large" else 2)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", server.server_port)) as made:
        yield made


def connect(proxy: FaultProxy, seconds: float = 5.0) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=seconds)


def post(connection: http.client.HTTPConnection, path: str = "/") -> bytes:
    connection.request("POST", path, b"hello")
    return connection.getresponse().read()


def test_without_faults_it_changes_nothing(proxy, server):
    with closing(connect(proxy)) as connection:
        assert [post(connection), len(post(connection, "/large"))] == [b"xx", LARGE_BYTES]

    assert proxy.connections == 1


def test_a_cut_breaks_connections_and_refuses_new_ones_until_it_is_healed(proxy, server):
    with closing(connect(proxy)) as connection:
        post(connection)
        proxy.cut()
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            post(connection)
        with closing(connect(proxy)) as another, pytest.raises(ConnectionError):
            post(another)
        proxy.heal()
        with closing(connect(proxy)) as another:
            assert post(another) == b"xx"


def test_a_lost_answer_was_given_and_only_that_path_loses_it(proxy, server):
    proxy.lose_answers("/lost", times=1)

    with closing(connect(proxy)) as connection:
        post(connection, "/kept")
        with pytest.raises(ConnectionError):
            post(connection, "/lost")
    with closing(connect(proxy)) as connection:
        post(connection, "/lost")

    assert server.handled == ["/kept", "/lost", "/lost"]
    assert proxy.lost == {"/lost": 1}


def test_half_open_connections_say_nothing_any_more_and_stay_dead(proxy, server):
    with closing(connect(proxy, seconds=0.2)) as connection:
        post(connection)
        proxy.fall_silent()
        connection.request("POST", "/unheard", b"")
        with pytest.raises(TimeoutError):
            connection.getresponse()
        proxy.heal()
        with pytest.raises(TimeoutError):
            connection.sock.recv(1)

    assert server.handled == ["/"]


def test_a_reset_comes_within_the_answer_and_once(proxy, server):
    proxy.reset_after_bytes = LARGE_BYTES // 2

    with closing(connect(proxy)) as connection:
        connection.request("POST", "/large", b"")
        with pytest.raises((ConnectionError, http.client.IncompleteRead)):
            connection.getresponse().read()
    with closing(connect(proxy)) as connection:
        assert len(post(connection, "/large")) == LARGE_BYTES


@pytest.mark.parametrize("slowness", [{"latency_seconds": 0.1}, {"bytes_per_second": 1000.0}])
def test_a_slow_line_takes_its_time(proxy, server, slowness):
    for name, value in slowness.items():
        setattr(proxy, name, value)
    began = time.monotonic()

    with closing(connect(proxy)) as connection:
        post(connection)

    assert 0.1 <= time.monotonic() - began < 2


def test_a_server_that_is_away_looks_like_a_reset(proxy):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        proxy.upstream = probe.getsockname()

        with closing(connect(proxy)) as connection, pytest.raises(ConnectionError):
            post(connection)


def test_a_request_that_is_lost_is_never_heard_of(proxy, server):
    proxy.lose_requests("/lost", times=1)
    with closing(connect(proxy)) as connection, pytest.raises(OSError, match="reset"):
        post(connection, "/lost")

    with closing(connect(proxy)) as another:
        assert post(another, "/lost") == b"xx"

    assert (server.handled, proxy.happened["lose request"]) == (["/lost"], 1)


def test_one_bit_of_one_body_is_changed(proxy, server):
    proxy.flip_bodies("/", times=1)
    with closing(connect(proxy)) as connection:
        post(connection)
        post(connection)

    first, second = server.bodies
    assert second == b"hello"
    assert [one ^ other for one, other in zip(first, second, strict=True) if one != other] == [1]
