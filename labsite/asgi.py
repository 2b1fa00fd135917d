"""The doors: WebSockets to Channels, heartbeats and polls to the lane, what grows to the deltas'
own, all else to Django in the pool. Beside them a thread tells people what happened (telling/).

The loops behind them begin with the first request, whichever door it comes to: daphne knows no
lifespan, and under `runserver` no process should have them that serves nothing.
"""

import asyncio
import logging
import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "labsite.settings")
django.setup()

from asgiref.sync import sync_to_async  # noqa: E402 - after setup(), as all below
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.db import connections  # noqa: E402

from labsite import live, wake  # noqa: E402
from labsite.answer import refuse_unread  # noqa: E402
from labsite.body import Receive, Scope, Send  # noqa: E402
from labsite.deltas import Deltas  # noqa: E402
from labsite.lane import Lane  # noqa: E402
from labsite.pool import Pool  # noqa: E402
from labsite.telling.sender import Sender  # noqa: E402
from labsite.turns import TooManyAtOnce, Turns  # noqa: E402

logger = logging.getLogger(__name__)

HEAR_AGAIN_SECONDS = 1.0


class Site:
    """All that one web process serves."""

    def __init__(self) -> None:
        self.lane = Lane()
        self.pool = Pool()
        self.deltas = Deltas(self.pool)
        self._alive, self._turns = Turns(), Turns()  # a host's own files never silence it
        self.tailer = live.Tailer()
        self._sender = Sender()
        self._sockets = AllowedHostsOriginValidator(AuthMiddlewareStack(live.door(self.tailer)))
        self._hearing: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._start()
        if scope["type"] == "websocket":
            await self._sockets(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await self._answered(scope, receive, send)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            door = self._door(scope)
            turns = self._alive if door is self.lane else self._turns
            with turns.of(scope["headers"]):
                await door(scope, receive, send)
        except TooManyAtOnce as refused:
            await refuse_unread(refused, receive, send)

    def _door(self, scope: Scope) -> Lane | Deltas | Pool:
        if self.lane.is_for(scope):
            return self.lane
        return self.deltas if self.deltas.is_for(scope) else self.pool

    def close(self) -> None:
        """End the threads and their database connections. Blocks; after the server has ended."""
        self._sender.close()
        self.lane.close()
        self.deltas.close()
        self.pool.close()
        live.close_reader()
        asyncio.run(sync_to_async(connections.close_all)())  # of Channels' own thread

    def _start(self) -> None:
        if self._hearing is None:
            self.lane.start()
            self.deltas.start()
            self.tailer.start()
            self._sender.start()
            self._hearing = asyncio.ensure_future(self._hear())

    async def _hear(self) -> None:
        """Pass wake-ups on, for ever: this process has one mailbox."""
        while True:
            try:
                async for wakes in wake.listen():
                    self.lane.on_wakes(wakes)
                    self.tailer.on_wakes(wakes)
                    self._sender.on_wakes(wakes)
            except Exception:
                logger.exception("wake-ups are not heard")
            await asyncio.sleep(HEAR_AGAIN_SECONDS)


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing depends on it; but a server that asks is told that we are ready."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


application = Site()


def stopping() -> None:
    """Call it on SIGTERM, before the server begins to stop: all held polls are answered, and
    the server has nobody to wait for. Any thread and any signal handler may call it."""
    application.lane.stop_holding()
