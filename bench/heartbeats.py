"""How many durable heartbeats a second the server takes, and how fast it answers a crowd.

Three measurements: 64 beats in the same instant while 50 held polls are open; the same beside
400 clients that never come to an end; and devices that beat again as soon as they are answered.

Starts a real server process (uvicorn, SQLite with synchronous=FULL) on a fresh data folder and
loads it over real HTTP from this process, which takes its share of the same cores. A heartbeat
counts when its answer has come, and the answer comes after the commit.
"""

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import uvloop

ROOT = Path(__file__).parents[1]
SERVE = (
    "import socket, sys; from labsite.run.web import serve; "
    "serve(socket.socket(fileno=int(sys.argv[1])), None)"
)
HOLD_TO_RATE = 3350.0
HOLD_TO_P99_MS = 100.0
HOLD_TO_SLOW_P99_MS = 250.0

_lives = itertools.count(1)


@contextlib.contextmanager
def server(devices: int) -> Iterator[int]:
    """A server on a fresh data folder that knows `devices` devices; yields its port."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"LAB_DATA_DIR": folder, "LAB_SOCKET_DIR": f"{folder}/s"}
        os.environ["DJANGO_SETTINGS_MODULE"] = "labsite.settings"
        enroll(devices)
        listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        descriptor = listener.fileno()
        command = [sys.executable, "-c", SERVE, str(descriptor)]
        process = subprocess.Popen(command, cwd=ROOT, pass_fds=[descriptor])
        try:
            yield listener.getsockname()[1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(15)
            listener.close()


def enroll(count: int) -> None:
    import django

    django.setup()
    from django.core.management import call_command

    from devices.models import Device

    call_command("migrate", verbosity=0)
    Device.objects.bulk_create(
        Device(
            host_id=f"gpu-{number}",
            machine_id=f"machine-{number}",
            token_sha256=hashlib.sha256(token(number).encode()).hexdigest(),
        )
        for number in range(count)
    )


def token(number: int) -> str:
    return f"labd_{number:08d}_{'s' * 43}"


class Agent(asyncio.Protocol):
    """One device on one kept connection, with one request under way at most."""

    def __init__(self, number: int, gpus: int) -> None:
        self.took_seconds: list[float] = []
        self.failures = 0
        self._number = number
        self._life = f"life-{next(_lives)}"  # a new one may take a device over at once
        self._seq = 0
        # Made once: the load's own share of the cores is not what is measured.
        before, _, self._after = json.dumps(heartbeat(number, gpus, self._life)).partition('"SEQ"')
        self._before = before
        self._received = b""
        self._answered: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered and not self._answered.done():
            self._answered.set_exception(ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        _, _, rest = head.lower().partition(b"content-length: ")
        if len(body) < int(rest.split(b"\r\n", 1)[0]):
            return
        self._received = b""
        self.failures += not head.startswith(b"HTTP/1.1 200")
        self._answered.set_result(body)

    async def post(self, path: str, body: str) -> bytes:
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer "
            f"{token(self._number)}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        return await self._answered

    async def beat(self) -> None:
        self._seq += 1
        began = time.perf_counter()
        await self.post("/api/devices/heartbeat", f"{self._before}{self._seq}{self._after}")
        self.took_seconds.append(time.perf_counter() - began)

    async def poll(self, wait_seconds: float, known: str | None = None) -> dict:
        self._seq += 1
        fields = {"instance_id": self._life, "poll_seq": self._seq, "attempts": []}
        hold = {"wait_seconds": wait_seconds, "known_revision": known}
        return json.loads(await self.post("/api/agent/poll", json.dumps(fields | hold)))


def heartbeat(number: int, gpus: int, life: str) -> dict:
    return {
        "protocol": 1, "instance_id": life, "boot_id": life, "seq": "SEQ",
        "agent_version": "0.1.0", "interval_seconds": 1.0, "cpu_percent": 12.5,
        "cpu_count": 32, "memory_used_bytes": 2**35, "memory_total_bytes": 2**37,
        "disk_free_bytes": 2**40, "disk_total_bytes": 2**42,
        "driver_version": "570.1", "cuda_version": "12.8", "python_version": "3.11.2",
        "unix_user": "lab", "gpus": [card(number, index) for index in range(gpus)],
    }  # fmt: skip


def card(number: int, index: int) -> dict:
    return {
        "uuid": f"GPU-{number:06d}-{index}", "index": index, "name": "NVIDIA GeForce RTX 3090",
        "memory_used_bytes": 2**30, "memory_total_bytes": 24 * 2**30, "utilization_percent": 50,
        "temperature_celsius": 60, "power_watts": 250.5, "power_limit_watts": 350,
        "xid_errors": [], "ecc_errors": 0, "processes": [], "simulated": False,
    }  # fmt: skip


async def agents(port: int, count: int, gpus: int) -> list[Agent]:
    made = []
    for number in range(count):
        agent = Agent(number, gpus)
        await connected(lambda agent=agent: agent, port)
        await agent.beat()
        made.append(agent)
    for agent in made:
        agent.took_seconds.clear()
    return made


async def connected(factory, port: int) -> None:
    await asyncio.get_running_loop().create_connection(factory, "127.0.0.1", port)


async def closed_loop(port: int, options: argparse.Namespace) -> bool:
    crowd = await agents(port, options.devices, options.gpus)
    served = psutil.Process().children()[0]
    used_before = sum(served.cpu_times()[:2])
    began = time.perf_counter()
    until = began + options.seconds

    async def keep_beating(agent: Agent) -> None:
        while time.perf_counter() < until:
            await agent.beat()

    await asyncio.gather(*map(keep_beating, crowd))
    took = [seconds for agent in crowd for seconds in agent.took_seconds]
    rate = len(took) / (time.perf_counter() - began)
    used = sum(served.cpu_times()[:2]) - used_before
    print(
        f"{rate:,.0f} durable heartbeats/s from {options.devices} devices with {options.gpus} GPUs"
    )
    print(f"the server's share: {used / len(took) * 1e6:.0f} µs of a core each")
    report(took, crowd)
    return rate >= HOLD_TO_RATE


async def crowd(port: int, options: argparse.Namespace) -> bool:
    beating = await agents(port, 64, options.gpus)
    holding = []
    for number in range(64, 114):
        agent = Agent(number, options.gpus)
        await connected(lambda agent=agent: agent, port)
        await agent.beat()
        known = (await agent.poll(0))["revision"]
        holding.append(asyncio.ensure_future(agent.poll(25, known)))
    for _ in range(options.rounds):
        await asyncio.gather(*(agent.beat() for agent in beating))
        await asyncio.sleep(0.2)
    took = [seconds for agent in beating for seconds in agent.took_seconds]
    held = sum(not poll.done() for poll in holding)
    print(
        f"64 heartbeats in the same instant, {options.rounds} times, with {held} held polls open"
    )
    report(took, beating)
    for poll in holding:
        poll.cancel()
    return held == 50 and percentile(took, 99) <= HOLD_TO_P99_MS


async def beside_slow_clients(port: int, options: argparse.Namespace) -> bool:
    """200 clients that never end their headers, 200 that never end their body."""
    head = b"POST /api/jobs/ HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n"
    kept = []
    for begun in [head, head + b"\r\nhalf"] * 200:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        kept.append(writer)
    beating = await agents(port, 64, options.gpus)
    for _ in range(options.rounds):
        await asyncio.gather(*(agent.beat() for agent in beating))
        await asyncio.sleep(0.2)
    took = [seconds for agent in beating for seconds in agent.took_seconds]
    print(f"the same beside 400 slow clients, {options.rounds} times")
    report(took, beating)
    for writer in kept:
        writer.close()
    return percentile(took, 99) <= HOLD_TO_SLOW_P99_MS


def report(took: list[float], crowd: list[Agent]) -> None:
    failures = sum(agent.failures for agent in crowd)
    print(
        f"answered after: p50 {percentile(took, 50):.1f} ms, p99 {percentile(took, 99):.1f} ms, "
        f"at most {max(took) * 1000:.1f} ms; failures: {failures}"
    )


def percentile(took: list[float], percent: int) -> float:
    """In milliseconds."""
    return statistics.quantiles(took, n=100)[percent - 1] * 1000


MEASUREMENTS = {"crowd": crowd, "slow": beside_slow_clients, "rate": closed_loop}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=MEASUREMENTS)
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--gpus", type=int, default=1, help="of each device")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    names = [options.only] if options.only else list(MEASUREMENTS)
    with server(max(options.devices, 114)) as port:
        held = [uvloop.run(MEASUREMENTS[name](port, options)) for name in names]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
