"""A checkpoint over a line that is cut ten times: how much is sent twice.

The agent's own code sends a file to a `runlab` through a proxy that resets the connection at ten
places of it, some in the middle of a chunk. After each cut the agent asks how far the server is
and goes on from there; counted is what had left by then and was in vain. What comes of it is
compared with the file.
"""

import argparse
import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent import wire
from agent.transport import Body, Transport
from bench.sender import Sender, begin
from bench.server import Server, running, wait_for
from bench.whole_file import send, write
from tests.faults.proxy import FaultProxy

BYTES = 5 * 10**9
CUTS = 10
CHUNK_BYTES = wire.MAX_UPLOAD_CHUNK_BYTES  # what a server did not answer for is at most one
CUT_SECONDS = 3600.0


@dataclass
class Line:
    """What the agent let go of to the server, and how far that was each time it asked."""

    passed: int = 0
    in_vain: list[int] = field(default_factory=list)  # in all, as known at each asking

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        blocks, ask = Body.__iter__, Transport.upload_offset

        def counted(body: Body) -> Iterator[bytes]:
            for block in blocks(body):
                self.passed += len(block)
                yield block

        def asked(transport: Transport, *which: Any) -> int:
            offset = ask(transport, *which)
            self.in_vain.append(self.passed - offset)
            return offset

        Body.__iter__, Transport.upload_offset = counted, asked  # type: ignore[method-assign]
        try:
            yield
        finally:
            Body.__iter__, Transport.upload_offset = blocks, ask  # type: ignore[method-assign]

    @property
    def sent_again(self) -> list[int]:
        """After each time that it asked but the first."""
        return [now - before for before, now in zip(self.in_vain, self.in_vain[1:], strict=False)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=BYTES)
    size = parser.parse_args().bytes
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, running(agent=False) as server:
        sender = begin(server)
        path = Path(folder) / f"{sender.run_name}.pt"
        write(path, size)
        began = time.perf_counter()
        again = cut(sender, path, size)
        seconds = time.perf_counter() - began
        stored = server.folder / "data" / "logs" / sender.project / path.name
        is_whole = same(path, stored) and is_confirmed(server, sender, path.name)
    print(f"{size / 1e9:.1f} GB in {seconds:.0f} s, cut {len(again)} times;", end=" ")
    mean = sum(again) / len(again)
    print("sent again:", ", ".join(f"{count / 1e6:.1f}" for count in again), end=" ")
    print(f"MB, {mean / 1e6:.1f} MB a cut (to hold: < {CHUNK_BYTES / 1e6:.1f} MB; none above it)")
    print("it arrived whole" if is_whole else "what arrived is NOT the file")
    holds = len(again) == CUTS and mean < CHUNK_BYTES and max(again) <= CHUNK_BYTES
    return 0 if is_whole and holds else 1


def cut(sender: Sender, path: Path, size: int) -> list[int]:
    """Send it, with the line cut ten times; how many bytes went twice at each."""
    line = Line()
    address = urlsplit(sender.url)
    with line.watched(), FaultProxy((str(address.hostname), address.port or 80)) as proxy:
        through = Sender(**{**asdict(sender), "url": proxy.url})
        sending = threading.Thread(target=send, args=(through, path.parent, path.name))
        sending.start()
        for number in range(CUTS):
            wait_for(lambda: line.passed > (number + 0.5) * size / CUTS, "a cut", CUT_SECONDS)  # noqa: B023
            proxy.reset_after_bytes = 1
        sending.join()
    return line.sent_again


def same(one: Path, other: Path) -> bool:
    with one.open("rb") as here, other.open("rb") as there:
        while block := here.read(1024 * 1024):
            if block != there.read(len(block)):
                return False
        return not there.read(1)


def is_confirmed(server: Server, sender: Sender, name: str) -> bool:
    status = server.get(f"/api/sync/status/{sender.experiment_uid}")
    return bool(status["data"]["files"][name]["complete"])


if __name__ == "__main__":
    sys.exit(main())
