"""The feed of pages: over a real socket for the door, against the consumer for the order."""

import asyncio
import functools
import json
import time
from datetime import datetime, timedelta

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.test import Client
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from devices.models import Device
from experiments.models import JobEvent, Pulse
from labsite import live
from labsite.asgi import Site
from labsite.clock import database_now
from labsite.wake import MISSED, Wake
from tests import make
from tests.labsite.serving import served
from tests.labsite.test_wake import REDIS_URL, redis_runs

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _small_site(settings, tmp_path):
    settings.LAB_REDIS_URL = ""
    settings.LAB_SOCKET_DIR = str(tmp_path / "s")
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    yield
    live.close_reader()


def jobs_told(messages: list[dict]) -> list[int]:
    return [message["seq"] for message in messages if message.get("kind") == "job"]


# --- one consumer and the tailer, without a server ----------------------------------------------


class Page:
    """A signed-in page's socket, and the tailer of its process."""

    def __init__(self, query: str = "", user=None) -> None:
        self.tailer = live.Tailer()
        self.told: list[dict] = []  # of a frame with several, those that nobody asked for yet
        scope_user = user or get_user_model()(pk=1, username="u")
        door = live.door(self.tailer)

        async def signed_in(scope, receive, send):
            await door({**scope, "user": scope_user}, receive, send)

        self.socket = WebsocketCommunicator(signed_in, f"/ws/live/{query}")

    async def __aenter__(self) -> "Page":
        self.tailer.start()
        self.connected, _ = await self.socket.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.tailer._task.cancel()
        await self.socket.disconnect()

    async def until(self, wanted) -> list[dict]:
        """All messages up to and with the first for which `wanted` holds."""
        messages = []
        while not messages or not wanted(messages[-1]):
            if not self.told:
                told = json.loads(await self.socket.receive_from(timeout=10))
                self.told += told if isinstance(told, list) else [told]
            messages.append(self.told.pop(0))
        return messages

    async def until_hello(self) -> list[dict]:
        return await self.until(lambda message: message.get("kind") == "hello")

    async def until_seq(self, seq: int) -> list[dict]:
        return await self.until(lambda m: m.get("kind") == "job" and m["seq"] >= seq)


def in_a_loop(test):
    """Run an async test in a loop of its own."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        async_to_sync(test)(*args, **kwargs)

    return run


happen = sync_to_async(lambda **fields: make.job(**fields))
newest = sync_to_async(live.newest_seq)


@sync_to_async
def events_after(seq: int) -> list[int]:
    return list(JobEvent.objects.filter(pk__gt=seq).order_by("pk").values_list("pk", flat=True))


@in_a_loop
async def test_a_page_gets_what_it_missed_and_then_what_happens():
    await happen()
    before = await newest()
    await happen()
    async with Page(f"?after={before}") as page:
        missed = await page.until_hello()
        assert jobs_told(missed) == [await newest()]

        await happen(project="mnist")
        page.tailer.on_wakes([Wake("event", None)])

        [message] = [m for m in await page.until_seq(await newest()) if m["kind"] == "job"]
        assert not {"project", "run", "name"} & message.keys()  # ids only: it may be private
        assert (message["event"], message["state"]) == ("submitted", "queued")


@in_a_loop
async def test_without_a_number_a_page_begins_at_the_newest():
    await happen()
    async with Page() as page:
        [*_, hello] = await page.until_hello()

        assert hello["seq"] == await newest()


@in_a_loop
async def test_a_page_may_say_its_number_later():
    await happen()
    await happen()
    async with Page() as page:
        await page.until_hello()
        await page.socket.send_to(json.dumps({"after": await newest() - 1}))

        assert jobs_told(await page.until_hello()) == [await newest()]


@in_a_loop
async def test_nonsense_from_a_page_is_passed_over():
    async with Page() as page:
        await page.until_hello()
        for nonsense in ("{", "[]", '{"after": -1}', '{"after": [1]}', "x" * 10_000):
            await page.socket.send_to(nonsense)
        await page.socket.send_to('{"after": 0}')

        assert (await page.until_hello())[-1]["kind"] == "hello"


@in_a_loop
async def test_what_was_dropped_on_the_way_is_read_again_in_order():
    async with Page() as page:
        await page.until_hello()
        begin = await newest()
        for _ in range(5):
            await happen()
        end = await newest()

        # As if the channel had been full: only the last of three batches came through.
        last = await sync_to_async(live.rows_after)(end - 1, 10)
        message = {"type": "live.rows", "after": end - 1, "rows": last}
        await page.tailer._send(message)

        assert jobs_told(await page.until_seq(end)) == await events_after(begin)


@in_a_loop
async def test_what_is_told_twice_is_passed_on_once():
    async with Page() as page:
        await page.until_hello()
        begin = await newest()
        await happen()
        rows = await sync_to_async(live.rows_after)(begin, 10)
        for _ in range(3):
            await page.tailer._send({"type": "live.rows", "after": begin, "rows": rows})
        await happen()
        page.tailer.on_wakes([MISSED])

        assert jobs_told(await page.until_seq(await newest())) == await events_after(begin)


@in_a_loop
async def test_a_page_that_missed_too_much_is_told_to_begin_anew(window_of_three):
    for _ in range(4):
        await happen()
    async with Page("?after=0") as page:
        messages = await page.until_hello()

    assert {"reset": True, "seq": await newest()} in messages
    assert jobs_told(messages) == []


@in_a_loop
async def test_a_page_from_the_future_is_told_to_begin_anew():
    async with Page("?after=999999") as page:
        assert {"reset": True, "seq": await newest()} in await page.until_hello()


@in_a_loop
async def test_few_objects_are_told_of_soon_and_many_no_more_often_than_so_many_a_second():
    told = []
    coalescer = live.Coalescer(told.append)

    pauses = []
    for number in range(200):
        coalescer.offer(Wake("file", number, 1))
        pauses.append(coalescer.pause_seconds)

    assert len(told) == 200
    assert pauses[0] == live.SOONEST_SECONDS
    assert pauses[29] == pytest.approx(30 / live.MESSAGES_A_SECOND)
    assert pauses[-1] == live.COALESCE_SECONDS


@in_a_loop
async def test_an_object_that_changes_often_is_told_of_once_a_second(quick_coalescer):
    async with Page() as page:
        await page.until_hello()
        for size in range(100):
            page.tailer.on_wakes([Wake("file", 91, size), Wake("queue", "lab")])

        messages = await page.until(lambda m: m.get("size") == 99)

    files = [message for message in messages if message["kind"] == "file"]
    assert files == [
        {"kind": "file", "id": 91, "size": 0},
        {"kind": "file", "id": 91, "size": 99},
    ]


@in_a_loop
async def test_a_device_that_falls_silent_is_told_without_anybody_saying_so(quick_tick):
    device = await sync_to_async(make.device)()
    async with Page() as page:
        await page.until(lambda m: m.get("states") == {"healthy": [device.pk]})

        silent_since = device.last_heartbeat_at - timedelta(seconds=10)
        await Device.objects.filter(pk=device.pk).aupdate(last_heartbeat_at=silent_since)

        told = await page.until(lambda m: m.get("kind") == "devices")
    assert told[-1]["states"] == {"stale": [device.pk]}


@in_a_loop
async def test_many_devices_that_beat_are_one_frame(quick_tick):
    for _ in range(20):
        await sync_to_async(make.device)()
    async with Page() as page:
        await page.until(lambda m: len(m.get("states", {}).get("healthy", [])) == 20)

        now = await sync_to_async(database_now)()
        await Device.objects.aupdate(last_heartbeat_at=now)

        [told] = await page.until(lambda m: m.get("kind") == "devices")
    assert len(told["states"]["healthy"]) == 20


@in_a_loop
async def test_a_dispatch_that_falls_silent_is_told_without_anybody_saying_so(quick_tick):
    now = await sync_to_async(database_now)()
    await _dispatched(now - Pulse.LONG_GAP + timedelta(seconds=1))
    async with Page() as page:
        await page.until_hello()

        silent = await page.until(lambda message: message.get("kind") == "dispatch")

        await _dispatched(await sync_to_async(database_now)())
        again = await page.until(lambda message: message.get("kind") == "dispatch")

    assert silent[-1] == again[-1] == {"kind": "dispatch", "id": None}


@sync_to_async
def _dispatched(at: datetime) -> None:
    values = {"at": at, "unbroken_since": at}
    Pulse.objects.update_or_create(name=Pulse.DISPATCH, defaults=values)


@in_a_loop
async def test_nobody_connected_is_no_work():
    page = Page()
    page.tailer.start()
    page.tailer.on_wakes([Wake("event", 1), Wake("file", 1, 2)])
    await asyncio.sleep(0.05)

    assert page.tailer.seq is None
    assert page.tailer._texts == []
    page.tailer._task.cancel()


@in_a_loop
async def test_a_stranger_is_not_let_in():
    page = Page(user=AnonymousUser())
    async with page:
        assert not page.connected


@pytest.fixture
def window_of_three(monkeypatch):
    monkeypatch.setattr(live, "WINDOW", 3)


@pytest.fixture
def quick_coalescer(monkeypatch):
    monkeypatch.setattr(live, "COALESCE_SECONDS", 0.2)


@pytest.fixture
def quick_tick(monkeypatch):
    monkeypatch.setattr(live, "TICK_SECONDS", 0.05)


# --- the whole site, over a real socket ---------------------------------------------------------


@pytest.fixture
def site(transactional_db):
    whole = Site()
    with served(whole) as address:
        yield address
        whole.lane.stop_holding()
    whole.close()


@pytest.fixture
def session(transactional_db):
    client = Client()
    client.force_login(make.user())
    return client


def open_page(site, session=None, origin: str = "http://localhost", after: int | None = None):
    host, port = site
    headers = {"Cookie": f"sessionid={session.cookies['sessionid'].value}"} if session else {}
    query = "" if after is None else f"?after={after}"
    return connect(
        f"ws://{host}:{port}/ws/live/{query}", origin=origin, additional_headers=headers,
        open_timeout=10, close_timeout=1,
    )  # fmt: skip


def next_message(page, kind: str) -> dict:
    while True:
        message = json.loads(page.recv(timeout=10))
        if message.get("kind") == kind:
            return message


def test_an_event_reaches_a_signed_in_page_at_once(site, session):
    with open_page(site, session) as page:
        next_message(page, "hello")
        began = time.monotonic()
        job = make.job()

        assert next_message(page, "job")["job"] == job.pk
        assert time.monotonic() - began < 5


def test_a_page_that_comes_back_has_missed_and_repeats_nothing(site, session):
    told = []
    after = live.newest_seq()
    for _ in range(3):
        make.job()
        with open_page(site, session, after=after) as page:
            told.append(next_message(page, "job")["seq"])
            make.job()
            told.append(next_message(page, "job")["seq"])
        after = told[-1]

    assert told == list(JobEvent.objects.order_by("pk").values_list("pk", flat=True))


@pytest.mark.skipif(not redis_runs(), reason="no Redis here")
def test_an_event_reaches_a_page_by_redis(session, settings, transactional_db):
    settings.LAB_REDIS_URL = REDIS_URL
    hosts = [{"address": REDIS_URL, "socket_timeout": None}]
    backend = "channels_redis.pubsub.RedisPubSubChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": {"hosts": hosts}}}
    one, other = Site(), Site()
    with (
        served(one) as here,
        served(other) as there,
        open_page(here, session) as page,
        open_page(there, session) as elsewhere,
    ):
        for each in (page, elsewhere):
            next_message(each, "hello")
        job = make.job()

        assert next_message(page, "job")["job"] == job.pk
        assert next_message(elsewhere, "job")["job"] == job.pk
    for whole in (one, other):
        whole.close()


@pytest.mark.parametrize("origin", ["http://evil.example", None])
def test_another_sites_page_is_not_let_in(site, session, origin):
    with pytest.raises(InvalidStatus):
        open_page(site, session, origin=origin)


def test_who_is_not_signed_in_is_not_let_in(site):
    with pytest.raises(InvalidStatus):
        open_page(site)


def test_signing_out_ends_the_feed(site, session, monkeypatch):
    monkeypatch.setattr(live, "PING_SECONDS", 0.05)
    with open_page(site, session) as page:
        assert next_message(page, "ping")["seq"] == live.newest_seq()

        session.logout()

        with pytest.raises(ConnectionClosed) as closed:
            next_message(page, "never")
    assert closed.value.rcvd.code == live.SIGNED_OUT
