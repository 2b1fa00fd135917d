"""What a device reports of an attempt (protocol §4): started, exited, start_failed, released."""

from dataclasses import asdict
from datetime import datetime

from django.utils.dateparse import parse_datetime

from agent import wire
from devices.models import GPU, Device
from experiments import held
from experiments.errors import AttemptEnded, IllegalTransition
from experiments.models import Attempt, Found, ReceivedEvent
from experiments.models.event import change
from experiments.models.job import needed_commands
from experiments.states import Outcome
from labsite.clock import database_now
from labsite.errors import NotFound

OUTCOMES = {
    wire.ExitCause.TIMED_OUT: Outcome.TIMED_OUT,
    wire.ExitCause.STOPPED: Outcome.CANCELLED,
    wire.ExitCause.FENCED: Outcome.LOST,
    wire.ExitCause.HOST_REBOOTED: Outcome.HOST_REBOOTED,
    wire.ExitCause.SUPERVISOR_LOST: Outcome.SUPERVISOR_LOST,
}


def receive(device: Device, attempt_id: str, event: wire.AttemptEvent) -> wire.EventReply:
    """Take in one event. A repeated `event_id` gets its first answer again, also after the end.

    Raises:
        NotFound: no such attempt, or another device's: it is none of this one's business.
        AttemptEnded: the attempt was given up before; to the agent, that settles the event.
    """
    try:
        return _receive(device, attempt_id, event)
    except AttemptEnded:
        _note_end(device, attempt_id, event)
        raise


def _receive(device: Device, attempt_id: str, event: wire.AttemptEvent) -> wire.EventReply:
    with change():
        attempt = _attempt_of(device, attempt_id)
        before = ReceivedEvent.objects.filter(pk=event.event_id, attempt=attempt).first()
        if before:
            return wire.EventReply(**{**before.answer, "duplicate": True})
        _HANDLERS[event.type](attempt, event, database_now())
        attempt.job.refresh_from_db(fields=["state"])
        answer = {"job_state": str(attempt.job.state), "outcome": str(attempt.outcome) or None}
        ReceivedEvent.objects.create(
            event_id=event.event_id, attempt=attempt, type=event.type.value, answer=answer
        )
    return wire.EventReply(**answer)


def _note_end(device: Device, attempt_id: str, event: wire.AttemptEvent) -> None:
    """How an attempt that had been given up ended there: for people to know, and nothing else."""
    if event.type not in (wire.EventType.EXITED, wire.EventType.START_FAILED):
        return
    attempt = Attempt.objects.filter(pk=attempt_id, device=device).select_related("job").get()
    now = database_now()
    attempt.note_found(
        Found.ENDED,
        now,
        exit_code=event.exit_code,
        cause=event.cause.value if event.cause else None,
        ended_at=_between(attempt.created_at, event.ended_at, now).isoformat(),
        message=event.message,
    )


def _attempt_of(device: Device, attempt_id: str) -> Attempt:
    """The attempt, its job and device locked: two copies of one event wait for each other, and
    rows are locked in one order by all (Device.lock)."""
    mine = Attempt.objects.filter(pk=attempt_id, device=device).select_related("job__project")
    attempt = mine.first()
    if attempt is None:
        raise NotFound("There is no such attempt, or it is not this device's.")
    attempt.job.lock()
    device.lock()
    return mine.get()


def _started(attempt: Attempt, event: wire.AttemptEvent, now: datetime) -> None:
    if attempt.started_at is None or not attempt.is_open:
        attempt.start(now, event.pid)
        attempt.note_environment(event.environment)


def _exited(attempt: Attempt, event: wire.AttemptEvent, now: datetime) -> None:
    if not attempt.is_open:
        raise AttemptEnded(f"{attempt} has ended; what it did since then changes nothing.")
    if attempt.started_at is None:  # `started` was lost: this event makes both transitions
        attempt.start(_between(attempt.created_at, event.started_at, now), event.pid)
    attempt.note_environment(event.environment)
    attempt.end(_outcome(event), now, exit_code=event.exit_code, message=event.message)


def _start_failed(attempt: Attempt, event: wire.AttemptEvent, now: datetime) -> None:
    taken = set(event.used_elsewhere) & set(attempt.gpu_uuids)
    outcome = Outcome.GPU_TAKEN if taken else Outcome.START_FAILED
    if event.lacks and _may_lack(attempt):
        outcome = Outcome.LACKING
        attempt.device.note_lacks([asdict(one) for one in event.lacks])
    attempt.end(outcome, now, message=event.message)
    GPU.objects.filter(uuid__in=taken, device=attempt.device).note_used_elsewhere()


def _may_lack(attempt: Attempt) -> bool:
    """Whether its host can have lacked anything: of a job that needs nothing, a start failed."""
    job = attempt.job
    return bool(job.requires or needed_commands(job.requires, job.python, attempt.device))


def _arrived(attempt: Attempt, event: wire.AttemptEvent, now: datetime) -> None:
    attempt.note_arrived()


def _released(attempt: Attempt, event: wire.AttemptEvent, now: datetime) -> None:
    if attempt.is_open:
        raise IllegalTransition(f"{attempt} has not ended, so it still holds its GPUs.")
    attempt.release(event.gpu_uuids)
    held.given_back(attempt)


_HANDLERS = {
    wire.EventType.STARTED: _started,
    wire.EventType.EXITED: _exited,
    wire.EventType.START_FAILED: _start_failed,
    wire.EventType.RELEASED: _released,
    wire.EventType.ARRIVED: _arrived,
}


def _outcome(event: wire.AttemptEvent) -> Outcome:
    if event.cause:
        return OUTCOMES[event.cause]
    return Outcome.SUCCEEDED if event.exit_code == 0 else Outcome.FAILED


def _between(low: datetime, claimed: str | None, high: datetime) -> datetime:
    """The agent's clock, for people to read: never before the attempt, never in the future."""
    try:
        at = parse_datetime(claimed or "")
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        return high
    return min(max(at, low), high)
