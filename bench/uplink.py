"""A slow line that clients share and one of them fills: whoever sends waits in its queue."""

import asyncio
from contextlib import suppress

BLOCK_BYTES = 16 * 1024
LATE_SECONDS = 1.0  # that are made up for


class Uplink:
    """Passes connections on to `port` of this host, at so many bytes a second for all together.

    What is sent waits in one queue of `queue_bytes`, as in a router, whoever sent it. Answers come
    back at once.
    """

    def __init__(self, port: int, bytes_per_second: float, queue_bytes: int) -> None:
        self._port = port
        self._rate = bytes_per_second
        self._queue: asyncio.Queue[tuple[asyncio.StreamWriter, bytes]] = asyncio.Queue(
            queue_bytes // BLOCK_BYTES
        )
        self.passed_bytes = 0
        self._serving: set[asyncio.Task[None]] = set()  # asyncio itself keeps no task alive

    async def start(self) -> int:
        """Return the port that it listens on."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=BLOCK_BYTES)
        self._sending = asyncio.ensure_future(self._send())
        self._server = server
        return int(server.sockets[0].getsockname()[1])

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        free_at = loop.time()
        while True:
            writer, block = await self._queue.get()
            # By the clock: a loop that was late is not to make the line slower than it is.
            free_at = max(free_at, loop.time() - LATE_SECONDS) + len(block) / self._rate
            await asyncio.sleep(free_at - loop.time())
            self.passed_bytes += len(block)
            if not writer.is_closing():
                writer.write(block)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection("127.0.0.1", self._port)
        back = asyncio.ensure_future(_pump(there, writer))
        try:
            while block := await reader.read(BLOCK_BYTES):
                await self._queue.put((here, block))
        except (OSError, asyncio.CancelledError):
            pass  # the client has given up, or the measurement is over
        finally:
            back.cancel()
            here.close()
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while block := await reader.read(BLOCK_BYTES):
            writer.write(block)
        writer.close()
