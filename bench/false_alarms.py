"""Whether a job is ever given up whose host is well: a million device-seconds of a busy lab.

Simulated devices, each with one running job of either policy, speak the real wire to a real
`runlab`: heartbeats, and held polls, with the agent's own time limits. Beside them run
as many busy loops as there are cores; and some devices share an uplink that one of them fills with
a checkpoint. It ends with 0 only if no job was lost or requeued on either side: not by the server,
and not by a fence (105 s without an answered poll), while the server was able to judge at all.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import uvloop

from agent import transport, wire
from agent.backoff import Backoff
from agent.poll import CEILING_SECONDS
from bench import heartbeats, server
from bench.uplink import Uplink

DEVICES, MINUTES = 2000, 8.8
#: Seconds between a device's heartbeats: 500 a second in all, which is what a server has to hold.
INTERVAL_SECONDS = 4.0
DEVICE_SECONDS = 1_000_000
SHARING = 40  # devices behind the full uplink
UPLINK_BYTES_PER_SECOND, UPLINK_QUEUE_BYTES = 128 * 1024, 256 * 1024
UPLOAD_BYTES = 4 * 1024**2
CPU_PERCENT = 95.0
LOOK_SECONDS = 2.0
CONNECT_AT_ONCE = 50
POLICIES = ("wait", "requeue")
SIGHT_SHARE = 0.5  # of the looks after its first lease: else there was nobody to raise an alarm


class Line(asyncio.Protocol):
    """A kept connection with one request under way at most, as each loop of an agent has one."""

    def __init__(self, number: int, port: int) -> None:
        self._number, self._port = number, port
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answered: asyncio.Future[bytes] | None = None

    async def ask(self, path: str, body: bytes, seconds: float) -> bytes | None:
        """The body of a good answer; None for any other, or none in time."""
        try:
            async with asyncio.timeout(seconds):
                return await self._ask(path, body)
        except (OSError, TimeoutError):
            if self._transport is not None:
                self._transport.abort()
            self._transport = None
            return None

    async def _ask(self, path: str, body: bytes) -> bytes | None:
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        self._received, self._answered = b"", loop.create_future()
        assert self._transport is not None
        self._transport.write(
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer "
            f"{heartbeats.token(self._number)}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head, _, content = (await self._answered).partition(b"\r\n\r\n")
        return content if head.startswith(b"HTTP/1.1 200") else None

    def connection_made(self, made: asyncio.Transport) -> None:
        self._transport = made

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answered and not self._answered.done():
            self._answered.set_exception(ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or self._answered is None or self._answered.done():
            return
        _, _, rest = head.lower().partition(b"content-length: ")
        if len(body) >= int(rest.split(b"\r\n", 1)[0]):
            self._answered.set_result(self._received)


@dataclass
class Sums:
    """Of all devices together. Times in seconds."""

    beats: int = 0
    failed_beats: int = 0
    late_beats: int = 0  # answered so long after the one before that it was not healthy
    longest_silence: float = 0.0
    polls: int = 0
    failed_polls: int = 0
    longest_unrenewed: float = 0.0  # between sending an answered poll and the next answer
    stopped: set[str] = field(default_factory=set)  # attempts that the server said to stop
    device_seconds: float = 0.0


class Device:
    """One agent as the server meets it: a loop that beats and one that polls."""

    def __init__(
        self, number: int, port: int, attempts: list[str], sums: Sums, interval_seconds: float
    ) -> None:
        self._sums = sums
        self._interval = interval_seconds
        self._healthy_seconds = 3.0 * max(1.0, 2.5 * interval_seconds / 3)  # docs/protocol.md §2
        self._beat_line, self._poll_line = Line(number, port), Line(number, port)
        self._life = f"life-{number}"
        beat = json.dumps(
            heartbeats.heartbeat(number, len(attempts), self._life)
            | {"interval_seconds": interval_seconds}
        )
        self._before, _, self._after = beat.partition('"SEQ"')
        self._attempts = [{"id": one, "state": "running", "pid": 4242} for one in attempts]
        self.began_at: float | None = None

    async def beat(self, until: float) -> None:
        sums, number, heard_at = self._sums, 0, 0.0
        while (now := time.monotonic()) < until:
            number += 1
            body = f"{self._before}{number}{self._after}".encode()
            path = "/api/devices/heartbeat"
            answer = await self._beat_line.ask(path, body, transport.BEAT_SECONDS)
            answered_at = time.monotonic()
            sums.beats += 1
            if answer is None:
                sums.failed_beats += 1
            else:
                silence = answered_at - (heard_at or answered_at)
                sums.late_beats += silence > self._healthy_seconds
                sums.longest_silence = max(sums.longest_silence, silence)
                self.began_at = self.began_at or answered_at
                heard_at = answered_at
            await asyncio.sleep(max(0.0, now + self._interval - answered_at))

    async def poll(self, until: float) -> None:
        sums, number, renewed_at, known = self._sums, 0, 0.0, None
        backoff = Backoff(ceiling_seconds=CEILING_SECONDS)
        while self.began_at is None:
            await asyncio.sleep(0.1)
        while (now := time.monotonic()) < until:
            number += 1
            wait = wire.MAX_WAIT_SECONDS if known else 0.0
            message = {"instance_id": self._life, "poll_seq": number, "wait_seconds": wait}
            message |= {"known_revision": known, "attempts": self._attempts}
            limit = transport.ANSWER_SECONDS + wait
            body = json.dumps(message).encode()
            answer = await self._poll_line.ask("/api/agent/poll", body, limit)
            sums.polls += 1
            since = renewed_at or now
            sums.longest_unrenewed = max(sums.longest_unrenewed, time.monotonic() - since)
            if answer is None:
                sums.failed_polls += 1
                known = None
                await asyncio.sleep(backoff.next_seconds())
            else:
                backoff.reset()
                renewed_at, known = now, self._taken(json.loads(answer))

    def _taken(self, reply: dict[str, Any]) -> str:
        stops = [order["id"] for order in reply["attempts"] if order["stop"]]
        self._sums.stopped.update(reply["ended"], stops)
        return str(reply["revision"])

    def end(self) -> None:
        if self.began_at is not None:
            self._sums.device_seconds += time.monotonic() - self.began_at


async def fill(port: int, number: int, uid: str, until: float) -> int:
    """Upload one checkpoint after the other. Return how many arrived."""
    line, arrived = Line(number, port), 0
    while time.monotonic() < until:
        path, content = f"/api/sync/full/{uid}/run_{number:03d}.bin", os.urandom(UPLOAD_BYTES)
        arrived += await line.ask(path, content, 600) is not None
    return arrived


# --- the server's side


def prepare(devices: int) -> dict[int, list[str]]:
    """Devices that are enrolled, each with a job of either policy that runs. Return their attempts
    by the devices' numbers."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connections

    from devices.models import GPU, Device
    from experiments.models import Attempt, GPUClaim, Job, Project
    from labsite.clock import database_now

    call_command("migrate", verbosity=0)
    heartbeats.enroll(devices)
    now, project = database_now(), Project.objects.create(name="bench")
    rows = list(Device.objects.order_by("pk"))
    Device.objects.update(open_attempts=len(POLICIES))
    jobs = Job.objects.bulk_create(
        Job(uid=f"20200101_{n:08x}", project=project, run_number=n + 1, command=["true"],
            gpus=1, submitted_at=now, started_at=now, state="running", on_device_lost=policy)
        for n, policy in enumerate(POLICIES * devices)
    )  # fmt: skip
    gpus = GPU.objects.bulk_create(
        GPU(uuid=f"GPU-{number:06d}-{index}", device=row, index=index)
        for number, row in enumerate(rows)
        for index in range(len(POLICIES))
    )
    attempts = Attempt.objects.bulk_create(
        Attempt(job=job, number=1, device=gpu.device, gpu_uuids=[gpu.uuid], created_at=now,
                on_device_lost=job.on_device_lost, accepted_at=now, started_at=now,
                renewed_at=now)
        for job, gpu in zip(jobs, gpus, strict=True)
    )  # fmt: skip
    GPUClaim.objects.bulk_create(
        GPUClaim(gpu=gpu, attempt=attempt) for gpu, attempt in zip(gpus, attempts, strict=True)
    )
    connections.close_all()
    each = len(POLICIES)
    ids = [str(attempt.pk) for attempt in attempts]
    return {number: ids[each * number : each * (number + 1)] for number in range(devices)}


@dataclass
class Looks:
    """What the server thought of its devices, each time that it was looked at."""

    count: int = 0
    sighted: int = 0  # it was able to judge
    stale: int = 0  # devices, added up
    disconnected: int = 0
    braked: int = 0  # the brake on mass losses held

    def take(self) -> None:
        from devices.models import Device, DeviceState
        from experiments import leases
        from labsite.clock import database_now

        now = database_now()
        states = [device.state(now) for device in Device.objects.all()]
        gone = states.count(DeviceState.DISCONNECTED)
        self.count += 1
        self.sighted += leases.server_sees(now)
        self.stale += states.count(DeviceState.STALE)
        self.disconnected += gone
        if gone >= leases.MASS_AT_LEAST:
            self.braked += leases.mass_loss(now) is not None


def ended() -> dict[str, int]:
    """Outcome → how many attempts of ours have ended so; no attempt should have."""
    from django.db.models import Count

    from experiments.models import Attempt

    rows = Attempt.objects.exclude(ended_at=None).values("outcome").annotate(n=Count("pk"))
    return {row["outcome"]: row["n"] for row in rows.order_by("outcome")}


# --- all of it


async def measure(
    port: int, attempts: dict[int, list[str]], minutes: float, interval_seconds: float
) -> tuple[Sums, Looks]:
    until = time.monotonic() + 60 * minutes
    uplink = Uplink(port, UPLINK_BYTES_PER_SECOND, UPLINK_QUEUE_BYTES)
    slow_port = await uplink.start()
    sums, looks = Sums(), Looks()
    devices, loops = [], []
    for number, ids in attempts.items():
        its_port = slow_port if number < SHARING else port
        device = Device(number, its_port, ids, sums, interval_seconds)
        devices.append(device)
        loops += [device.beat(until), device.poll(until)]
    filling = asyncio.ensure_future(fill(slow_port, 0, "20200101_00000000", until))
    tasks = []
    for begun in range(0, len(loops), CONNECT_AT_ONCE):
        tasks += [asyncio.ensure_future(loop) for loop in loops[begun : begun + CONNECT_AT_ONCE]]
        await asyncio.sleep(0.2)
    psutil.cpu_percent()
    sight_from = time.monotonic() + wire.LEASE_SECONDS + 10
    while time.monotonic() < until:
        await asyncio.sleep(LOOK_SECONDS)
        if time.monotonic() > sight_from:
            await asyncio.to_thread(looks.take)
    print(f"CPU of the machine: {psutil.cpu_percent():.0f} %; full uplink: ", end="")
    print(f"{uplink.passed_bytes / 60 / minutes / 1024:.0f} KiB/s for {SHARING} devices")
    for device in devices:
        device.end()
    for task in (*tasks, filling):
        task.cancel()
    return sums, looks


def report(sums: Sums, looks: Looks, lost: dict[str, int]) -> bool:
    """Print all of it; whether it holds."""
    print(
        f"{sums.device_seconds:,.0f} device-seconds: {sum(lost.values())} jobs lost or requeued "
        f"{lost or ''}, {len(sums.stopped)} told to stop; longest without an answered poll "
        f"{sums.longest_unrenewed:.0f} s (fence {wire.FENCE_SECONDS:.0f} s)"
    )
    print(
        f"{sums.beats:,} heartbeats: {sums.late_beats} so late that their device was not healthy, "
        f"{sums.failed_beats} unanswered, longest silence "
        f"{sums.longest_silence:.1f} s; {sums.polls:,} polls, {sums.failed_polls} unanswered"
    )
    print(
        f"of {looks.count} looks the server could judge in {looks.sighted}; on average "
        f"{looks.stale / max(1, looks.count):.1f} devices were stale, "
        f"{looks.disconnected / max(1, looks.count):.1f} disconnected; "
        f"the brake on mass losses held in {looks.braked}"
    )
    calm = not lost and not sums.stopped and sums.longest_unrenewed < wire.FENCE_SECONDS
    judged = looks.count > 0 and looks.sighted >= SIGHT_SHARE * looks.count and not looks.braked
    return calm and judged


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--interval", type=float, default=INTERVAL_SECONDS, metavar="SECONDS")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        data_dir = Path(folder, "data")
        data_dir.mkdir()
        os.environ |= {"LAB_DATA_DIR": str(data_dir), "DJANGO_SETTINGS_MODULE": "labsite.settings"}
        attempts = prepare(options.devices)
        with server.running(agent=False, prepared=Path(folder)) as lab:
            burners = [burner() for _ in range(os.cpu_count() or 1)]
            try:
                port = urlsplit(lab.url).port
                sums, looks = uvloop.run(
                    measure(port, attempts, options.minutes, options.interval)
                )
            finally:
                for burning in burners:
                    burning.kill()
            held = report(sums, looks, ended())
    print(f"(to hold: none in {DEVICE_SECONDS:,} device-seconds, the server judging, no brake)")
    return 0 if held and sums.device_seconds >= DEVICE_SECONDS else 1


def burner() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "while True: pass"])


if __name__ == "__main__":
    sys.exit(main())
