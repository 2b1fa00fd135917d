"""Requests and what becomes of their answers."""

import contextlib
import gzip
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import wire
from agent.errors import (
    AgentError,
    NotTheServer,
    Rejected,
    ServerUnreachable,
    Unauthorized,
    WrongProtocol,
)
from agent.reach import MAX_REPLY_BYTES
from agent.transport import Transport
from tests.agent.server import FakeServer, listening

POLL = wire.Poll(instance_id="i", poll_seq=1)
TOKEN = "labd_key_secret"


@pytest.fixture
def transport(server: FakeServer) -> Iterator[Transport]:
    made = Transport(server.url, TOKEN)
    yield made
    made.close()


def refusal(transport: Transport) -> AgentError:
    with pytest.raises(AgentError) as caught:
        transport.poll(POLL)
    return caught.value


def test_the_token_goes_with_each_request_whatever_netrc_says(
    server: FakeServer, transport: Transport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login kim password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))

    transport.poll(POLL)
    Transport(server.url, None).poll(POLL)

    assert server.tokens == [f"Bearer {TOKEN}", None]


@pytest.mark.parametrize("status", [408, 423, 429, 500, 502, 503, 507])
def test_what_may_pass_is_to_be_tried_again(
    server: FakeServer, transport: Transport, status: int
) -> None:
    server.refuse = {"/api/agent/poll": (status, {"code": "busy"})}

    assert type(refusal(transport)) is ServerUnreachable


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Rejected), (401, Unauthorized), (403, Unauthorized), (426, WrongProtocol)],
)
def test_what_will_not_pass_says_why(
    server: FakeServer, transport: Transport, status: int, kind: type
) -> None:
    server.refuse = {"/api/agent/poll": (status, {"code": "a_code", "detail": "Why.", "n": 7})}

    said = refusal(transport)

    assert type(said) is kind
    assert isinstance(said, Rejected)
    assert (said.status, said.code, str(said), said.facts["n"]) == (status, "a_code", "Why.", 7)


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b"[]", b"", b'{"x": NaN}'])
def test_an_answer_of_somebody_else_is_told_from_ours(
    server: FakeServer, transport: Transport, body: Any
) -> None:
    server.refuse = {"/api/agent/poll": (200, body)}
    assert isinstance(refusal(transport), NotTheServer)
    server.refuse = {"/api/agent/poll": (404, body)}
    assert isinstance(refusal(transport), NotTheServer)


@pytest.mark.parametrize("status", [200, 400, 401, 503])
def test_an_answer_that_is_too_long_is_not_the_lab_servers(
    server: FakeServer, transport: Transport, status: int
) -> None:
    server.refuse = {"/api/agent/poll": (status, b'"' + b"x" * MAX_REPLY_BYTES)}
    said = refusal(transport)
    assert isinstance(said, Unauthorized if status == 401 else NotTheServer)
    assert status == 401 or f"more than {MAX_REPLY_BYTES} bytes" in str(said)

    server.refuse = {}
    assert transport.poll(POLL).server_id == server.server_id


def test_the_longest_answer_is_taken(server: FakeServer, transport: Transport) -> None:
    server.configs["attempt"] = b"x" * MAX_REPLY_BYTES

    assert transport.config("attempt") == server.configs["attempt"]


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_an_answer_without_end_takes_no_memory_without_end(encoding: str) -> None:
    """Not even one that is small on the line: a gigabyte of blanks is a megabyte of gzip."""
    block = b" " * 1024**2
    if encoding == "gzip":
        block = gzip.compress(block * 64)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\n\r\n".encode()

    def answer(peer: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            peer.sendall(head)
            while True:
                peer.sendall(block)

    tracemalloc.start()
    with listening(answer) as port:
        said = refusal(Transport(f"http://127.0.0.1:{port}", None))
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert isinstance(said, NotTheServer)
    assert most_bytes < 6 * MAX_REPLY_BYTES


def test_an_answer_that_is_cut_off_is_asked_for_again() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
    with listening(lambda peer: peer.sendall(half)) as port:
        said = refusal(Transport(f"http://127.0.0.1:{port}", None))

    assert type(said) is ServerUnreachable


def test_a_refused_request_leaves_its_connection_to_the_next(
    server: FakeServer, transport: Transport
) -> None:
    server.refuse = {"/api/agent/poll": (503, {"code": "busy"})}
    for _ in range(3):
        refusal(transport)
    server.refuse = {}
    transport.poll(POLL)

    assert len(server.peers) == 1


def test_no_redirection_is_followed(server: FakeServer, transport: Transport) -> None:
    server.refuse = {"/api/agent/poll": (301, {})}

    assert "redirection" in str(refusal(transport))
    assert len(server.requests) == 1


def test_a_closed_port_says_so() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    said = refusal(Transport(f"http://127.0.0.1:{port}", None))

    assert "connection refused" in str(said)


def test_https_on_a_server_that_speaks_http_says_so(server: FakeServer) -> None:
    said = refusal(Transport(server.url.replace("http:", "https:"), None))

    assert f"try --server {server.url}" in str(said)


def test_http_on_a_server_that_speaks_something_else_says_so() -> None:
    with listening(lambda peer: peer.sendall(b"\x15\x03\x03\x00\x02\x02\x46")) as port:
        said = refusal(Transport(f"http://127.0.0.1:{port}", None))

    assert "https" in str(said)


def test_a_name_that_nobody_knows_says_so() -> None:
    said = refusal(Transport("http://lab.invalid:8000", None))

    assert "lab.invalid" in str(said)


def test_no_error_shows_the_token(server: FakeServer, transport: Transport) -> None:
    server.refuse = {"/api/agent/poll": (400, {"code": "bad", "detail": "Bad."})}

    said = refusal(transport)

    assert TOKEN not in repr(said) + str(said) + repr(vars(transport))


def test_a_download_begins_where_asked(server: FakeServer, transport: Transport) -> None:
    server.files["run_001.pt"] = b"0123456789"

    with transport.download("20260101_a1b2", "run_001.pt") as blocks:
        assert b"".join(blocks) == b"0123456789"
