"""GPU memory that an ended attempt has not given back (protocol §5)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from agent import wire
from devices.models import GPU, Fault
from experiments.models import Attempt, GPUClaim
from experiments.models.event import change


def note(attempt: Attempt, held: Sequence[wire.HeldGPU], now: datetime) -> None:
    """The device says that these cards of an ended attempt are not free, and that its others are.

    The others are given out again; one whose time is over is set aside. In change().
    """
    attempt.release(set(attempt.gpu_uuids) - {one.uuid for one in held})
    for one in sorted(held, key=lambda one: one.uuid):
        if one.held_seconds >= wire.RELEASE_SECONDS and one.uuid in attempt.gpu_uuids:
            _set_aside(attempt, one, now)


def given_back(attempt: Attempt) -> None:
    """Its memory is back after all: what was set aside for that alone is used again."""
    for gpu in GPU.objects.filter(fault=Fault.HELD, fault_facts__attempt=str(attempt.pk)):
        gpu.release()


def release_faulty() -> None:
    """An ended attempt holds no card that is set aside: nobody is given that one anyhow, and the
    attempt is not waited for because of it."""
    held = GPUClaim.objects.filter(
        attempt__ended_at__isnull=False, gpu__quarantined_at__isnull=False
    )
    for claim in held.select_related("attempt__job", "gpu").order_by("pk"):
        with change():
            claim.attempt.release([claim.gpu.uuid])


def _set_aside(attempt: Attempt, one: wire.HeldGPU, now: datetime) -> None:
    gpu = GPU.objects.filter(uuid=one.uuid, device_id=attempt.device_id, quarantined_at=None)
    for card in gpu.select_related("device"):
        if not card.was_held_by(str(attempt.pk)):
            card.fail(Fault.HELD, _facts(attempt, one), now)


def _facts(attempt: Attempt, one: wire.HeldGPU) -> dict[str, Any]:
    """What the sentence says: the run, unless it is a private project's, since everybody reads it;
    and of the processes the one that holds the most."""
    facts = {
        "attempt": str(attempt.pk),
        "run": "" if attempt.job.project.private else str(attempt.job),
        "memory_bytes": one.memory_bytes,
    }
    if one.processes:
        worst = max(one.processes, key=lambda process: process.memory_bytes or 0)
        facts |= {"pid": worst.pid, "user": worst.user}
        facts["memory_bytes"] = worst.memory_bytes or one.memory_bytes
    return facts
