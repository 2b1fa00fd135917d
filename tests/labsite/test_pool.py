"""The pool behind a real uvicorn, over real sockets."""

import hashlib
import json
import socket
import time
from contextlib import ExitStack, closing

import pytest
from django.core.handlers.wsgi import WSGIHandler

from labsite import body, pool, spool
from tests.labsite import views
from tests.labsite.serving import ask, connect, read_answer, request, served


@pytest.fixture(autouse=True)
def _small_site(settings, tmp_path):
    settings.ROOT_URLCONF = "tests.labsite.views"
    settings.MIDDLEWARE = []
    settings.ALLOWED_HOSTS = ["*"]
    settings.LAB_DATA_DIR = tmp_path
    settings.LAB_SPOOL_DIR = tmp_path / "spool"
    settings.LAB_BODY_LIMITS = [("/echo", 4 * 1024**2), ("/", 1000)]
    views.seen.clear()


@pytest.fixture
def large_file(tmp_path):
    content = b"0123456789abcdef" * (views.FILE_BYTES // 16)
    (tmp_path / "large").write_bytes(content)
    return content


@pytest.fixture
def site():
    made = pool.Pool(threads=2, handler=WSGIHandler())
    with served(made) as address:
        yield address
    made.close()


def asked(site, *args, **headers):
    status, _, content = ask(site, *args, **headers)
    return status, json.loads(content)


def test_a_request_reaches_its_view_and_its_answer_comes_back(site):
    status, answer = asked(site, "POST", "/echo?a=1&b=%ED%95%9C", b"hello", cookie="x=1; y=2")

    assert status == 200
    assert answer["length"] == 5
    assert answer["query"] == {"a": "1", "b": "한"}
    assert answer["cookies"] == {"x": "1", "y": "2"}
    assert answer["from"] == "127.0.0.1"
    assert answer["thread"].startswith("lab-web")


def test_what_pages_ask_by_themselves_holds_one_thread_however_many_look(site):
    views.gate.clear()
    with ExitStack() as stack:
        looking = [stack.enter_context(closing(connect(site))) for _ in range(5)]
        for connection in looking:
            connection.sendall(request("GET", "/held", x_part="1"))

        status, _answer = asked(site, "POST", "/echo", b"a click")
        views.gate.set()

        assert status == 200
        assert [read_answer(connection)[0] for connection in looking] == [200] * 5


def test_a_view_is_told_when_its_request_arrived_and_not_when_its_turn_came(site):
    views.gate.clear()
    with ExitStack() as stack:
        asking = [stack.enter_context(closing(connect(site))) for _ in range(2)]
        for connection in asking:
            connection.sendall(request("GET", "/held", x_part="1"))
        status, _answer = asked(site, "POST", "/echo", b"a click")  # both have arrived by then
        opened = time.monotonic()
        views.gate.set()
        arrived = [json.loads(read_answer(connection)[2])["arrived"] for connection in asking]

    assert status == 200
    assert max(arrived) < opened


def test_a_body_larger_than_memory_goes_through_disk_unchanged(site):
    content = bytes(range(256)) * (3 * spool.MEMORY_BYTES // 256)

    status, answer = asked(site, "POST", "/echo", content)

    assert (status, answer["sha256"]) == (200, hashlib.sha256(content).hexdigest())


def test_a_body_above_the_limit_is_refused_before_it_is_read(site):
    with closing(connect(site)) as connection:
        connection.sendall(request("POST", "/broken", content_length=1001))
        status, headers, content = read_answer(connection)

    problem = json.loads(content)
    assert (status, problem["code"], problem["limit"]) == (413, "too_large", 1000)
    assert problem["success"] is False
    assert headers["content-type"] == "application/problem+json"


def test_a_large_body_is_refused_before_it_fills_the_disk(site, settings):
    settings.LAB_DISK_RESERVE_BYTES = 2**62
    with closing(connect(site)) as connection:
        connection.sendall(request("POST", "/echo", content_length=spool.MEMORY_BYTES + 1))
        status, headers, content = read_answer(connection)

    assert (status, json.loads(content)["code"]) == (507, "disk_full")
    assert headers["retry-after"] == "30"
    assert asked(site, "POST", "/echo", b"small")[0] == 200


def test_a_client_that_sends_a_refused_body_all_the_same_reads_the_refusal(site):
    with closing(connect(site)) as connection:
        connection.sendall(request("POST", "/broken", b"x" * 4_000_000))
        assert read_answer(connection)[0] == 413


@pytest.mark.parametrize("headers", [{"transfer_encoding": "chunked"}, {}])
def test_a_body_without_a_length_is_refused(site, headers):
    assert asked(site, "POST", "/echo", **headers)[1]["code"] == "length_required"


def test_a_content_type_that_cannot_be_read_is_refused(site):
    kind = "multipart/form-data; boundary*=nobodys''%41"

    assert asked(site, "POST", "/echo", b"x", content_type=kind)[1]["code"] == "bad_request"
    assert asked(site, "POST", "/echo", b"small")[0] == 200


def test_a_body_cut_short_never_reaches_a_view(site):
    with closing(connect(site)) as connection:
        connection.sendall(request("POST", "/echo", b"half", content_length=8))
    asked(site, "POST", "/echo", b"whole")

    assert views.seen == [b"whole"]


def test_a_body_that_trickles_is_given_up(site, monkeypatch):
    monkeypatch.setattr(body, "SLOW_WINDOW_SECONDS", 0.1)
    with closing(connect(site)) as connection:
        connection.sendall(request("POST", "/echo", b"a", content_length=8))
        status, _, content = read_answer(connection)

    assert (status, json.loads(content)["retryable"]) == (408, True)


def test_a_view_that_fails_shows_nothing_of_itself(site):
    status, _, content = ask(site, "GET", "/broken")

    assert status == 500
    assert b"secret" not in content
    assert b"Traceback" not in content


def test_a_handler_that_fails_is_answered_and_the_thread_lives_on():
    def fail(environ, start_response):
        raise ValueError("the handler's secret")

    with served(pool.Pool(threads=1, handler=fail)) as site:
        first = asked(site, "GET", "/")
        assert asked(site, "GET", "/") == first
    assert first[1]["code"] == "internal"
    assert "secret" not in str(first)


def test_a_file_is_sent_whole(site, large_file):
    status, headers, content = ask(site, "GET", "/download")

    assert (status, int(headers["content-length"])) == (200, views.FILE_BYTES)
    assert content == large_file


def test_a_part_of_a_file_is_sent_as_named(site, large_file):
    assert ask(site, "GET", "/part")[2] == b"23456"


def test_a_generator_is_sent_with_its_length(site):
    assert ask(site, "GET", "/stream")[2] == b"line 0\nline 1\nline 2\n"


def test_parts_are_made_no_faster_than_they_are_taken(site):
    with closing(connect(site)) as connection:
        connection.sendall(request("GET", "/parts"))
        head = connection.recv(4096)
        for _pause in range(100):
            made = len(views.seen)
            time.sleep(0.05)  # the kernel's buffers fill
            if made and made == len(views.seen):
                break
        assert made < 40
    assert b"200 OK" in head
    assert b"transfer-encoding: chunked" in head.lower()
    assert ask(site, "HEAD", "/parts")[2] == b""
    assert ask(site, "GET", "/stream")[0] == 200


def test_head_is_answered_without_a_body_and_the_connection_goes_on(site, large_file):
    with closing(connect(site)) as connection:
        connection.sendall(request("HEAD", "/download"))
        head = connection.recv(4096)
        connection.sendall(request("GET", "/part"))
        assert read_answer(connection)[2] == b"23456"

    assert f"content-length: {views.FILE_BYTES}".encode() in head
    assert head.endswith(b"\r\n\r\n")


def test_what_a_stranger_says_of_itself_is_not_believed(site):
    headers = {"x_forwarded_for": "10.9.9.9", "x_forwarded_proto": "https"}

    _, answer = asked(site, "GET", "/echo", **headers)

    assert (answer["from"], answer["scheme"], answer["forwarded"]) == ("127.0.0.1", "http", None)


def test_what_a_trusted_proxy_says_is_believed(site, settings):
    settings.LAB_TRUSTED_PROXIES = ["127.0.0.0/8", "10.0.0.1"]
    headers = {"x_forwarded_for": "6.6.6.6, 192.0.2.7, 10.0.0.1", "x_forwarded_proto": "https"}

    _, answer = asked(site, "GET", "/echo", **headers)

    assert (answer["from"], answer["scheme"]) == ("192.0.2.7", "https")


def test_too_many_waiting_requests_are_sent_away(site, monkeypatch):
    monkeypatch.setattr(pool, "MAX_WAITING", 0)

    status, headers, content = ask(site, "GET", "/echo")

    assert (status, headers["retry-after"]) == (503, "1")
    assert json.loads(content)["retryable"] is True


@pytest.mark.django_db(transaction=True)
def test_threads_keep_their_database_connections(site):
    connections = {asked(site, "GET", "/database")[1]["connection"] for _ in range(10)}

    assert len(connections) <= 2


def test_slow_bodies_and_slow_readers_hold_up_nobody(site, large_file):
    with ExitStack() as stack:
        for number in range(400):
            connection = stack.enter_context(closing(slow(site, reads=bool(number % 2))))
            connection.settimeout(30)
        began = time.monotonic()
        answers = [asked(site, "GET", "/echo")[0] for _ in range(20)]
        took_seconds = time.monotonic() - began

    assert answers == [200] * 20
    assert took_seconds < 15  # with threads held, none would be answered at all


def slow(site, *, reads: bool) -> socket.socket:
    """A client that sends half a body, or that asks for 8 MiB and reads nothing of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(10)
    connection.connect(site)
    if reads:
        connection.sendall(request("GET", "/download"))
    else:
        connection.sendall(request("POST", "/echo", b"half", content_length=1000))
    return connection
