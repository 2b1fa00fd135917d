"""Builders for tests: valid by default, one keyword per fact that a test is about."""

import itertools
import uuid
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model

from agent import wire
from devices.models import GPU, Device, digest
from experiments import submission
from experiments.models import Attempt, Job, Project
from labsite.clock import database_now
from people.models import ApiToken, Profile
from people.roles import Role

_serial = itertools.count(1)


def user(name: str = "", **fields: Any):
    return get_user_model().objects.create_user(name or f"user{next(_serial)}", **fields)


def viewer(name: str = "viewer"):
    made = user(name)
    Profile.set_role(made, Role.VIEWER)
    return made


def manager(name: str = "manager"):
    return user(name, is_staff=True)


def administrator(name: str = "administrator"):
    return user(name, is_staff=True, is_superuser=True)


def token(of: Any) -> str:
    """A key for a script of that person."""
    return ApiToken.make(of, "script", database_now())[1]


def project(name: str = "", **fields: Any) -> Project:
    return Project.objects.create(name=name or f"project{next(_serial)}", **fields)


def device(*, gpus: int = 0, online: bool = True, token: str = "", **fields: Any) -> Device:
    """A device that was just heard from; `gpus` cards of 24 GiB, idle."""
    now = database_now()
    fields.setdefault("host_id", f"gpu-{next(_serial):02d}")
    fields.setdefault("machine_id", f"machine-{fields['host_id']}")
    fields.setdefault("instance_id", f"instance-{fields['host_id']}")
    fields.setdefault("boot_id", "boot-1")
    fields.setdefault("token_sha256", digest(token or f"labd_{uuid.uuid4()}"))
    if online:
        fields.setdefault("last_heartbeat_at", now)
        fields.setdefault("last_poll_at", now)
    else:
        fields.setdefault("last_heartbeat_at", now - timedelta(hours=1))
    made = Device.objects.create(**fields)
    for index in range(gpus):
        gpu(made, index=index)
    return made


def gpu(device: Device, **fields: Any) -> GPU:
    fields.setdefault("index", 0)
    fields.setdefault("uuid", f"GPU-{device.host_id}-{fields['index']}")
    fields.setdefault("name", "NVIDIA GeForce RTX 3090")
    fields.setdefault("memory_total_bytes", 24 * 2**30)
    fields.setdefault("memory_used_bytes", 0)
    fields.setdefault("utilization_percent", 0)
    return GPU.objects.create(device=device, **fields)


def job(
    *, project: str = "digits", by: Any = None, config: str | bytes = b"", **given: Any
) -> Job:
    """A queued job. `gpus` and its kin may be given flat; the rest as in the `lab:` block."""
    given.setdefault("command", ["true"])
    resources = {
        name: given.pop(name)
        for name in ("gpus", "gpu_memory", "gpu_type", "labels")
        if name in given
    }
    resources.setdefault("gpus", 1)
    wish = {"project": project, "resources": resources, **given}
    return submission.submit(config, wish, by=by)


def attempt(
    job_: Job | None = None,
    on: Device | None = None,
    *,
    accepted: bool = True,
    started: bool = False,
    **given: Any,
) -> Attempt:
    """An open attempt: of a new job, on a new device, unless they are given."""
    now = database_now()
    job_ = job_ or job(**given)
    on = on or device(gpus=max(job_.gpus, 1))
    free = GPU.objects.filter(device=on, claim=None).order_by("index")[: job_.gpus]
    made = job_.assign(on, list(free), now)
    if accepted or started:
        made.accept(now)
    if started:
        made.start(now, pid=4711)
    return made


def beat(on: Device, **fields: Any) -> wire.Heartbeat:
    fields.setdefault("instance_id", on.instance_id)
    fields.setdefault("boot_id", on.boot_id)
    fields.setdefault("seq", on.heartbeat_seq + next(_serial))
    fields.setdefault("agent_version", "0.1.0")
    fields.setdefault("interval_seconds", 1.0)
    return wire.Heartbeat(**fields)


def poll(
    on: Device,
    *named: tuple[Any, wire.AttemptState],
    of_each: dict[str, Any] | None = None,
    **fields: Any,
) -> wire.Poll:
    """A poll of `on` that names attempts: `(attempt, state)` each, and `of_each` what it says of
    them besides."""
    fields.setdefault("instance_id", on.instance_id)
    fields.setdefault("poll_seq", next(_serial))
    more = of_each or {}
    reports = [wire.AttemptReport(id=str(one.pk), state=state, **more) for one, state in named]
    return wire.Poll(attempts=reports, **fields)


def event(type: wire.EventType, **fields: Any) -> wire.AttemptEvent:
    return wire.AttemptEvent(event_id=str(uuid.uuid4()), type=type, **fields)
