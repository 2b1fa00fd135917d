"""A week of the demo lab's history: its cards and hosts as they would have been, and the lab.

Arrays are of shape (cards, minutes), a minute a column, the last one being now's.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

import numpy as np
from django.db import connection, models, transaction

from devices.models import DeviceSample, GPUSample, Span, minute_of
from devices.models.sample import MIB
from experiments.models import Job, LabSample
from labsite.demo.plan import Host, Run
from labsite.demo.rows import Lab

WEEK_MINUTES = 7 * 24 * 60
#: Rows of single minutes are kept for a day; the demo has so many of them.
MINUTES = 120
ROWS_AT_ONCE = 20_000
_CARD = (
    "gpu_id", "span", "minute", "utilization_percent_min", "utilization_percent_mean",
    "utilization_percent_max", "memory_mib_mean", "memory_mib_max", "temperature_celsius_mean",
    "temperature_celsius_max", "power_watts_mean", "power_watts_max", "job_minutes",
    "outside_minutes", "held_by", "outside_users",
)  # fmt: skip
_HOST = (
    "device_id", "span", "minute", "cpu_percent_mean", "cpu_percent_max", "memory_mib_mean",
    "memory_mib_max", "disk_free_mib_min",
)  # fmt: skip

Row = tuple[object, ...]


def write(
    runs: Sequence[Run], jobs: Sequence[Job], hosts: Sequence[Host], lab: Lab,
    now: datetime, seed: int,
) -> int:  # fmt: skip
    """Returns how many rows were made."""
    last = minute_of(now)
    first = last - last % Span.HOUR - WEEK_MINUTES
    shake = np.random.default_rng(seed)
    by_card = _holders(runs, jobs, last - first + 1)
    busy = np.zeros(last - first + 1)
    made = 0
    for host in hosts:
        held = [by_card.get((host.index, card)) for card in range(host.cards)]
        loads = []
        for card, holder in zip(lab.cards[host.index], held, strict=True):
            holder = np.zeros(len(busy), dtype=np.int64) if holder is None else holder
            busy += holder > 0
            loads.append(holder > 0)
            made += _lay_in(GPUSample, _CARD, _of_card(card, host, holder, first, shake))
        device = lab.devices[host.index]
        load = np.mean(loads, axis=0)
        made += _lay_in(DeviceSample, _HOST, _of_host(device, load, first, shake))
    return made + _of_lab(runs, hosts, busy, first, now)


def _holders(
    runs: Sequence[Run], jobs: Sequence[Job], minutes: int
) -> dict[tuple[int, int], np.ndarray]:
    """Of each card that had a job: int64 of shape (minutes,), the job's key or 0."""
    found: dict[tuple[int, int], np.ndarray] = {}
    for run, job in zip(runs, jobs, strict=True):
        for one in run.tries:
            begin = minutes - 1 + int(one.begins // 60)
            end = minutes if one.ends is None else minutes + int(one.ends // 60)
            if end <= 0:
                continue
            for card in run.cards:
                row = found.setdefault((run.host.index, card), np.zeros(minutes, dtype=np.int64))
                row[max(0, begin) : end] = job.pk
    return found


def _of_card(card, host: Host, held: np.ndarray, first: int, shake) -> Iterator[Row]:
    busy, minutes = held > 0, len(held)
    # Each job has a load of its own, that its card shakes about.
    own = 78 + (held * 2654435761 % 2**32) % 21
    load = np.where(busy, np.clip(own + shake.normal(0, 4, minutes), 0, 100), 0)
    memory = np.where(busy, host.gib * 1024 * (0.45 + (held * 40503 % 65536) / 130_000), 310)
    heat = np.where(busy, 58 + load / 5 + shake.normal(0, 1.5, minutes), 34)
    heat = np.convolve(heat, np.ones(5) / 5, "same")
    heat[:2], heat[-2:] = heat[2], heat[-3]
    power = np.where(busy, host.watts * (0.25 + load / 140), 24) + shake.normal(0, 3, minutes)
    tables = (load, memory, heat, power)
    for span, count in ((1, MINUTES), (10, minutes // 10), (60, minutes // 60)):
        yield from _rows(card.pk, span, count, tables, held, first)


def _rows(pk: int, span: int, count: int, tables, held: np.ndarray, first: int) -> Iterator[Row]:
    minutes = len(held)
    begin = minutes - count if span == 1 else 0
    end = begin + count * span
    cut = [_cut(table, begin, end, span) for table in tables]
    load, memory, heat, power = cut
    holder = held[begin:end].reshape(count, span)
    columns = [
        np.full(count, pk), np.full(count, span), first + begin + span * np.arange(count),
        load.min(1), load.mean(1), load.max(1), memory.mean(1), memory.max(1), heat.mean(1),
        heat.max(1), power.mean(1), power.max(1), (holder > 0).sum(1), np.zeros(count),
    ]  # fmt: skip
    whole = np.rint(np.column_stack(columns)).astype(int).tolist()
    for row, job in zip(whole, holder.max(1).tolist(), strict=True):
        yield (*row, job or None, "")


def _cut(table: np.ndarray, begin: int, end: int, span: int) -> np.ndarray:
    return table[begin:end].reshape(-1, span)


def _of_host(device, load: np.ndarray, first: int, shake) -> Iterator[Row]:
    """`load`: float64 of shape (minutes,), the share of its cards that is busy."""
    minutes = len(load)
    cpu = np.clip(6 + 55 * load + shake.normal(0, 4, minutes), 1, 100)
    memory = device.memory_total_bytes / MIB * (0.12 + 0.5 * load)
    ago = np.arange(minutes)[::-1]
    disk = device.disk_free_bytes / MIB + ago * 1.5 * np.maximum(load.mean(), 0.1) * 8
    for span, count in ((1, MINUTES), (10, minutes // 10), (60, minutes // 60)):
        begin = minutes - count if span == 1 else 0
        end = begin + count * span
        c, m, d = (_cut(table, begin, end, span) for table in (cpu, memory, disk))
        at = first + begin + span * np.arange(count)
        columns = [c.mean(1), c.max(1), m.mean(1), m.max(1), d.min(1)]
        for start, row in zip(at.tolist(), np.column_stack(columns).tolist(), strict=True):
            yield (device.pk, span, start, *map(round, row))


def _lay_in(model: type[models.Model], names: Sequence[str], rows: Iterator[Row]) -> int:
    """Past the ORM, which would take ten times as long."""
    quote = connection.ops.quote_name
    columns = ", ".join(quote(model._meta.get_field(name).column) for name in names)
    values = ", ".join(["%s"] * len(names))
    table = quote(model._meta.db_table)
    every = list(rows)
    with transaction.atomic(), connection.cursor() as cursor:
        for start in range(0, len(every), ROWS_AT_ONCE):
            cursor.executemany(
                f"INSERT INTO {table} ({columns}) VALUES ({values})",  # noqa: S608
                every[start : start + ROWS_AT_ONCE],
            )
    return len(every)


def _of_lab(
    runs: Sequence[Run], hosts: Sequence[Host], busy: np.ndarray, first: int, now: datetime
) -> int:
    minutes = len(busy)
    running, waiting = np.zeros(minutes + 1, dtype=int), np.zeros(minutes + 1, dtype=int)
    for run in runs:
        begins = run.tries[0].begins if run.tries else run.ends
        _count(waiting, run.submitted, begins)
        if run.tries:
            _count(running, run.tries[0].begins, run.ends)
    cards = sum(host.cards for host in hosts)
    hours = np.arange(minutes)
    use = np.clip(90 + 4 * np.sin(hours / 97), 0, 100)
    rows = [
        LabSample(
            minute=first + at, gpus=cards, busy=int(busy[at]), outside=0, faulty=0, unreachable=0,
            utilization_percent=int(use[at]), running=int(now_running), waiting=int(now_waiting),
            is_demo=True,
        )
        for at, now_running, now_waiting in zip(
            range(minutes), running.cumsum()[:-1], waiting.cumsum()[:-1], strict=True
        )
    ]  # fmt: skip
    LabSample.objects.bulk_create(rows, 1000, ignore_conflicts=True)
    return len(rows)


def _count(changes: np.ndarray, begins: float, ends: float | None) -> None:
    """One more from `begins` on, one less from `ends` on; in seconds from now."""
    last = len(changes) - 1
    changes[min(last, max(0, last + int(begins // 60)))] += 1
    if ends is not None:
        changes[min(last, max(0, last + int(ends // 60)))] -= 1
