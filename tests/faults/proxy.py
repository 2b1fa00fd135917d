"""A TCP proxy on loopback that does to connections what networks do.

Its faults are set and taken away while it runs, from any thread:

    with FaultProxy(("127.0.0.1", 8000)) as proxy:
        proxy.lose_answers("/api/agent/poll", times=3)  # handled by the server, never heard of
        proxy.cut()                                     # a cable pulled: resets, refusals
        proxy.heal()
"""

import asyncio
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

BLOCK_BYTES = 64 * 1024
START_SECONDS = 5.0
PLANS = ("lose answer", "lose request", "flip")
_REQUEST = re.compile(rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE) (\S+) HTTP/1\.[01]\r\n")


class FaultProxy:
    """Passes connections on to `upstream`, (host, port), which may be changed at any time.

    `latency_seconds`, `bytes_per_second` and `reset_after_bytes` hold from the next block on.
    The last is counted per connection in both directions together, and spent by the first one
    that reaches it.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self.latency_seconds = 0.0
        self.bytes_per_second: float | None = None
        self.reset_after_bytes: int | None = None
        self.connections = 0
        self.happened: Counter[str] = Counter()  # of what was planned
        self.lost: Counter[str] = Counter()  # answers that never arrived, by request path
        #: What → how many more, by the beginning of a path.
        self._plans: dict[str, Counter[str]] = {what: Counter() for what in PLANS}
        self._is_cut = False
        self._is_silent = False
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)
        self._up = threading.Event()

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        assert self._up.wait(START_SECONDS)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # --- faults ---

    def cut(self) -> None:
        """Reset all connections, and each new one."""
        self._is_cut = True
        self._on_loop(lambda: [link.reset() for link in list(self._links)])

    def fall_silent(self) -> None:
        """Half-open: connections stay, new ones are taken, and nothing comes through any more.

        Those are dead for good, as they would be; heal() is for the next ones.
        """
        self._is_silent = True
        self._on_loop(lambda: [link.fall_silent() for link in self._links])

    def lose_answers(self, path: str, times: int) -> None:
        """Let the server answer the next `times` requests whose path begins so, and reset the
        connection instead of passing the answer on."""
        self._plans["lose answer"][path] = times

    def lose_requests(self, path: str, times: int) -> None:
        """Reset the connection of the next `times` requests whose path begins so: the server
        never hears of them."""
        self._plans["lose request"][path] = times

    def flip_bodies(self, path: str, times: int) -> None:
        """Change a bit in the bodies of the next `times` requests whose path begins so."""
        self._plans["flip"][path] = times

    def heal(self) -> None:
        """Take all faults away."""
        self._is_cut = self._is_silent = False
        self.latency_seconds, self.bytes_per_second = 0.0, None
        self.reset_after_bytes = None
        for plan in self._plans.values():
            plan.clear()

    # --- the loop's thread ---

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = server.sockets[0].getsockname()[1]
        self._up.set()
        self._loop.run_forever()
        server.close()
        for link in list(self._links):
            link.reset()
        if tasks := asyncio.all_tasks(self._loop):
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=START_SECONDS))
        self._loop.close()

    def _on_loop(self, action: Callable[[], object]) -> None:
        """Do it there, and return when it is done."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (action(), done.set()))
        assert done.wait(START_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._is_cut:
            return _reset(writer)
        link = _Link(self, reader, writer, silent=self._is_silent)
        self._links.add(link)
        try:
            await link.live()
        finally:
            self._links.discard(link)
        return None

    def takes(self, what: str, path: str) -> bool:
        """Whether this is to happen to a request for `path`; counts it if so."""
        for beginning, left in self._plans[what].items():
            if left and path.startswith(beginning):
                self._plans[what][beginning] = left - 1
                self.happened[what] += 1
                return True
        return False

    def spends(self, passed_bytes: int) -> bool:
        """Whether a connection that passed so many bytes is to be reset now."""
        if self.reset_after_bytes is None or passed_bytes < self.reset_after_bytes:
            return False
        self.reset_after_bytes = None
        return True


class _Link:
    """A client's connection and the one to the server behind it."""

    def __init__(
        self,
        proxy: FaultProxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        silent: bool,
    ) -> None:
        self._proxy = proxy
        self._client = reader, writer
        self._writers = [writer]
        self._silent = silent
        self._is_reset = asyncio.Event()
        self._passed_bytes = 0
        self._asks = True  # the client has not spoken since the last answer
        self._losing: str | None = None  # the path whose answer is to be lost
        self._flips = False  # a bit of the body that comes

    async def live(self) -> None:
        reader, writer = self._client
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._proxy.upstream)
        except OSError:
            return self.reset()
        self._writers.append(server_writer)
        pumps = [
            asyncio.create_task(self._pump(reader, server_writer, self._watch_request)),
            asyncio.create_task(self._pump(server_reader, writer, self._watch_answer)),
        ]
        # An agent closes both directions at once; one that is half closed serves nobody here.
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for each in self._writers:
            each.close()
        return None

    def reset(self) -> None:
        self._is_reset.set()
        for writer in self._writers:
            _reset(writer)

    def fall_silent(self) -> None:
        self._silent = True

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        watch: Callable[[bytes], bytes | None],
    ) -> None:
        with suppress(OSError):
            while block := await reader.read(BLOCK_BYTES):
                await self._delay(len(block))
                if self._silent:
                    continue
                passed = watch(block)
                if passed is None:
                    return self.reset()
                writer.write(passed)
                await writer.drain()
        if self._silent:
            await self._is_reset.wait()  # the other side never learns that this one is gone
        return None

    async def _delay(self, count: int) -> None:
        seconds = self._proxy.latency_seconds
        if rate := self._proxy.bytes_per_second:
            seconds += count / rate
        if seconds:
            await asyncio.sleep(seconds)

    # What is to be passed on of a block; None: nothing, and the end of the connection.

    def _watch_request(self, block: bytes) -> bytes | None:
        if self._asks and (request := _REQUEST.match(block)):
            path = request[1].decode("ascii", "replace")
            if self._proxy.takes("lose request", path):
                return None
            self._losing = path if self._proxy.takes("lose answer", path) else None
            self._flips = self._proxy.takes("flip", path)
        self._asks = False
        return self._goes_on(self._flipped(block) if self._flips else block)

    def _flipped(self, block: bytes) -> bytes:
        """With a bit of the body wrong, if any of the body is in it."""
        begins = block.find(b"\r\n\r\n") + 4 if _REQUEST.match(block) else 0
        if begins == len(block):
            return block
        self._flips = False
        at = (begins + len(block)) // 2
        return block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :]

    def _watch_answer(self, block: bytes) -> bytes | None:
        self._asks = True
        if self._losing is not None:
            self._proxy.lost[self._losing] += 1
            return None
        return self._goes_on(block)

    def _goes_on(self, block: bytes) -> bytes | None:
        self._passed_bytes += len(block)
        return None if self._proxy.spends(self._passed_bytes) else block


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once and rudely: the other side sees "connection reset", not an end."""
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
