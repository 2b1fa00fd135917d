"""A checkpoint from an agent's disk to the server's, as both do it, and what memory it takes.

The agent's own code sends it from a process of its own over loopback: it reads and hashes the
file, sends it in chunks of 8 MiB, each on the server's disk before it is answered, and the
server compares the hash of the whole. Beside it cp and rsync copy the same file, and fsync it.
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

import psutil

from agent import shim
from agent.files import upload
from agent.files.filejournal import FileJournal
from agent.files.regular import Mark
from agent.files.runfiles import RunFiles
from agent.store import Store
from agent.transport import Transport
from bench.idle import seconds as cpu_seconds
from bench.sender import Sender, begin
from bench.server import Server, running

SIZE_BYTES = 2 * 1024**3
HOLD_TO_RATE = 130e6  # bytes a second
HOLD_TO_GROWTH_BYTES = 64 * 1024**2
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
        return 0 if sent(server, sender, path, size) else 1


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
    if not shutil.which("rsync"):
        print("rsync is not installed, so it is not compared with")
        return
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
