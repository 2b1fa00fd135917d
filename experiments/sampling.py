"""History: what stands in the tables of devices and cards is noted once a minute, then made
coarser, then forgotten.

Level-triggered like dispatch, which it is run with: the first pass of a minute takes that
minute's sample, and whatever ten minutes and hours are over by then and not summed up yet are.
A pass that does not come leaves a gap and nothing else.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import models
from django.db.models import Avg, F, Max, Min, Sum

from devices.models import GPU, Device, DeviceSample, DeviceState, GPUSample, Span, Use, minute_of
from devices.models.sample import MIB
from experiments.models import Borrow, GPUClaim, Job, LabSample
from experiments.states import JobState

#: For how long rows of each span are kept.
KEPT = {
    Span.MINUTE: timedelta(hours=25),
    Span.TEN: timedelta(days=8),
    Span.HOUR: timedelta(days=400),
}
LAB_KEPT = timedelta(days=400)
#: Spans that one pass sums up at most: a server that was off has none, and passes stay short.
ROLLED_AT_ONCE = 6
ROWS_AT_ONCE = 500
USERS_CHARACTERS = 255

_OF_CARD = {
    "utilization_percent_min": Min("utilization_percent_min"),
    "utilization_percent_mean": Avg("utilization_percent_mean"),
    "utilization_percent_max": Max("utilization_percent_max"),
    "memory_mib_mean": Avg("memory_mib_mean"),
    "memory_mib_max": Max("memory_mib_max"),
    "temperature_celsius_mean": Avg("temperature_celsius_mean"),
    "temperature_celsius_max": Max("temperature_celsius_max"),
    "power_watts_mean": Avg("power_watts_mean"),
    "power_watts_max": Max("power_watts_max"),
    "job_minutes": Sum("job_minutes"),
    "outside_minutes": Sum("outside_minutes"),
    "held_by": Max("held_by"),
    "outside_users": Max("outside_users"),
}
_OF_HOST = {
    "cpu_percent_mean": Avg("cpu_percent_mean"),
    "cpu_percent_max": Max("cpu_percent_max"),
    "memory_mib_mean": Avg("memory_mib_mean"),
    "memory_mib_max": Max("memory_mib_max"),
    "disk_free_mib_min": Min("disk_free_mib_min"),
}
#: What is summed up, by what, and into what.
_ROLLED: list[tuple[type[models.Model], str, dict[str, Any]]] = [
    (GPUSample, "gpu_id", _OF_CARD),
    (DeviceSample, "device_id", _OF_HOST),
]


class _Last:
    """The minute that this process sampled last: most passes need not ask the database."""

    minute = 0


def sample_when_due(now: datetime) -> bool:
    """Take this minute's sample, unless it was taken. Returns whether it did."""
    minute = minute_of(now)
    if _Last.minute == minute:
        return False
    _Last.minute = minute
    if LabSample.objects.filter(pk=minute).exists():
        return False
    sample(now)
    for span, of in ((Span.TEN, Span.MINUTE), (Span.HOUR, Span.TEN)):
        roll(span, of, minute)
    return True


def sample(now: datetime) -> None:
    """One row for each host that is heard of and each of its cards, and one for the lab."""
    minute = minute_of(now)
    Borrow.objects.end_due(now)  # also where nothing waits for their GPUs
    held = dict(GPUClaim.objects.values_list("gpu_id", "attempt__job_id"))
    cards = list(GPU.objects.filter(device__revoked_at=None).select_related("device"))
    heard = {card.device_id: card.device for card in cards}
    heard |= {one.pk: one for one in Device.objects.enrolled().exclude(pk__in=heard)}
    heard = {pk: one for pk, one in heard.items() if one.state(now) != DeviceState.DISCONNECTED}
    uses = {card.pk: card.use(claimed=card.pk in held) for card in cards}
    hosts = [_of_host(device, minute) for device in heard.values()]
    DeviceSample.objects.bulk_create(hosts, ROWS_AT_ONCE, ignore_conflicts=True)
    rows = [
        _of_card(card, uses[card.pk], held.get(card.pk), minute)
        for card in cards
        if card.device_id in heard and card.present
    ]
    GPUSample.objects.bulk_create(rows, ROWS_AT_ONCE, ignore_conflicts=True)
    LabSample.objects.bulk_create(
        [_of_lab(minute, cards, uses, set(heard))], ignore_conflicts=True
    )


def _of_host(device: Device, minute: int) -> DeviceSample:
    cpu, memory = _whole(device.cpu_percent), _mib(device.memory_used_bytes)
    return DeviceSample(
        device=device, minute=minute, cpu_percent_mean=cpu, cpu_percent_max=cpu,
        memory_mib_mean=memory, memory_mib_max=memory,
        disk_free_mib_min=_mib(device.disk_free_bytes),
    )  # fmt: skip


def _of_card(card: GPU, use: Use, job: int | None, minute: int) -> GPUSample:
    utilization, memory = _whole(card.utilization_percent), _mib(card.memory_used_bytes)
    heat, power = _whole(card.temperature_celsius), _whole(card.power_watts)
    is_outside = use in (Use.OUTSIDE, Use.ELSEWHERE)
    users = ", ".join(card.foreign_users) if is_outside else ""
    return GPUSample(
        gpu=card, minute=minute, utilization_percent_min=utilization,
        utilization_percent_mean=utilization, utilization_percent_max=utilization,
        memory_mib_mean=memory, memory_mib_max=memory, temperature_celsius_mean=heat,
        temperature_celsius_max=heat, power_watts_mean=power, power_watts_max=power,
        job_minutes=job is not None, outside_minutes=is_outside, held_by=job,
        outside_users=users[:USERS_CHARACTERS],
    )  # fmt: skip


def _of_lab(minute: int, cards: list[GPU], uses: dict[int, Use], heard: set[int]) -> LabSample:
    there = [card for card in cards if card.present or card.quarantined_at]
    here = [card for card in there if card.device_id in heard]
    busy = [card for card in here if uses[card.pk] == Use.JOB]
    used = [card.utilization_percent for card in busy if card.utilization_percent is not None]
    states = Job.objects.present().order_by().values("state").annotate(n=models.Count("pk"))
    jobs = dict(states.filter(state__in=LIVE_OR_QUEUED).values_list("state", "n"))
    return LabSample(
        minute=minute,
        gpus=len(there),
        busy=len(busy),
        outside=sum(uses[card.pk] in (Use.OUTSIDE, Use.ELSEWHERE) for card in here),
        faulty=sum(uses[card.pk] in (Use.FAULTY, Use.MISSING) for card in here),
        unreachable=len(there) - len(here),
        utilization_percent=_whole(sum(used) / len(used)) if used else None,
        running=jobs.get(JobState.RUNNING, 0) + jobs.get(JobState.ASSIGNED, 0),
        waiting=jobs.get(JobState.QUEUED, 0),
    )


LIVE_OR_QUEUED = (JobState.QUEUED, JobState.ASSIGNED, JobState.RUNNING)


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _mib(count: int | None) -> int | None:
    return None if count is None else count // MIB


# --- coarser ------------------------------------------------------------------------------------


def roll(span: Span, of: Span, until: int) -> int:
    """Sum up what spans are over before the minute `until`. Returns how many were."""
    done = 0
    for model, key, values in _ROLLED:
        for start in _unrolled(model, span, of, until)[:ROLLED_AT_ONCE]:
            rows = model.objects.filter(span=of, minute__gte=start, minute__lt=start + span)
            summed = rows.order_by().values(key).annotate(**_renamed(values))
            made = [model(span=span, minute=start, **_read(row, key, values)) for row in summed]
            model.objects.bulk_create(made, ROWS_AT_ONCE, ignore_conflicts=True)
            done += 1
    return done


def _unrolled(model: type[models.Model], span: Span, of: Span, until: int) -> list[int]:
    """The first minutes of spans that are over, of which there are rows and no sum; by time."""
    newest = model.objects.filter(span=span).aggregate(at=Max("minute"))["at"]
    rows = model.objects.filter(span=of, minute__lt=until - until % span)
    if newest is not None:
        rows = rows.filter(minute__gte=newest + span)
    starts = rows.order_by().annotate(start=F("minute") - F("minute") % span.value)
    return sorted(starts.values_list("start", flat=True).distinct())


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    """An aggregate may not be called as the column that it is of."""
    return {f"of_{name}": value for name, value in values.items()}


def _read(row: dict[str, Any], key: str, values: dict[str, Any]) -> dict[str, Any]:
    found = {name: row[f"of_{name}"] for name in values}
    whole = {name: round(v) for name, v in found.items() if v is not None and not _is_text(v)}
    return {key: row[key], **found, **whole}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# --- forgotten ----------------------------------------------------------------------------------


def forget(now: datetime) -> int:
    """Remove what is older than it is kept. Returns how many rows that were."""
    return sum(_forget(now))


def _forget(now: datetime) -> Iterable[int]:
    for span, kept in KEPT.items():
        for model in (GPUSample, DeviceSample):
            yield model.objects.filter(span=span, minute__lt=minute_of(now - kept)).delete()[0]
    yield LabSample.objects.filter(minute__lt=minute_of(now - LAB_KEPT)).delete()[0]
