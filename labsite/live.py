"""What browsers hear: one WebSocket a page, and one tailer a process that feeds them all.

A message says what changed, by ids and sizes; a page fetches the rest over HTTP.

    {"seq": 812, "kind": "job", "job": 7, "sweep": 3, "event": "started",
     "state": "running"}                                  durable: one for each JobEvent
    {"kind": "file", "id": 91, "size": 2048}              transient: at most 3/s for each object
    {"kind": "devices", "states": {"stale": [4, 9]}}      heard from, or of another state now
    {"kind": "device", "id": 4}                           something else about it changed
    {"kind": "dispatch", "id": null}                      whether runs are given out has changed
    {"kind": "hello", "seq": 812, "build": "9f…",         once, when all missed is sent
     "devices": {"4": "stale"}}
    {"kind": "ping", "seq": 812}                          each PING_SECONDS: the line is alive
    {"reset": true, "seq": 812}                           too much was missed: load the page anew

What is transient comes in lists where several things are told at once: 200 devices that beat each
second are one frame and not 200, for each of 50 pages.

A page connects to /ws/live/?after=N, N being the newest event it shows, and is sent all later
ones in order, each once. Whatever is lost on the way (a full channel, a lost wake-up, a sleep
of the laptop) shows as a gap in the numbers, and is read again from the rows themselves.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from typing import Any, TypeVar
from urllib.parse import parse_qs

from channels.auth import get_user
from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import DatabaseError, InterfaceError, close_old_connections, connections
from django.db.models import Max

from devices.models import Device, DeviceState
from experiments.models import JobEvent
from labsite import health
from labsite.body import Receive, Scope, Send
from labsite.build import build_id
from labsite.clock import database_now
from labsite.wake import MISSED, Wake

logger = logging.getLogger(__name__)

PATH = "/ws/live/"
PING_SECONDS = 20.0
TICK_SECONDS = 1.0
#: An object's transient messages are at least so far apart: while few objects change, and many. In
#: between so many are told of in a second, whatever they are.
SOONEST_SECONDS = 0.3
COALESCE_SECONDS = 1.0
MESSAGES_A_SECOND = 50
#: A page that missed more events than this is told to load itself anew.
WINDOW = 1000
PASSED_ON_AT_ONCE = 500
MAX_RECEIVED_CHARACTERS = 200
SIGNED_OUT = 4401

#: Wake-ups after which to look for rows; and those that no page wants to hear of.
NEWS = {"event", MISSED.kind}
UNTOLD = {"queue"}

#: Of an event and its job. No name is among it: who may read of what is decided by the pages.
_NEEDED = ("kind", "to_state", "job__sweep_id")

T = TypeVar("T")
Row = tuple[int, str]  # an event's id, and its message as JSON


# --- from the database, in a thread of its own --------------------------------------------------

_reader = ThreadPoolExecutor(1, thread_name_prefix="lab-live")


async def _read(read: Callable[..., T], *args: Any) -> T:
    def checked() -> T:
        close_old_connections()
        return read(*args)

    return await asyncio.get_running_loop().run_in_executor(_reader, checked)


def close_reader() -> None:
    """Close the thread's database connection; it opens another one when it needs it. Blocks."""
    _reader.submit(connections.close_all).result()


def newest_seq() -> int:
    """The newest event's number; 0 when nothing happened yet. A page embeds it as its `after`."""
    return JobEvent.objects.aggregate(newest=Max("pk"))["newest"] or 0


def rows_after(seq: int, limit: int) -> list[Row]:
    """The first `limit` events after `seq`, oldest first."""
    events = (
        JobEvent.objects.filter(pk__gt=seq).select_related("job").only(*_NEEDED).order_by("pk")
    )
    return [(event.pk, _told(event)) for event in events[:limit]]


def _told(event: JobEvent) -> str:
    """To whoever is signed in: so it has no names, which may be a private project's."""
    return _json(
        {
            "seq": event.pk,
            "kind": "job",
            "job": event.job_id,
            "sweep": event.job.sweep_id,
            "event": event.kind,
            "state": event.to_state or None,
        }
    )


def device_states() -> dict[int, tuple[DeviceState, Any]]:
    """Of each device: its state now, and when it was last heard from."""
    now = database_now()
    known = Device.objects.only(
        "last_heartbeat_at",
        "heartbeat_interval_seconds",
        "goodbye_at",
        "revoked_at",
        "is_demo",
        "created_at",
    )
    return {device.pk: (device.state(now), device.last_heartbeat_at) for device in known}


def _dispatch_token() -> str:
    return health.dispatch(database_now()).token


def _json(message: dict[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"))


# --- the tailer ---------------------------------------------------------------------------------


class Tailer:
    """Passes on what happens to the sockets of this process. Lives on the event loop.

    Only it calls group_send(), and on the loop: from a thread a message may wait for seconds.
    While nobody is connected it rests.
    """

    def __init__(self) -> None:
        self.group = f"live.{secrets.token_hex(4)}"  # of this process, also on a shared layer
        self.seq: int | None = None  # the newest event passed on; None: not begun
        self.devices: dict[int, tuple[DeviceState, Any]] = {}
        self._dispatch = ""
        self._sockets: set[object] = set()
        self._texts: list[str] = []
        self._coalescer = Coalescer(self._say)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """On the event loop."""
        self._joined = asyncio.Event()
        self._news = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())

    def join(self, socket: object) -> None:
        self._sockets.add(socket)
        self._joined.set()

    def leave(self, socket: object) -> None:
        self._sockets.discard(socket)
        if not self._sockets:
            self._joined.clear()

    def on_wakes(self, wakes: Sequence[Wake]) -> None:
        """Take in wake-ups. On the loop."""
        if not self._sockets:
            return
        for wake in wakes:
            if wake.kind in NEWS:
                self._news.set()
            elif wake.kind not in UNTOLD:
                self._coalescer.offer(wake)

    def _say(self, message: dict[str, Any]) -> None:
        self._texts.append(_json(message))
        self._news.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        ticks_at = 0.0
        while True:
            if not self._joined.is_set():
                self.seq = None
                await self._joined.wait()
            try:
                await self._tail()
                if loop.time() >= ticks_at:
                    ticks_at = loop.time() + TICK_SECONDS
                    await self._tell_of_devices()
                    await self._tell_of_dispatch()
                await self._flush()
            except (DatabaseError, InterfaceError) as exc:
                logger.warning("the live feed waits for the database: %s", exc)
            except Exception:
                logger.exception("the live feed failed, and goes on")
            await self._wait_for_news(until=ticks_at)

    async def _wait_for_news(self, until: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._news.wait()
        self._news.clear()

    async def _tail(self) -> None:
        """Pass on the rows after `seq`. A socket that needs older ones reads them itself."""
        if self.seq is None:
            self.seq = await _read(newest_seq)
            await self._send({"type": "live.rows", "after": self.seq, "rows": []})
        while rows := await _read(rows_after, self.seq, PASSED_ON_AT_ONCE):
            message = {"type": "live.rows", "after": self.seq, "rows": rows}
            self.seq = rows[-1][0]
            await self._send(message)

    async def _tell_of_devices(self) -> None:
        before, self.devices = self.devices, await _read(device_states)
        states: dict[str, list[int]] = {}
        for pk, (state, heard_at) in self.devices.items():
            if before.get(pk) != (state, heard_at):
                states.setdefault(state, []).append(pk)
        if states:
            self._say({"kind": "devices", "states": states})

    async def _tell_of_dispatch(self) -> None:
        before, self._dispatch = self._dispatch, await _read(_dispatch_token)
        if before != self._dispatch:
            self._say({"kind": "dispatch", "id": None})

    async def _flush(self) -> None:
        if self._texts:
            texts, self._texts = self._texts, []
            text = texts[0] if len(texts) == 1 else f"[{','.join(texts)}]"
            await self._send({"type": "live.text", "text": text})

    async def _send(self, message: dict[str, Any]) -> None:
        await get_channel_layer().group_send(self.group, message)


class Coalescer:
    """Lets an object's first wake-up through at once, and of the next ones the last, a little
    later: a row is to be in an open page within a second, and a hundred logs that grow are not to
    keep fifty pages busy."""

    def __init__(self, say: Callable[[dict[str, Any]], None]) -> None:
        self._say = say
        self._cooling: dict[tuple[str, Any], Wake | None] = {}

    def offer(self, wake: Wake) -> None:
        key = (wake.kind, wake.id)
        if key in self._cooling:
            self._cooling[key] = wake
        else:
            self._pass(key, wake)

    def _pass(self, key: tuple[str, Any], wake: Wake) -> None:
        message = {"kind": wake.kind, "id": wake.id}
        self._say(message if wake.size is None else {**message, "size": wake.size})
        self._cooling[key] = None
        asyncio.get_running_loop().call_later(self.pause_seconds, self._cool, key)

    @property
    def pause_seconds(self) -> float:
        """Between two messages of one object, while as many change as now."""
        soon = max(SOONEST_SECONDS, len(self._cooling) / MESSAGES_A_SECOND)
        return min(COALESCE_SECONDS, soon)

    def _cool(self, key: tuple[str, Any]) -> None:
        latest = self._cooling.pop(key)
        if latest is not None:
            self._pass(key, latest)


# --- one socket ---------------------------------------------------------------------------------


class Live(AsyncWebsocketConsumer):
    """One page's socket. Channels hands it one message at a time, so `seq` needs no lock."""

    def __init__(self, tailer: Tailer) -> None:
        super().__init__()
        self._tailer = tailer
        self._seq = 0  # the newest event sent to the page
        self._may_say_after = False
        self._beating: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # also when the page vanished in the middle of something
            if self._beating:
                self._beating.cancel()
            self._tailer.leave(self)
            await self.channel_layer.group_discard(self._tailer.group, self.channel_name)

    async def connect(self) -> None:
        if not self.scope["user"].is_authenticated:
            await self.close()
            return
        await self.accept()
        # From here on nothing new is missed; what it is told twice it passes on once.
        await self.channel_layer.group_add(self._tailer.group, self.channel_name)
        self._tailer.join(self)
        after = _number(
            parse_qs(self.scope["query_string"].decode("latin-1")).get("after", [""])[0]
        )
        self._may_say_after = after is None
        await self._begin(after)
        self._beating = asyncio.ensure_future(self._beat())

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """{"after": N}, for a page that did not say it in the address; once."""
        if not self._may_say_after or len(text_data or "") > MAX_RECEIVED_CHARACTERS:
            return
        with suppress(ValueError, TypeError, KeyError):
            after = _number(str(json.loads(text_data or "")["after"]))
            if after is not None:
                self._may_say_after = False
                await self._begin(after)

    async def _begin(self, after: int | None) -> None:
        self._seq = await _read(newest_seq) if after is None else after
        await self._catch_up()
        devices = {pk: state for pk, (state, _) in self._tailer.devices.items()}
        hello = {"kind": "hello", "seq": self._seq, "build": build_id(), "devices": devices}
        await self.send(_json(hello))

    async def _catch_up(self) -> None:
        """Send all rows after `seq`, or tell the page that they are too many."""
        rows = await _read(rows_after, self._seq, WINDOW + 1)
        newest = rows[-1][0] if rows else await _read(newest_seq)
        if len(rows) > WINDOW or newest < self._seq:  # or of another database: a restored backup
            self._seq = await _read(newest_seq)
            await self.send(_json({"reset": True, "seq": self._seq}))
            return
        await self._pass_on(rows)

    async def _pass_on(self, rows: Sequence[Row]) -> None:
        for seq, text in rows:
            if seq > self._seq:
                await self.send(text)
                self._seq = seq

    # --- from the channel layer -----------------------------------------------------------------

    async def live_rows(self, message: dict[str, Any]) -> None:
        if message["after"] > self._seq:  # something before these never came
            await self._catch_up()
        await self._pass_on(message["rows"])

    async def live_text(self, message: dict[str, Any]) -> None:
        await self.send(message["text"])

    async def live_beat(self, message: dict[str, Any]) -> None:
        """Say that the line is alive, once it is sure that it is."""
        if not await self._is_signed_in():
            await self.close(SIGNED_OUT)
            return
        # The layer takes a channel that was slow out of its groups.
        await self.channel_layer.group_add(self._tailer.group, self.channel_name)
        if (self._tailer.seq or 0) > self._seq:
            await self._catch_up()
        await self.send(_json({"kind": "ping", "seq": self._seq}))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            with suppress(ChannelFull):  # by the layer: one thing at a time
                await self.channel_layer.send(self.channel_name, {"type": "live.beat"})

    async def _is_signed_in(self) -> bool:
        """Asked of the session as it is stored now: a logout ends the feed as well."""
        store = import_module(settings.SESSION_ENGINE).SessionStore
        user = await get_user({"session": store(self.scope["session"].session_key)})
        return bool(user.is_authenticated)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def door(tailer: Tailer) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The ASGI application for WebSockets: there is one address."""
    live = Live.as_asgi(tailer=tailer)

    async def enter(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == PATH:
            await live(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    return enter
