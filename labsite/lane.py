"""The agents' door: heartbeats and polls, at thousands a second, and polls that are held.

    token's digest → decode → writer (group commit) → answer, or hold

The lane only queues and answers. What a heartbeat or a poll means stands in devices.heartbeat
and experiments.leases, and behind the DRF views of the same addresses, which answer the same.

A poll is held while the answer would be the one that the agent has carried out already (its
`known_revision`), at most as long as it wishes. A wake-up about its device has it looked at
again, and so does a slow sweep, should a wake-up be lost.
"""

import asyncio
import heapq
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rest_framework.exceptions import NotAuthenticated

from agent import wire
from devices.auth import token_of
from devices.models import digest
from experiments.leases import Call
from labsite.answer import Answer, failure, json_answer, refusal, refuse_unread, send_answer
from labsite.api import message, refusal_of
from labsite.body import Disconnected, Receive, Scope, Send, length_of, whole
from labsite.errors import Refused
from labsite.wake import MISSED, Wake
from labsite.writer import Writer

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0
#: Held polls that one sweep looks at: all of thousands would hold up the heartbeats beside them.
SWEPT = 200

#: Path -> what is posted there, and how many bytes of it.
ROUTES: dict[str, tuple[type, int]] = {
    "/api/devices/heartbeat": (wire.Heartbeat, wire.MAX_HEARTBEAT_BYTES),
    "/api/agent/poll": (wire.Poll, wire.MAX_POLL_BYTES),
}


@dataclass(eq=False)
class Held:
    """A poll whose answer is kept back. `reply` is what it would be, as last looked."""

    call: Call
    reply: wire.PollReply
    answered: asyncio.Future[wire.PollReply]
    is_due: bool = False
    swept: int = 0  # how often: the net beneath wake-ups takes turns

    def look_at(self, reply: wire.PollReply | Exception) -> None:
        """Answer with `reply` if it is news or time is up; an exception is no news."""
        if not isinstance(reply, Exception):
            self.reply = reply
        if self.is_due or self.reply.revision != self.call.message.known_revision:
            self.answer()

    def answer(self) -> None:
        if not self.answered.done():
            self.answered.set_result(self.reply)


class Lane:
    """The ASGI application for ROUTES. One for each process; call start() on its loop first."""

    def __init__(self) -> None:
        self._writer = Writer()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held: dict[tuple[int, str], Held] = {}
        self._to_look_at: set[Held] = set()
        self._looking: asyncio.Task[None] | None = None
        #: So many times something woke us; when it was a device for the last time, and when all.
        self._wakes = 0
        self._woken: dict[Any, int] = {}
        self._missed = 0
        self._is_closing = False

    def start(self) -> None:
        """Begin to write, to stamp and to sweep. On the event loop."""
        self._loop = asyncio.get_running_loop()
        self._writer.start()
        self._sweep()

    def stop_holding(self) -> None:
        """Answer all held polls now, and hold none from now on. Any thread or signal handler
        may call it; the server can then stop without waiting for anybody."""
        self._is_closing = True
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._answer_all)

    def close(self) -> None:
        """End the writer's thread, after what waits there. Blocks; for tests."""
        self._is_closing = True
        self._answer_all()
        self._writer.stop()

    @staticmethod
    def is_for(scope: Scope) -> bool:
        return scope["method"] == "POST" and scope["path"] in ROUTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cls, limit = ROUTES[scope["path"]]
        try:
            body = await whole(receive, length_of("POST", scope["headers"], limit))
        except Disconnected:
            return
        except Refused as refused:
            await refuse_unread(refused, receive, send)
            return
        await send_answer(await self._answer(cls, scope, body), "POST", receive, send)

    async def _answer(self, cls: type, scope: Scope, body: bytes) -> Answer:
        try:
            token = _token(scope["headers"])
            reply = await self._reply(digest(token), _decoded(cls, body))
        except Exception as exc:
            return _refused(exc)
        return json_answer(wire.dumps(reply))

    async def _reply(self, token_sha256: str, said: Any) -> Any:
        wakes = self._wakes
        device_id, reply = await self._writer.ask(token_sha256, said)
        if not isinstance(said, wire.Poll) or not self._may_hold(said, reply):
            return reply
        return await self._hold(Call(device_id, said), reply, wakes)

    # --- holding --------------------------------------------------------------------------------

    def _may_hold(self, poll: wire.Poll, reply: wire.PollReply) -> bool:
        known = reply.revision == poll.known_revision
        return known and poll.wait_seconds > 0 and not self._is_closing

    async def _hold(self, call: Call, reply: wire.PollReply, wakes: int) -> wire.PollReply:
        """
        Args:
            wakes: the number of wake-ups before `reply` was made: of later ones it may not know.
        """
        loop = asyncio.get_running_loop()
        held = Held(call, reply, loop.create_future())
        key = (call.device_id, call.message.instance_id)
        if earlier := self._held.get(key):
            earlier.answer()  # its agent has given it up, or it would not poll again
        self._held[key] = held
        end = loop.call_later(call.message.wait_seconds, self._time_is_up, held)
        if max(self._missed, self._woken.get(call.device_id, 0)) > wakes:
            self._look_at([held])
        try:
            return await held.answered
        finally:
            end.cancel()
            if self._held.get(key) is held:
                del self._held[key]

    def on_wakes(self, wakes: Sequence[Wake]) -> None:
        """Have the held polls looked at that these wake-ups may be about. On the loop."""
        self._wakes += 1
        devices = {wake.id for wake in wakes if wake.kind == "device"}
        self._woken |= dict.fromkeys(devices, self._wakes)
        if MISSED in wakes:
            self._missed = self._wakes
            self._look_at(self._held.values())
        elif devices:
            self._look_at(h for h in self._held.values() if h.call.device_id in devices)

    def _time_is_up(self, held: Held) -> None:
        held.is_due = True
        self._look_at([held])

    def _sweep(self) -> None:
        swept = heapq.nsmallest(SWEPT, self._held.values(), key=lambda held: held.swept)
        for held in swept:
            held.swept += 1
        self._look_at(swept)
        if self._loop and not self._is_closing:
            self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _answer_all(self) -> None:
        for held in list(self._held.values()):
            held.answer()

    def _look_at(self, held: Iterable[Held]) -> None:
        """Look at these soon, together with what else gathers until the writer comes to it."""
        self._to_look_at.update(held)
        if self._to_look_at and self._looking is None:
            self._looking = asyncio.ensure_future(self._look())
            self._looking.add_done_callback(self._has_looked)

    async def _look(self) -> None:
        while self._to_look_at:
            now = [held for held in self._to_look_at if not held.answered.done()]
            self._to_look_at.clear()
            replies = await self._writer.look([held.call for held in now])
            for held, reply in zip(now, replies, strict=True):
                held.look_at(reply)

    def _has_looked(self, looked: "asyncio.Task[None]") -> None:
        self._looking = None
        if not looked.cancelled() and looked.exception():
            logger.error("held polls were not looked at", exc_info=looked.exception())


def _token(headers: Iterable[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == b"authorization" and (token := token_of(value.decode("latin-1"))):
            return token
    raise NotAuthenticated


def _decoded(cls: type, body: bytes) -> Any:
    """The message in `body`; or why there is none, to be told once its sender is known."""
    try:
        return message(cls, wire.loads(body))
    except (wire.Malformed, Refused) as exc:
        return exc


def _refused(exc: Exception) -> Answer:
    refused = refusal_of(exc)
    if refused is None:
        logger.error("a request failed in the lane", exc_info=exc)
        return failure()
    if refused.status == 401:
        return refusal(refused, **{"www-authenticate": 'Bearer realm="device"'})
    return refusal(refused)
