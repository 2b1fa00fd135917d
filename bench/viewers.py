"""Whether people who look slow down the machines: heartbeats with and without 50 viewers.

200 devices beat once a second each, spread over the second as agents are. First by themselves;
then beside 50 live sockets, each of which is told of every device every second; then beside 50
pages that besides ask for the list of devices as a page's script does: when something came, with
a pause of five times what the answer took, and of two seconds at least.

Real server process, real sockets and real HTTP, from this process and so from the same cores.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator

import uvloop
from websockets.asyncio.client import connect

from bench.heartbeats import Agent, agents, percentile, server

HOLD_TO_P99_MS = 100.0
#: On a machine that is busy with other things: beside what is measured while nobody looks.
HOLD_TO_RATIO = 2.0
PAUSE_SECONDS = 2.0
PART = "/devices/?part=list"


def sign_in() -> str:
    """A viewer's cookie."""
    from django.conf import settings
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.models import User
    from django.contrib.sessions.backends.db import SessionStore

    user = User.objects.create_user("viewer")
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return f"{settings.SESSION_COOKIE_NAME}={session.session_key}"


class Viewer:
    """One page's line, and where it fetches, its requests."""

    def __init__(self, port: int, cookie: str, *, fetches: bool) -> None:
        self.messages = 0
        self.fetched = 0
        self._port = port
        self._cookie = cookie
        self._fetches = fetches
        self._news = asyncio.Event()

    async def watch(self) -> None:
        address = f"ws://127.0.0.1:{self._port}/ws/live/"
        headers = {"Cookie": self._cookie, "Origin": f"http://127.0.0.1:{self._port}"}
        async with connect(address, additional_headers=headers) as socket:
            async for text in socket:
                json.loads(text)
                self.messages += 1
                self._news.set()

    async def fetch(self) -> None:
        if not self._fetches:
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while True:
            await self._news.wait()
            self._news.clear()
            began = time.perf_counter()
            writer.write(
                f"GET {PART} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\n"
                f"cookie: {self._cookie}\r\nx-part: 1\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head[:200]
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            self.fetched += 1
            await asyncio.sleep(max(PAUSE_SECONDS, 5 * (time.perf_counter() - began)))


@contextlib.asynccontextmanager
async def watching(viewers: list[Viewer]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(viewer.watch()) for viewer in viewers]
    tasks += [asyncio.ensure_future(viewer.fetch()) for viewer in viewers]
    try:
        async with asyncio.timeout(30):
            while not all(viewer.messages for viewer in viewers):
                check(tasks)
                await asyncio.sleep(0.05)
        yield
        check(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def check(tasks: list[asyncio.Future[None]]) -> None:
    """Raises: what ended one of them, as a viewer that is not let in."""
    for task in tasks:
        if task.done() and task.exception():
            raise task.exception()


async def beat_for(crowd: list[Agent], seconds: float) -> list[float]:
    """Each once a second, at its own moment of it; the seconds that each answer took."""
    for agent in crowd:
        agent.took_seconds.clear()
    end = time.perf_counter() + seconds

    async def keep_beating(agent: Agent, offset: float) -> None:
        await asyncio.sleep(offset)
        while (began := time.perf_counter()) < end:
            await agent.beat()
            await asyncio.sleep(max(0.0, 1 - (time.perf_counter() - began)))

    await asyncio.gather(*(keep_beating(a, n / len(crowd)) for n, a in enumerate(crowd)))
    return [seconds for agent in crowd for seconds in agent.took_seconds]


async def measure(port: int, cookie: str, options: argparse.Namespace) -> bool:
    crowd = await agents(port, options.devices, options.gpus)
    alone = report("nobody looks", await beat_for(crowd, options.seconds), HOLD_TO_P99_MS)
    held = []
    for fetches, words in ((False, "live sockets"), (True, "pages that fetch")):
        viewers = [Viewer(port, cookie, fetches=fetches) for _ in range(options.viewers)]
        async with watching(viewers):
            told, asked = sum(v.messages for v in viewers), sum(v.fetched for v in viewers)
            took = await beat_for(crowd, options.seconds)
            told = sum(v.messages for v in viewers) - told
            asked = sum(v.fetched for v in viewers) - asked
        rates = f"{told / options.seconds:,.0f} frames/s, {asked / options.seconds:.1f} fetches/s"
        bound = max(HOLD_TO_P99_MS, HOLD_TO_RATIO * alone)
        held.append(report(f"{options.viewers} {words} ({rates})", took, bound) <= bound)
    failures = sum(agent.failures for agent in crowd)
    print(f"failures: {failures}")
    return all(held) and failures == 0


def report(words: str, took: list[float], bound: float) -> float:
    """Print it, and return the p99 in milliseconds."""
    p99 = percentile(took, 99)
    print(
        f"{words}: {len(took):,} heartbeats, p50 {percentile(took, 50):.1f} ms, "
        f"p99 {p99:.1f} ms (bound {bound:.0f})",
        flush=True,
    )
    return p99


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--viewers", type=int, default=50)
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--gpus", type=int, default=4, help="of each device")
    parser.add_argument("--seconds", type=float, default=12)
    options = parser.parse_args()
    with server(options.devices) as port:
        held = uvloop.run(measure(port, sign_in(), options))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
