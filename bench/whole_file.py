"""A checkpoint from an agent's disk to the server's, as both do it, and what memory it takes.

The agent's own code sends it from a process of its own over loopback: it reads and hashes the
file, sends it in chunks of 8 MiB, each on the server's disk before it is answered, and the
server compares the hash of the whole. Beside it cp and rsync copy the same file, and fsync it.
Then the same once more over a line that is cut ten times.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from json import dumps, loads
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from agent import shim, upload, wire
from agent.filejournal import FileJournal
from agent.runfiles import Mark, RunFiles
from agent.store import Store
from agent.transport import Body, Transport
from bench.idle import seconds as cpu_seconds
from bench.sender import Sender, begin
from bench.server import Server, running, wait_for
from tests.faults.proxy import FaultProxy

SIZE_BYTES = 2 * 1024**3
HOLD_TO_RATE = 130e6  # bytes a second
HOLD_TO_GROWTH_BYTES = 64 * 1024**2
CUTS = 10
LOOK_SECONDS = 0.05
BLOCK_BYTES = 16 * 1024**2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mebibytes", type=int, default=SIZE_BYTES // 1024**2)
    parser.add_argument("--send", nargs=3, metavar=("SENDER", "FOLDER", "NAME"))
    options = parser.parse_args()
    if options.send:
        sender, folder, name = options.send
        return send(Sender(**loads(sender)), Path(folder), name)
    return measure(options.mebibytes * 1024**2)


def measure(size: int) -> int:
    with tempfile.TemporaryDirectory(prefix="bench-") as name, running(agent=False) as server:
        folder = Path(name)
        sender = begin(server)
        path = folder / f"{sender.run_name}.pt"
        write(path, size)
        for command in copies(path):
            began = time.perf_counter()
            subprocess.run(command, check=True, cwd=folder)
            synced(folder / "copy")
            told(f"{command[0]}, with fsync", size, time.perf_counter() - began)
        ours = [sent(server, sender, path, size)]
        path.rename(folder / f"{sender.run_name}.cut")
        ours.append(cut(sender, folder, f"{sender.run_name}.cut", size))
    return 0 if all(ours) else 1


def sent(server: Server, sender: Sender, path: Path, size: int) -> bool:
    [web] = [p for p in server.processes() if server.program_of(p) == "web"]
    with growth(web) as of_server:
        began, worked = time.perf_counter(), cpu_seconds(web)
        process = child(sender, path)
        with growth(psutil.Process(process.pid), ready=process) as of_agent:
            assert process.wait() == 0
        seconds = time.perf_counter() - began
    told("agent → server", size, seconds)
    worked = cpu_seconds(web) - worked
    print(f"the web process worked {worked:.1f} s for it, {worked / size * 1e9:.1f} s a GB")
    grown = {"server": of_server(), "agent": of_agent()}
    print("memory grew by", ", ".join(f"{n / 2**20:.0f} MiB ({who})" for who, n in grown.items()))
    print(f"(to hold: {HOLD_TO_RATE / 1e6:.0f} MB/s; {HOLD_TO_GROWTH_BYTES / 2**20:.0f} MiB)")
    return size / seconds >= HOLD_TO_RATE and max(grown.values()) <= HOLD_TO_GROWTH_BYTES


def child(sender: Sender, path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bench.whole_file", "--send", dumps(asdict(sender))]
    return subprocess.Popen(
        [*command, str(path.parent), path.name], stdout=subprocess.PIPE, text=True
    )


def cut(sender: Sender, folder: Path, name: str, size: int) -> bool:
    """The same once more, with the line cut ten times: what was sent twice."""
    passed = 0
    blocks = Body.__iter__

    def counted(body: Body) -> Iterator[bytes]:
        nonlocal passed
        for block in blocks(body):
            passed += len(block)
            yield block

    Body.__iter__ = counted  # type: ignore[method-assign]
    address = urlsplit(sender.url)
    with FaultProxy((str(address.hostname), address.port or 80)) as proxy:
        through = Sender(**{**asdict(sender), "url": proxy.url})
        sending = threading.Thread(target=send, args=(through, folder, name))
        sending.start()
        for number in range(CUTS):
            wait_for(lambda: passed > (number + 0.5) * size / CUTS, "the next cut", 600)  # noqa: B023
            proxy.reset_after_bytes = 1
        sending.join()
    again = (passed - size) / CUTS
    print(f"cut {CUTS} times: {again / 1e6:.1f} MB were sent again at each (to hold: < 8.4)")
    return again < wire.MAX_UPLOAD_CHUNK_BYTES


# --- the agent's side ---------------------------------------------------------------------------


def send(sender: Sender, folder: Path, name: str) -> int:
    """Send one file to its end, as a worker of the agent would."""
    number, uid = sender.number, sender.experiment_uid
    run = RunFiles("bench", uid, sender.project, sender.run_name, number, folder, exited=True)
    file = upload.Whole(run, name, FileJournal(Store(Path(":memory:"))), threading.Event())
    file.see(Mark.of((folder / name).stat()), shim.now())
    print("ready", flush=True)
    with contextlib.closing(Transport(sender.url, sender.token)) as transport:
        while not file.settled:
            file.work(transport)
            if file.parked:
                raise SystemExit(f"it was refused: {file.error}")
            time.sleep(0.01)
    return 0


# --- what is measured beside it -----------------------------------------------------------------


def write(path: Path, size: int) -> None:
    """Bytes that no compression makes smaller."""
    block = os.urandom(BLOCK_BYTES)
    with path.open("wb") as file:
        for number in range(0, size, BLOCK_BYTES):
            piece = number.to_bytes(8, "big") + block[8:]
            file.write(piece[: size - number])
        os.fsync(file.fileno())


def copies(path: Path) -> Iterator[list[str]]:
    yield ["cp", str(path), "copy"]
    (path.parent / "copy").unlink()
    if shutil.which("rsync"):
        yield ["rsync", "--append-verify", str(path), "copy"]
        (path.parent / "copy").unlink()


def synced(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def told(what: str, size: int, seconds: float) -> None:
    print(f"{what}: {size / 2**20:.0f} MiB in {seconds:.1f} s, {size / seconds / 1e6:.0f} MB/s")


@contextlib.contextmanager
def growth(
    process: psutil.Process, ready: "subprocess.Popen[str] | None" = None
) -> Iterator[Callable[[], int]]:
    """How many bytes of memory a process took more than at first, at most; a child counts from
    when it says that it is ready."""
    most, over = 0, threading.Event()
    if ready is not None and ready.stdout is not None:
        ready.stdout.readline()
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        with contextlib.suppress(psutil.NoSuchProcess):
            while not over.wait(LOOK_SECONDS):
                most = max(most, process.memory_info().rss - before)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield lambda: most
    finally:
        over.set()
        watching.join()


if __name__ == "__main__":
    sys.exit(main())
