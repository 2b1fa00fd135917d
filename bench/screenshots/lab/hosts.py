"""The GPU servers, and what they measured of themselves."""

import math
import random
from collections.abc import Iterator
from datetime import datetime, timedelta

from devices.models import GPU, Device, DeviceSample, GPUSample, minute_of
from experiments.models import LabSample

#: How far back what is measured goes: further than the longest run.
MEASURED_MINUTES = 6 * 60


def host(
    name: str, card: str, gib: int, cards: int, now: datetime,
    disk_free: float = 0.4, silent: timedelta = timedelta(0),
) -> Device:  # fmt: skip
    dice = random.Random(name)
    behind = name == "gpu-05"  # somebody forgot `git pull` there
    code = {"commit": ("9e41c07b52" if behind else "a37bcfd021") + 30 * "0", "branch": "main"}
    code |= {"dirty": behind, "source_hash": "51d0" if behind else "77aa"}
    device = Device.objects.create(
        host_id=name, machine_id=name, unix_user="lab", source_directory="/home/lab/experiments",
        last_heartbeat_at=now - silent, last_poll_at=now, cpu_percent=dice.uniform(20, 65),
        cpu_count=48, memory_used_bytes=int(dice.uniform(0.3, 0.7) * 256 * 2**30),
        memory_total_bytes=256 * 2**30, disk_free_bytes=int(disk_free * 4e12),
        disk_total_bytes=int(4e12), labels={"ssd": ""} if gib < 80 else {"nvlink": ""},
        source=code, versions={
            "agent": "0.1.0", "driver": "570.86", "cuda": "12.8", "torch": "2.6.0",
            "python": "3.11.9",
        },
    )  # fmt: skip
    for index in range(cards):
        GPU.objects.create(
            uuid=f"GPU-{name}-{index}", device=device, index=index, name=card,
            memory_total_bytes=gib * 2**30, memory_used_bytes=int(0.3 * 2**30),
            utilization_percent=0, temperature_celsius=dice.randint(31, 38),
            power_watts=dice.randint(20, 28), power_limit_watts=350,
        )  # fmt: skip
    return device


def ail(hosts: list[Device], now: datetime) -> None:
    """A GPU is used outside the queue, one is faulty, and a server takes no new jobs."""
    card = hosts[2].gpus.get(index=3)
    card.utilization_percent, card.memory_used_bytes = 64, int(11.2 * 2**30)
    card.processes = [
        {"pid": 41807, "user": "siwoo", "memory_bytes": 11 * 2**30, "attempt_id": None}
    ]
    card.save()
    since = now - timedelta(hours=2, minutes=14)
    hosts[2].gpus.get(index=2).quarantine("Xid 79: fell off the bus", since)
    hosts[5].drain()


def look_back(hosts: list[Device], now: datetime) -> None:
    """The last hours of each card and host, and a day of the lab."""
    last, dice = minute_of(now), random.Random(7)
    DeviceSample.objects.bulk_create(
        DeviceSample(
            device=device, minute=minute, cpu_percent_mean=dice.randint(20, 60),
            memory_mib_mean=90_000 + dice.randint(0, 9000), disk_free_mib_min=1_500_000,
        )
        for device in hosts
        for minute in range(last - 59, last + 1)
    )  # fmt: skip
    GPUSample.objects.bulk_create(
        sample
        for card in GPU.objects.select_related("device")
        for sample in _samples(card, last, dice)
    )
    LabSample.objects.bulk_create(
        LabSample(
            minute=minute, gpus=24, busy=round(13 + 6 * math.sin(minute / 170)), outside=1,
            faulty=1, unreachable=2, utilization_percent=91, running=9, waiting=5,
        )
        for minute in range(last - 1439, last + 1)
    )  # fmt: skip


def _samples(card: GPU, last: int, dice: random.Random) -> Iterator[GPUSample]:
    """At work while a run had it, and idle before and between."""
    held = _held(card, last)
    for minute in range(last - MEASURED_MINUTES + 1, last + 1):
        busy = any(minute in span for span in held)
        use = min(100, max(0, round(dice.gauss(93 if busy else 0, 3))))
        memory, heat, power = (0.8, 72, 310) if busy else (0.01, 34, 24)
        memory_mib = int(memory * card.memory_total_bytes) // 2**20
        yield GPUSample(
            gpu=card, minute=minute, utilization_percent_min=use,
            utilization_percent_mean=use, utilization_percent_max=use,
            memory_mib_mean=memory_mib, memory_mib_max=memory_mib, job_minutes=busy,
            temperature_celsius_mean=heat + card.index, temperature_celsius_max=heat + card.index,
            power_watts_mean=power + 3 * card.index, power_watts_max=power + 3 * card.index,
        )  # fmt: skip


def _held(card: GPU, last: int) -> list[range]:
    return [
        range(minute_of(one.started_at), minute_of(one.ended_at) if one.ended_at else last + 1)
        for one in card.device.attempts.exclude(started_at=None)
        if card.uuid in one.gpu_uuids
    ]
