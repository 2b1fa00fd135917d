"""The agents' door over real sockets, with the real domain behind it."""

import asyncio
import json
import threading
import time
from contextlib import closing

import pytest
from django.db import OperationalError, connection

from agent import wire
from devices.models import Device, digest
from experiments import leases
from experiments.models import Pulse
from labsite import lane, writer
from labsite.lane import Held, Lane
from labsite.wake import MISSED, Wake
from tests.labsite.serving import connect, read_answer, request, served

pytestmark = pytest.mark.django_db(transaction=True)

HEARTBEAT, POLL = "/api/devices/heartbeat", "/api/agent/poll"


class Door:
    """An ASGI application that is only the lane, and what tests need to know of it."""

    def __init__(self) -> None:
        self.lane = Lane()
        self.loop = None

    async def __call__(self, scope, receive, send):
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
            self.lane.start()
        await self.lane(scope, receive, send)

    def on_wakes(self, *wakes: Wake) -> None:
        self.loop.call_soon_threadsafe(self.lane.on_wakes, wakes)


@pytest.fixture
def door():
    return Door()


@pytest.fixture
def site(door, transactional_db):
    with served(door) as address:
        yield address
        door.lane.stop_holding()
    door.lane.close()


def token_of(host_id: str) -> str:
    return f"labd_{host_id:x<8}_{'s' * 43}"


@pytest.fixture
def device():
    return make_device("gpu1")


def make_device(host_id: str) -> Device:
    return Device.objects.create(host_id=host_id, token_sha256=digest(token_of(host_id)))


def heartbeat(seq: int = 1, **fields) -> dict:
    return {
        "instance_id": "one", "boot_id": "boot", "seq": seq, "agent_version": "1",
        "interval_seconds": 1.0, **fields,
    }  # fmt: skip


def poll(seq: int = 1, **fields) -> dict:
    return {"instance_id": "one", "poll_seq": seq, **fields}


def send(site, path: str, body: dict | bytes, host_id: str = "gpu1", **headers):
    """Post it, and return the open connection."""
    connection = connect(site)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    if host_id:
        headers["authorization"] = f"Bearer {token_of(host_id)}"
    connection.sendall(request("POST", path, content, **headers))
    return connection


def answer_to(connection):
    with closing(connection):
        status, headers, content = read_answer(connection)
    return status, headers, json.loads(content)


def post(site, *args, **headers) -> tuple[int, dict]:
    status, _, answer = answer_to(send(site, *args, **headers))
    return status, answer


def hold(site, seq: int = 10, wait_seconds: float = 20, **fields):
    """A poll that knows the answer of now, and waits for another."""
    _, answer = post(site, POLL, poll(seq - 1))
    fields["known_revision"] = answer["revision"]
    return send(site, POLL, poll(seq, wait_seconds=wait_seconds, **fields))


def wait_until_held(door, count: int = 1) -> None:
    deadline = time.monotonic() + 10
    while len(door.lane._held) < count:
        assert time.monotonic() < deadline, "the poll was not held"
        time.sleep(0.005)


# --- in and out ---------------------------------------------------------------------------------


def test_an_answered_heartbeat_is_in_the_database(site, device):
    status, answer = post(site, HEARTBEAT, heartbeat(cpu_percent=12.5))

    assert status == 200
    assert wire.decode(wire.HeartbeatReply, answer).ignored is False
    device.refresh_from_db()
    assert (device.instance_id, device.cpu_percent) == ("one", 12.5)


def test_a_stranger_is_refused_whatever_it_says(site, device):
    for body in (heartbeat(), b"{", heartbeat(protocol=99)):
        status, headers, answer = answer_to(send(site, HEARTBEAT, body, "gpu2"))
        assert (status, answer["code"]) == (401, "authentication_failed")
        assert headers["www-authenticate"].startswith("Bearer")


def test_no_token_is_refused_without_asking_the_database(site, device):
    assert post(site, HEARTBEAT, heartbeat(), "")[1]["code"] == "not_authenticated"


def test_a_revoked_token_is_worthless_within_a_second(site, device, monkeypatch):
    monkeypatch.setattr(writer, "TOKEN_SECONDS", 0.05)
    assert post(site, HEARTBEAT, heartbeat())[0] == 200

    Device.objects.update(token_sha256=None)
    time.sleep(0.06)

    assert post(site, HEARTBEAT, heartbeat(2))[0] == 401


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", None),
        (b"[]", ""),
        ({"boot_id": "b"}, "instance_id"),
        (heartbeat(seq=-1), "seq"),
        (heartbeat(gpus=[{"uuid": "GPU 1", "index": 0, "name": "x"}]), "gpus[0].uuid"),
    ],
)
def test_a_malformed_message_is_told_where(site, device, body, field):
    status, answer = post(site, HEARTBEAT, body)

    assert (status, answer["code"], answer["success"]) == (400, "malformed", False)
    assert field in (None, answer["field"])


def test_another_version_of_the_wire_is_told_which_we_speak(site, device):
    status, answer = post(site, POLL, {"protocol": 99})

    assert (status, answer["versions"]) == (426, [wire.PROTOCOL])


@pytest.mark.parametrize(
    ("path", "limit"), [(HEARTBEAT, wire.MAX_HEARTBEAT_BYTES), (POLL, wire.MAX_POLL_BYTES)]
)
def test_a_body_above_its_limit_is_refused(site, device, path, limit):
    status, answer = post(site, path, b" " * (limit + 1))

    assert (status, answer["limit"]) == (413, limit)


def test_a_refusal_of_the_domain_is_answered_as_it_is(site, device):
    status, headers, answer = answer_to(send(site, POLL, poll()))

    assert (status, answer["code"]) == (409, "duplicate_agent")  # no heartbeat came before
    assert headers["retry-after"] == "3"


def test_many_at_once_are_one_transaction_and_each_gets_its_own_answer(site, monkeypatch):
    hosts = [make_device(f"gpu{number}").host_id for number in range(30)]
    post(site, HEARTBEAT, heartbeat(), hosts[0])
    sizes = []
    slow_down(monkeypatch, wire.Heartbeat, lambda batch: sizes.append(len(batch)))

    waiting = [
        send(site, HEARTBEAT, heartbeat(host_id_seen=1, seq=2, instance_id=f"i{host}"), host)
        for host in hosts[1:]
    ]
    statuses = [answer_to(connection)[0] for connection in waiting]

    assert statuses == [200] * 29
    assert len(sizes) < 10
    assert Device.objects.exclude(instance_id="").count() == 30


def slow_down(monkeypatch, message: type, note) -> None:
    wrap, write = writer.WRITES[message]

    def slowly(batch):
        note(batch)
        time.sleep(0.1)
        return write(batch)

    monkeypatch.setitem(writer.WRITES, message, (wrap, slowly))


# --- faults -------------------------------------------------------------------------------------


def test_a_message_that_fails_takes_no_other_with_it(site, monkeypatch):
    bad, good = make_device("bad"), make_device("good")
    post(site, HEARTBEAT, heartbeat(), "good")
    wrap, write = writer.WRITES[wire.Heartbeat]
    sizes = []

    def fail(batch):
        sizes.append(len(batch))
        if len(sizes) == 1:
            time.sleep(0.2)  # so that the next two are one batch
        if any(beat.device_id == bad.pk for beat in batch):
            raise ValueError("a secret of the domain")
        return write(batch)

    monkeypatch.setitem(writer.WRITES, wire.Heartbeat, (wrap, fail))
    waiting = [send(site, HEARTBEAT, heartbeat(2), "good")]
    time.sleep(0.05)
    waiting += [send(site, HEARTBEAT, heartbeat(3), host) for host in ("bad", "good")]
    answers = [answer_to(connection) for connection in waiting]

    assert [status for status, _, _ in answers] == [200, 500, 200]
    assert "secret" not in str(answers)
    assert 2 in sizes
    good.refresh_from_db()
    assert good.heartbeat_seq == 3


def test_a_database_that_is_away_is_answered_503_and_found_again(site, device, monkeypatch):
    def away(batch):
        raise OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as broken:
        broken.setitem(writer.WRITES, wire.Heartbeat, (leases.Call, away))
        status, headers, answer = answer_to(send(site, HEARTBEAT, heartbeat()))
        assert (status, answer["retryable"], headers["retry-after"]) == (503, True, "1")

    assert post(site, HEARTBEAT, heartbeat())[0] == 200


def test_a_lost_connection_is_opened_anew_before_anybody_notices(device, monkeypatch):
    calls = []

    def lost_once(items):
        calls.append(items)
        if len(calls) == 1:
            raise OperationalError("gone")
        return ["done"]

    monkeypatch.setattr(connection, "is_usable", lambda: False)

    assert writer._each(lost_once, [1]) == ["done"]


def test_nothing_ends_the_writer(site, device, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(writer, "close_old_connections", lambda: 1 / 0)
        broken.setattr(writer, "STAMP_SECONDS", 0.0)
        assert post(site, HEARTBEAT, heartbeat())[0] == 500

    assert post(site, HEARTBEAT, heartbeat())[0] == 200


def test_the_lane_stamps_that_it_is_alive(site, device, monkeypatch):
    monkeypatch.setattr(writer, "STAMP_SECONDS", 0.05)
    post(site, HEARTBEAT, heartbeat())
    first = Pulse.last(Pulse.LANE)

    time.sleep(0.2)

    assert Pulse.last(Pulse.LANE).at > first.at


# --- held polls ---------------------------------------------------------------------------------


@pytest.fixture
def alive(site, device):
    """The device's agent has been heard."""
    post(site, HEARTBEAT, heartbeat())
    return device


def test_a_poll_that_brings_news_is_answered_at_once(site, alive):
    began = time.monotonic()
    status, answer = post(site, POLL, poll(wait_seconds=20, known_revision="another"))

    assert (status, time.monotonic() - began < 5) == (200, True)
    assert wire.decode(wire.PollReply, answer).attempts == []


def test_a_poll_that_does_not_wait_is_answered_at_once(site, alive):
    _, first = post(site, POLL, poll(1))

    began = time.monotonic()
    post(site, POLL, poll(2, known_revision=first["revision"]))

    assert time.monotonic() - began < 5


def test_a_held_poll_is_answered_when_its_answer_changes(site, door, alive):
    held = hold(site)
    wait_until_held(door)

    alive.drain()
    door.on_wakes(Wake("device", alive.pk))

    assert answer_to(held)[2]["draining"] is True


def test_a_wake_up_that_changes_nothing_answers_nobody(site, door, alive):
    held = hold(site)
    wait_until_held(door)

    door.on_wakes(Wake("device", alive.pk), Wake("device", alive.pk + 1), Wake("file", 3))
    time.sleep(0.2)

    held.setblocking(False)
    with pytest.raises(BlockingIOError):
        held.recv(1)
    held.close()


def test_a_missed_wake_up_has_every_held_poll_looked_at(site, door, alive):
    held = hold(site)
    wait_until_held(door)

    alive.drain()
    door.on_wakes(MISSED)

    assert answer_to(held)[2]["draining"] is True


def test_a_change_between_the_answer_and_the_holding_is_not_lost(site, door, alive, monkeypatch):
    _, first = post(site, POLL, poll(1))
    may_hold = door.lane._may_hold

    def change_first(*args):
        thread = threading.Thread(target=drained, args=[alive])
        thread.start()
        thread.join()
        door.lane.on_wakes([Wake("device", alive.pk)])
        return may_hold(*args)

    monkeypatch.setattr(door.lane, "_may_hold", change_first)
    held = send(site, POLL, poll(2, wait_seconds=20, known_revision=first["revision"]))

    assert answer_to(held)[2]["draining"] is True


def drained(device):
    device.drain()
    connection.close()


def test_a_held_poll_ends_with_its_time(site, door, alive):
    began = time.monotonic()
    status, _, answer = answer_to(hold(site, wait_seconds=0.3))

    assert (status, answer["draining"]) == (200, False)
    assert 0.3 <= time.monotonic() - began < 5


def test_a_wake_up_that_was_lost_is_made_up_for(site, door, alive):
    held = hold(site)
    wait_until_held(door)

    alive.drain()
    door.loop.call_soon_threadsafe(door.lane._sweep)

    assert answer_to(held)[2]["draining"] is True


def test_sweeps_take_turns_when_there_are_many_held_polls(monkeypatch):
    """Looking at thousands at once would hold up the heartbeats beside them."""
    monkeypatch.setattr(lane, "SWEPT", 2)
    swept = Lane()
    swept._held = {number: Held(None, None, None) for number in range(5)}
    looks = []
    monkeypatch.setattr(swept, "_look_at", looks.append)

    for _ in range(3):
        swept._sweep()

    assert [len(look) for look in looks] == [2, 2, 2]
    assert {id(held) for look in looks for held in look} == set(map(id, swept._held.values()))


def test_an_agent_that_polls_again_has_given_up_its_held_poll(site, door, alive):
    first = hold(site, 10)
    wait_until_held(door)

    second = hold(site, 20)

    assert answer_to(first)[0] == 200
    wait_until_held(door)
    second.close()


def test_stopping_answers_all_held_polls_at_once(site, door):
    hosts = [make_device(f"gpu{number}").host_id for number in range(20)]
    held = []
    for host in hosts:
        post(site, HEARTBEAT, heartbeat(), host)
        _, first = post(site, POLL, poll(1), host)
        known = first["revision"]
        held.append(send(site, POLL, poll(2, wait_seconds=25, known_revision=known), host))
    wait_until_held(door, 20)

    began = time.monotonic()
    door.lane.stop_holding()
    statuses = [answer_to(connection)[0] for connection in held]

    assert statuses == [200] * 20
    assert time.monotonic() - began < 2
