"""So many requests of one token at once, and no more."""

import json
import time
from contextlib import ExitStack, closing

import pytest

from labsite import turns
from labsite.asgi import Site
from labsite.turns import MOST, TooManyAtOnce, Turns
from tests.labsite.serving import ask, connect, read_answer, request, served

ONE, OTHER = (f"Bearer labd_{name}" for name in ("one", "other"))


def headers(authorization: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"localhost"), (b"authorization", authorization.encode())]


def test_one_that_ends_makes_room_for_another():
    held = Turns()
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(held.of(headers(ONE)))
        with pytest.raises(TooManyAtOnce) as refused, held.of(headers(ONE)):
            pass
        assert refused.value.facts == {"retry_after_seconds": 1}

    with held.of(headers(ONE)):
        pass
    assert not held._under_way


def test_other_devices_and_people_are_not_held_up():
    held = Turns()
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(held.of(headers(ONE)))
        stack.enter_context(held.of(headers(OTHER)))
        for _ in range(MOST + 1):
            stack.enter_context(held.of(headers("Token abc")))
            stack.enter_context(held.of([(b"host", b"localhost")]))
        assert sorted(held._under_way.values()) == [1, MOST]


@pytest.mark.django_db(transaction=True)
def test_what_is_too_much_is_told_before_its_body_is_read(monkeypatch):
    monkeypatch.setattr(turns, "MOST", 2)
    site = Site()
    slow = {"authorization": ONE, "content_length": 8}
    with served(site) as address, ExitStack() as stack:
        for _ in range(2):
            waiting = stack.enter_context(closing(connect(address)))
            waiting.sendall(request("POST", "/api/devices/goodbye", b"a", **slow))
        until = time.monotonic() + 10
        while sum(site._turns._under_way.values()) < 2:
            assert time.monotonic() < until
        third = stack.enter_context(closing(connect(address)))
        third.sendall(request("POST", "/api/devices/goodbye", b"a", **slow))
        status, told, content = read_answer(third)

        assert (status, json.loads(content)["code"]) == (429, "too_many_at_once")
        assert (json.loads(content)["retryable"], told["retry-after"]) == (True, "1")
        assert ask(address, "POST", "/api/devices/goodbye", b"{}", authorization=OTHER)[0] == 401
    site.close()


@pytest.mark.django_db(transaction=True)
def test_a_host_is_heard_however_many_of_its_files_are_under_way(monkeypatch):
    monkeypatch.setattr(turns, "MOST", 1)
    site = Site()
    with served(site) as address, closing(connect(address)) as waiting:
        slow = {"authorization": ONE, "content_length": 8}
        waiting.sendall(request("POST", "/api/sync/delta/x/y.csv", b"a", **slow))
        until = time.monotonic() + 10
        while not site._turns._under_way:
            assert time.monotonic() < until
        path = "/api/devices/heartbeat"

        assert ask(address, "POST", path, b"{}", authorization=ONE)[0] != 429
    site.close()
