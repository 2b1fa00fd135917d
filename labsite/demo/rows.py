"""The demo's rows: people, projects, GPU servers, jobs with their tries and events.

Written past the verbs, in bulk: ten thousand jobs by verbs would take an hour. What the verbs
would have left (claims, slots, ranks, events in the order of time) stands here all the same.
"""

import random
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User
from django.db import models

from devices.models import GPU, Device
from experiments.models import Attempt, Cell, DemoUser, GPUClaim, Job, JobEvent, Project
from experiments.models.event import write_history
from experiments.models.queue import rank_of
from experiments.states import ENDED, EventKind, JobState, Outcome, Priority
from labsite.demo import curves
from labsite.demo.cast import NOTES, PEOPLE, WORKS
from labsite.demo.plan import Host, Run, Try, special

AT_ONCE = 500
AGENT, OLD_AGENT = "0.1.0", "0.0.9"
SILENT = timedelta(minutes=31)
_STATES = {
    Outcome.SUCCEEDED: JobState.SUCCEEDED,
    Outcome.FAILED: JobState.FAILED,
    Outcome.TIMED_OUT: JobState.FAILED,
    Outcome.CANCELLED: JobState.CANCELLED,
}


@dataclass
class Lab:
    """What was made, in the order of the plan."""

    people: list[User]
    projects: dict[str, Project]
    devices: list[Device]
    cards: dict[int, list[GPU]]  # by the host's index


@contextmanager
def dated(model: type[models.Model], name: str) -> Iterator[None]:
    """Let rows bear the times that they are given, in a field that else says when it was added."""
    field = model._meta.get_field(name)
    field.auto_now_add = False
    try:
        yield
    finally:
        field.auto_now_add = True


# --- people, projects, hosts --------------------------------------------------------------------


def lab(hosts: Sequence[Host], password: str, now: datetime, dice: random.Random) -> Lab:
    """Marked as demo from the first row on, so that a half-made one can be removed as well."""
    people = _people(password)
    projects = _projects(people, now)
    devices = _devices(hosts, now, dice)
    return Lab(people, projects, devices, _cards(hosts, devices, dice))


def _people(password: str) -> list[User]:
    taken = set(User.objects.values_list("username", flat=True))
    secret = make_password(password or None)  # None: nobody can sign in
    made = [
        User(
            username=_free(name, taken), first_name=first, last_name=last, password=secret,
            is_staff=place == 0, is_superuser=False,
        )
        for place, (name, first, last) in enumerate(PEOPLE)
    ]  # fmt: skip
    made = User.objects.bulk_create(made)
    DemoUser.objects.bulk_create(DemoUser(user=user) for user in made)
    return made


def _free(name: str, taken: set[str]) -> str:
    """`name`, or with the first number that makes it nobody else's."""
    names = (name if n == 1 else f"{name}-{n}" for n in range(1, len(taken) + 3))
    return next(one for one in names if one not in taken)


def _projects(people: Sequence[User], now: datetime) -> dict[str, Project]:
    taken = set(Project.objects.values_list("name", flat=True))
    made = [
        Project(
            name=_free(work.name, taken), description=work.description, is_demo=True,
            created_by=people[1 + place % (len(people) - 1)], created_at=now - timedelta(days=90),
            command=["python", "main.py", "--config", "{config}"],
        )
        for place, work in enumerate(WORKS)
    ]  # fmt: skip
    with dated(Project, "created_at"):
        Project.objects.bulk_create(made)
    rows = Project.objects.filter(name__in=[one.name for one in made])
    by_name = {one.name: one for one in rows}
    return {work.name: by_name[one.name] for work, one in zip(WORKS, made, strict=True)}


def _devices(hosts: Sequence[Host], now: datetime, dice: random.Random) -> list[Device]:
    taken = set(Device.objects.values_list("host_id", flat=True))
    odd = {host.index: name for name, host in special(list(hosts)).items()}
    made = [_device(host, odd.get(host.index, ""), taken, now, dice) for host in hosts]
    with dated(Device, "created_at"):
        Device.objects.bulk_create(made)
    by_name = {one.host_id: one for one in Device.objects.filter(is_demo=True)}
    return [by_name[one.host_id] for one in made]


def _device(
    host: Host, oddity: str, taken: set[str], now: datetime, dice: random.Random
) -> Device:
    silence = {"gone": SILENT, "late": timedelta(seconds=14)}.get(oddity, timedelta(seconds=0.4))
    total = int(dice.choice([3.8e12, 7.6e12]))
    free = 0.03 if oddity == "full" else dice.uniform(0.2, 0.7)
    memory = (256 if host.cards <= 4 else 1024) * 2**30
    name = _free(f"gpu-{host.index + 1:02d}", taken)
    room = "b1" if host.index % 3 else "b2"
    return Device(
        host_id=name, machine_id=f"demo-{host.index}", is_demo=True, created_at=now,
        last_heartbeat_at=now - silence, draining=oddity == "stopped", unix_user="lab",
        labels={"room": room} | ({"nvlink": "yes"} if host.cards == 8 else {}),
        cpu_percent=round(dice.uniform(12, 70), 1), cpu_count=48 if host.cards <= 4 else 128,
        memory_used_bytes=int(memory * dice.uniform(0.25, 0.75)), memory_total_bytes=memory,
        disk_free_bytes=int(total * free), disk_total_bytes=total,
        source_directory="/home/lab/experiments", driver_answers=True,
        source={
            "commit": "9f3c2ab4d1" + "0" * 30 if oddity != "old" else "41be07c9aa" + "0" * 30,
            "branch": "main", "dirty": oddity == "old", "source_hash": "demo",
        },
        versions={
            "agent": OLD_AGENT if oddity == "old" else AGENT, "python": "3.11.9",
            "driver": "550.54.14" if oddity == "old" else "570.86.15", "cuda": "12.8",
            "torch": "2.6.0+cu124",
        },
    )  # fmt: skip


def _cards(
    hosts: Sequence[Host], devices: Sequence[Device], dice: random.Random
) -> dict[int, list[GPU]]:
    made: dict[int, list[GPU]] = {}
    for host, device in zip(hosts, devices, strict=True):
        made[host.index] = [
            GPU(
                uuid=f"GPU-demo-{device.pk}-{index}", device=device, index=index, name=host.card,
                memory_total_bytes=host.gib * 2**30, memory_used_bytes=int(0.3 * 2**30),
                utilization_percent=0, temperature_celsius=dice.randint(30, 38),
                power_watts=dice.randint(18, 32), power_limit_watts=host.watts,
                graphics_clock_mhz=210, memory_clock_mhz=405, ecc_errors=0,
            )
            for index in range(host.cards)
        ]  # fmt: skip
    rows = [card for cards in made.values() for card in cards]
    GPU.objects.bulk_create(rows, AT_ONCE)
    keys = dict(GPU.objects.filter(device__is_demo=True).values_list("uuid", "pk"))
    for card in rows:
        card.pk = keys[card.uuid]
    return made


# --- jobs ---------------------------------------------------------------------------------------


def jobs(runs: Sequence[Run], lab: Lab, now: datetime, dice: random.Random) -> list[Job]:
    """One for each run of the plan, numbered in its project as they were queued."""
    numbers: Counter[str] = Counter()
    shake = np.random.default_rng(dice.getrandbits(32))
    made = []
    for run in runs:
        numbers[run.work.name] += 1
        made.append(_job(run, numbers[run.work.name], lab, now, dice, shake))
    Job.objects.bulk_create(made, AT_ONCE)
    keys = dict(Job.objects.filter(project__is_demo=True).values_list("uid", "pk"))
    for job in made:
        job.pk = keys[job.uid]
    Cell.objects.note_all(made)
    for name, number in numbers.items():
        Project.objects.filter(pk=lab.projects[name].pk).update(last_run=number)
    return made


def _job(run: Run, number: int, lab: Lab, now: datetime, dice: random.Random, shake: Any) -> Job:
    submitted = now + timedelta(seconds=run.submitted)
    state = _state(run)
    begins, ends = run.begins, run.ends
    waits = state == JobState.QUEUED
    return Job(
        uid=f"{submitted:%Y%m%d}_{dice.getrandbits(40):010x}",
        project=lab.projects[run.work.name], run_number=number, name=run.name,
        user=lab.people[run.person], config=_config(run), keys=run.keys,
        command=["python", "main.py", "--config", "{config}"], gpus=run.gpus,
        gpu_type=run.work.gpu_type, tags=run.tags, state=state, submitted_at=submitted,
        notes=dice.choice(NOTES) if dice.random() < 0.05 else "",
        rank=rank_of(submitted), priority=_priority(dice) if waits else Priority.NORMAL,
        held=waits and dice.random() < 0.08, waiting=_waiting(run, lab) if waits else {},
        started_at=now + timedelta(seconds=begins) if begins is not None else None,
        finished_at=now + timedelta(seconds=ends) if state in ENDED else None,
        cancel_requested_at=(
            now + timedelta(seconds=ends) if state == JobState.CANCELLED else None
        ),
        time_limit_seconds=6 * 3600.0 if run.failure == "limit" else None,
        summary=curves.told(run, shake) if begins is not None else {},
    )  # fmt: skip


def _state(run: Run) -> JobState:
    if run.cancelled_at is not None:
        return JobState.CANCELLED
    if not run.tries:
        return JobState.QUEUED
    last = run.tries[-1]
    return JobState.RUNNING if last.ends is None else _STATES[Outcome(last.outcome)]


def _priority(dice: random.Random) -> Priority:
    return dice.choice([Priority.NORMAL] * 6 + [Priority.HIGH, Priority.LOW])


def _waiting(run: Run, lab: Lab) -> dict[str, Any]:
    fit = [
        card for cards in lab.cards.values() for card in cards if run.work.gpu_type in card.name
    ]
    return {
        "code": "busy", "free": min(run.gpus - 1, 2), "all": len(fit), "gpus": run.gpus,
        "gpu_type": run.work.gpu_type, "gpu_memory_bytes": None, "labels": {},
    }  # fmt: skip


def _config(run: Run) -> bytes:
    lines = [f"# {run.work.description}"] if run.work.description else []
    lines += [f"project: {run.work.name}", *(f"{k}: {_yaml(v)}" for k, v in run.keys.items())]
    lines += [
        f"epochs: {run.epochs}",
        "",
        "lab:",
        "  command: [python, main.py, --config, '{config}']",
    ]
    resources = f"gpus: {run.gpus}"
    if run.work.gpu_type:
        resources += f", gpu_type: {run.work.gpu_type}"
    return ("\n".join([*lines, f"  resources: {{{resources}}}"]) + "\n").encode()


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- tries, claims, events ----------------------------------------------------------------------


def attempts(
    runs: Sequence[Run], made: Sequence[Job], lab: Lab, now: datetime, dice: random.Random
) -> list[Attempt]:
    """The tries; what those that are open hold; and what happened, in the order of time."""
    rows, events = [], []
    for run, job in zip(runs, made, strict=True):
        tries = [
            _attempt(run, one, number, job, lab, now, dice)
            for number, one in enumerate(run.tries, start=1)
        ]
        rows += tries
        events += _events(run, job, tries, now)
    Attempt.objects.bulk_create(rows, AT_ONCE)
    _claim([row for row in rows if row.ended_at is None], lab, dice)
    events.sort(key=lambda event: event.at)
    with dated(JobEvent, "at"):
        write_history(events)
    return rows


def _attempt(
    run: Run, one: Try, number: int, job: Job, lab: Lab, now: datetime, dice: random.Random
) -> Attempt:
    begins = now + timedelta(seconds=one.begins)
    return Attempt(
        id=uuid.UUID(int=dice.getrandbits(128), version=4), job=job, number=number,
        device=lab.devices[run.host.index], unix_user="lab", on_device_lost="wait",
        gpu_uuids=[lab.cards[run.host.index][index].uuid for index in run.cards],
        created_at=begins - timedelta(seconds=2), accepted_at=begins - timedelta(seconds=1),
        started_at=begins, renewed_at=now, pid=dice.randint(20_000, 4_000_000),
        ended_at=None if one.ends is None else now + timedelta(seconds=one.ends),
        outcome=one.outcome, exit_code=one.exit_code, message=one.message,
    )  # fmt: skip


def _claim(open_: Sequence[Attempt], lab: Lab, dice: random.Random) -> None:
    cards = {card.uuid: card for cards in lab.cards.values() for card in cards}
    GPUClaim.objects.bulk_create(
        GPUClaim(gpu=cards[uuid], attempt=one) for one in open_ for uuid in one.gpu_uuids
    )
    busy = [cards[uuid] for one in open_ for uuid in one.gpu_uuids]
    for card in busy:
        card.utilization_percent = dice.randint(82, 100)
        card.memory_used_bytes = int(card.memory_total_bytes * dice.uniform(0.55, 0.96))
        card.temperature_celsius = dice.randint(61, 82)
        card.power_watts = int(card.power_limit_watts * dice.uniform(0.7, 0.98))
        card.graphics_clock_mhz, card.memory_clock_mhz = dice.randint(1400, 1900), 9501
    GPU.objects.bulk_update(
        busy,
        ["utilization_percent", "memory_used_bytes", "temperature_celsius", "power_watts",
         "graphics_clock_mhz", "memory_clock_mhz"],
        AT_ONCE,
    )  # fmt: skip
    for pk, number in Counter(one.device_id for one in open_).items():
        Device.objects.filter(pk=pk).update(open_attempts=number)


def _events(run: Run, job: Job, tries: Sequence[Attempt], now: datetime) -> Iterator[JobEvent]:
    queued, ended = JobState.QUEUED, job.finished_at
    yield JobEvent(
        job=job, kind=EventKind.SUBMITTED, at=job.submitted_at, by=job.user, to_state=queued
    )
    if not tries and ended:
        yield JobEvent(
            job=job, kind=EventKind.CANCELLED, at=ended, by=job.user, from_state=queued,
            to_state=job.state,
        )  # fmt: skip
    for one in tries:
        is_last = one is tries[-1]
        yield from _of_try(job, one, job.state if is_last else JobState.QUEUED)


def _of_try(job: Job, one: Attempt, then: str) -> Iterator[JobEvent]:
    queued, assigned, running = JobState.QUEUED, JobState.ASSIGNED, JobState.RUNNING
    yield JobEvent(
        job=job, attempt=one, kind=EventKind.ASSIGNED, at=one.created_at, from_state=queued,
        to_state=assigned,
    )  # fmt: skip
    yield JobEvent(job=job, attempt=one, kind=EventKind.ACCEPTED, at=one.accepted_at)
    yield JobEvent(
        job=job, attempt=one, kind=EventKind.STARTED, at=one.started_at, from_state=assigned,
        to_state=running,
    )  # fmt: skip
    if one.ended_at:
        yield JobEvent(
            job=job, attempt=one, kind=EventKind.ENDED, at=one.ended_at, from_state=running,
            to_state=then,
        )  # fmt: skip


# --- what is wrong somewhere --------------------------------------------------------------------


def oddities(hosts: Sequence[Host], lab: Lab, now: datetime) -> None:
    odd = special(list(hosts))
    if not odd:
        return
    lab.cards[odd["faulty"].index][-1].quarantine("Xid 79: fell off the bus", now)
    card = lab.cards[odd["outside"].index][-1]
    process = {"pid": 41807, "user": "guest", "memory_bytes": 11 * 2**30, "attempt_id": None}
    GPU.objects.filter(pk=card.pk).update(
        utilization_percent=64, memory_used_bytes=11 * 2**30, processes=[process]
    )
