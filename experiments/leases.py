"""The poll (protocol §3), and the ends that nobody reports: leases that ran out.

`poll()` takes in what devices say is alive and answers with all that should be; the lane calls
it with batches, the DRF view with one. `answer()` is its reading half, asked again for polls
that are held. `reap()` ends what can end only by time passing, and judges nobody while the
server itself was blind.
"""

import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings

from agent import wire
from devices.errors import DuplicateAgent
from devices.models import Device, DeviceState, ServerIdentity
from experiments import held
from experiments.errors import AttemptEnded, LostRace
from experiments.models import Attempt, Found, GivenSecret, GPUClaim, Pulse
from experiments.models.event import change
from experiments.states import OnDeviceLost, Outcome
from labsite.clock import database_now
from labsite.errors import NotFound, Refused

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # between polls that are not held
SIGHT = timedelta(seconds=min(wire.LEASE_SECONDS, 600))  # so long it must have seen without a gap
ACCEPTANCE = timedelta(seconds=wire.ACCEPT_SECONDS)
MASS_WINDOW = timedelta(seconds=60)
MASS_AT_LEAST = 3
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Call:
    device_id: int
    message: wire.Poll


# --- the poll -----------------------------------------------------------------------------------


def poll(calls: Sequence[Call]) -> list[wire.PollReply | Refused]:
    """Take in polls and answer them, in one transaction; answers in the order of the calls.

    Renews the leases of the attempts named, notes acceptances and what files there are, and
    gives back the GPUs of ended attempts that a device no longer names. A `poll_seq` not above
    the last one seen changes nothing.
    """
    now = database_now()
    with change():  # its events are written last, or a lock would be held while waiting for rows
        devices = Device.objects.in_bulk({call.device_id for call in calls})
        refusals = [_refusal(call, devices.get(call.device_id)) for call in calls]
        heard = [call for call, refused in zip(calls, refusals, strict=True) if not refused]
        named, holders, awaited = _named(heard), _holders(heard), _awaited(heard)
        for call in sorted(heard, key=lambda call: call.device_id):
            device = devices[call.device_id]
            if not _take_in(call, device, named, now):
                continue
            ids = {report.id for report in call.message.attempts}
            if device.pk in holders:
                _release_unnamed(device, ids)
            if len(ids) < wire.MAX_REPORTS:  # else some of those that have ended were left out
                _note_arrived(awaited.get(device.pk, ()), ids)
        replies = iter(answer(heard))
    return [refused or next(replies) for refused in refusals]


def _refusal(call: Call, device: Device | None) -> Refused | None:
    if device is None:
        return NotFound("This device has been deleted.")
    if call.message.instance_id != device.instance_id:
        return DuplicateAgent(
            f"This agent is not the one that {device.host_id} is heard from; "
            "a heartbeat must be accepted before a poll.",
            incumbent=device.instance_id,
            retry_after_seconds=3,
        )
    return None


def _named(calls: Iterable[Call]) -> dict[str, Attempt]:
    """The attempts that these polls name and that belong to the polling devices."""
    ids = {report.id for call in calls for report in call.message.attempts}
    devices = {call.device_id for call in calls}
    known = Attempt.objects.filter(pk__in=_uuids(ids), device_id__in=devices)
    return {str(attempt.pk): attempt for attempt in known.select_related("job__project")}


def _uuids(ids: Iterable[str]) -> list[str]:
    """Those that have a UUID's form; another id is unknown here, which is not an error."""
    return [one for one in ids if _UUID.fullmatch(one)]


def _holders(calls: Iterable[Call]) -> set[int]:
    """The polling devices on which an ended attempt still holds a GPU. Asked once for all of
    them: as a rule there is none."""
    devices = {call.device_id for call in calls}
    claims = GPUClaim.objects.filter(attempt__device__in=devices, attempt__ended_at__isnull=False)
    return set(claims.values_list("attempt__device_id", flat=True))


def _awaited(calls: Iterable[Call]) -> dict[int, list[Attempt]]:
    """Ended attempts of the polling devices whose files were still to come. Asked once as well."""
    devices = {call.device_id for call in calls}
    found: dict[int, list[Attempt]] = defaultdict(list)
    coming = Attempt.objects.filter(files_to_come=True, ended_at__isnull=False)
    for attempt in coming.filter(device__in=devices).only("job", "device", "files_to_come"):
        found[attempt.device_id].append(attempt)
    return found


def _note_arrived(awaited: Iterable[Attempt], named: set[str]) -> None:
    """Of those that its agent names no more."""
    for attempt in awaited:
        if attempt.files_to_come and str(attempt.pk) not in named:
            attempt.note_arrived()


def _take_in(call: Call, device: Device, named: dict[str, Attempt], now: datetime) -> bool:
    """Return whether it was news."""
    alive = {report.id for report in call.message.attempts if report.state.alive}
    mine = [
        (report, attempt)
        for report in call.message.attempts
        if (attempt := named.get(report.id)) and attempt.device_id == device.pk
    ]
    runs_ended = any(report.id in alive and not attempt.is_open for report, attempt in mine)
    known = {report.id for report, _attempt in mine}
    unknown = [report for report in call.message.attempts if report.id in alive - known]
    if not device.polled(
        call.message.poll_seq,
        now,
        runs_ended_attempt=runs_ended,
        unknown=_unknown(unknown, device, now),
    ):
        return False
    _renew([attempt for _report, attempt in mine if attempt.is_open], now)
    for report, attempt in mine:
        _note(report, attempt, now)
    if device.expects_word:
        _ask_what_became(device, call.message, now)
    return True


def _unknown(
    reports: Iterable[wire.AttemptReport], device: Device, now: datetime
) -> list[dict[str, Any]]:
    """What is alive there and unknown here, with the moment since when that is so."""
    since = {one["id"]: one["since"] for one in device.unknown_attempts}
    return [
        {
            "id": report.id,
            "pid": report.pid,
            "started_at": report.started_at,
            "since": since.get(report.id, now.isoformat()),
        }
        for report in reports
    ]


def _ask_what_became(device: Device, message: wire.Poll, now: datetime) -> None:
    """Note of each attempt that was ended while this device could not be reached what is left.

    One that is named as exited is left to the event that tells how (reports.receive). The
    device's row is locked by now, so that no further such end comes in between.
    """
    states = {report.id: report.state for report in message.attempts}
    waits = False
    for attempt in Attempt.objects.unsettled().filter(device=device).select_related("job"):
        state = states.get(str(attempt.pk))
        waits = waits or state is not None
        if state is None:
            attempt.note_found(Found.GONE, now)
        elif state.alive:
            attempt.note_found(Found.RUNNING, now)
    if not waits:
        device.has_given_word()


def _renew(attempts: Sequence[Attempt], now: datetime) -> None:
    if attempts:
        Attempt.objects.open().filter(pk__in=[attempt.pk for attempt in attempts]).update(
            renewed_at=now
        )


def _note(report: wire.AttemptReport, attempt: Attempt, now: datetime) -> None:
    if report.held_gpus and not attempt.is_open:
        held.note(attempt, report.held_gpus, now)
    if attempt.is_open and attempt.accepted_at is None:
        attempt.accept(now)
    files = {
        name: {
            "generation": file.generation,
            "size_bytes": file.size_bytes,
            "acked_bytes": file.acked_bytes,
        }
        for name, file in report.files.items()
    }
    left_out = [
        {"name": one.name, "reason": one.reason.value, "size_bytes": one.size_bytes}
        for one in report.left_out
    ]
    if report.files_to_come and not (files or left_out):
        # An agent that has just started has not looked at them yet.
        files, left_out = attempt.files_advertised, attempt.files_left_out
    noted = (attempt.files_advertised, attempt.files_left_out, attempt.files_to_come)
    if (files, left_out, report.files_to_come) != noted:
        attempt.advertise(files, now, left_out, to_come=report.files_to_come)


def _release_unnamed(device: Device, named: set[str]) -> None:
    """Give back the GPUs of ended attempts that the device does not name any more.

    While it still names one as exited, the event `released` gives them back: the agent has not
    seen the cards' memory return yet.
    """
    claims = GPUClaim.objects.filter(attempt__device=device, attempt__ended_at__isnull=False)
    for attempt_id in set(claims.values_list("attempt_id", flat=True)):
        if str(attempt_id) not in named:
            Attempt.objects.select_related("job").get(pk=attempt_id).release()


# --- its answer ---------------------------------------------------------------------------------


def answer(calls: Sequence[Call]) -> list[wire.PollReply]:
    """What should run on each polling device, and which of the named have ended. Reads only."""
    server_id = ServerIdentity.current()
    devices = Device.objects.in_bulk({call.device_id for call in calls})
    orders: dict[int, list[wire.AttemptOrder]] = defaultdict(list)
    open_attempts = Attempt.objects.open().filter(device_id__in=devices)
    open_attempts = open_attempts.select_related("job__project", "job__user", "job__snapshot")
    attempts = list(open_attempts.order_by("pk"))
    given = GivenSecret.of(one for one in attempts if one.job.secrets and not one.started_at)
    for attempt in attempts:
        device, secrets = devices[attempt.device_id], given.get(attempt.pk, {})
        orders[attempt.device_id].append(order(attempt, device, secrets))
    named = _named(calls)
    replies = []
    for call in calls:
        ended = [
            report.id
            for report in call.message.attempts
            if (attempt := named.get(report.id))
            and attempt.device_id == call.device_id
            and not attempt.is_open
        ]
        device = devices.get(call.device_id)
        draining = device is None or device.draining
        replies.append(_reply(server_id, ended, draining, orders[call.device_id]))
    return replies


def _reply(
    server_id: str, ended: list[str], draining: bool, orders: list[wire.AttemptOrder]
) -> wire.PollReply:
    fields: dict[str, Any] = {
        "server_id": server_id,
        "ended": sorted(ended),
        "draining": draining,
        "poll_seconds": POLL_SECONDS,
        "attempts": orders,
    }
    unmarked = wire.PollReply(revision="", **fields)
    revision = hashlib.sha256(wire.dumps(unmarked)).hexdigest()[:16]
    return wire.PollReply(revision=revision, **fields)


def order(
    attempt: Attempt, device: Device, secrets: dict[str, str] | None = None
) -> wire.AttemptOrder:
    """All that the agent needs to run this attempt: the job's wishes laid on its device's.

    `secrets` are told until it has started; whoever has to mask them in its log asks again.
    """
    job = attempt.job
    reason = job.stop_reason
    return wire.AttemptOrder(
        id=str(attempt.pk),
        number=attempt.number,
        experiment_uid=job.uid,
        project=job.project.name,
        run_name=job.run_name,
        user=job.user.get_username() if job.user else "",
        command=job.command,
        environment={**_host_variables(attempt, device), **job.environment},
        secrets=secrets or {},
        gpus=attempt.gpu_uuids,
        gpu_ids="uuid",
        python=job.python or device.python or None,
        working_directory=_directory(job, device),
        source=_code(job),
        run_as=_run_as(attempt, device),
        config_sha256=hashlib.sha256(job.config).hexdigest() if job.config else None,
        time_limit_seconds=job.time_limit_seconds,
        stop_grace_seconds=job.stop_grace_seconds,
        lease_seconds=wire.LEASE_SECONDS,
        on_device_lost=wire.OnDeviceLost(attempt.on_device_lost),
        resume=wire.decode(wire.Resume, attempt.resume) if attempt.resume else None,
        stop=wire.Stop(reason) if reason else None,
        confirmed=attempt.accepted_at is not None,
        outputs=job.outputs,
        ignore=job.ignore,
        sync=wire.decode(wire.SyncPolicy, job.sync),
        secret_names=job.secrets,
        requires=wire.decode(wire.Requires, job.requires),
    )


def _host_variables(attempt: Attempt, device: Device) -> dict[str, str]:
    """As its page tells them, whatever a manager has changed since."""
    noted: dict[str, str] | None = attempt.host_variables
    return device.environment if noted is None else noted


def _directory(job: Any, device: Device) -> str | None:
    """A device's is a folder there, where code that is laid down anew does not lie."""
    default = "" if job.source else device.working_directory
    return job.working_directory or default or None


def _code(job: Any) -> wire.Code | None:
    if not job.source:
        return None
    held = job.snapshot
    counted = {"size_bytes": held.size_bytes, "file_count": held.file_count} if held else {}
    return wire.Code(**job.source, **counted, links=job.links)


def _run_as(attempt: Attempt, device: Device) -> str | None:
    """Its agent refuses None when it runs jobs as their submitters: then nobody is named."""
    if device.run_as == wire.JobUser.AGENT:
        return None
    return attempt.unix_user or None


def stamp() -> None:
    """The lane was alive now, as agents meet it: called each second through its own writer."""
    Pulse.beat(Pulse.LANE, database_now())


# --- what ends by time --------------------------------------------------------------------------


def reap(now: datetime | None = None) -> list[Attempt]:
    """End the attempts that nobody accepted, and those whose lease ran out; return them.
    Release what ended ones hold of cards that are faulty, and believe no time that is yet to come.

    May be called at any time, twice, or by two processes: each end is a conditional UPDATE.
    """
    now = now or database_now()
    Device.objects.set_back(now)
    held.release_faulty()
    if not Attempt.objects.open().exists():
        return []  # as a rule: this is asked every other second
    ended = []
    if server_sees(now, ACCEPTANCE):
        ended = [one for one in _not_accepted(now) if _end(one, Outcome.NOT_ACCEPTED, now)]
    if server_sees(now):
        brake = mass_loss(now)
        for attempt in _leases_out(now):
            if brake:
                logger.error("%s is not requeued: %s", attempt, brake.sentence)
            elif _end(attempt, Outcome.LOST, now, unconfirmed=True):
                ended.append(attempt)
    return ended


def server_sees(now: datetime, for_so_long: timedelta = SIGHT) -> bool:
    """Whether the lane answers now and did without a gap for a whole lease, or for so long.

    A server that was down, stalled or without its database heard nobody, and nobody is to blame
    for that.
    """
    return now - Pulse.sees_since(now) >= for_so_long


@dataclass(frozen=True)
class MassLoss:
    """Half or more of the busy devices vanished together: the network, not they."""

    vanished: list[Device]
    busy: int

    @property
    def since(self) -> datetime:
        return min(device.last_heartbeat_at for device in self.vanished)

    @property
    def sentence(self) -> str:
        names = ", ".join(device.host_id for device in self.vanished[:5])
        return (
            f"{len(self.vanished)} of {self.busy} busy GPU servers vanished within a minute "
            f"({names}); check the network and power first"
        )


def mass_loss(now: datetime) -> MassLoss | None:
    """The brake on requeueing, while it holds. Pages ask here too, to tell the manager."""
    busy = list(
        Device.objects.filter(
            is_demo=False, attempts__ended_at=None, attempts__isnull=False
        ).distinct()
    )
    gone = [device for device in busy if _has_vanished(device, now)]
    for device in gone:
        since = device.last_heartbeat_at
        together = [d for d in gone if timedelta(0) <= d.last_heartbeat_at - since <= MASS_WINDOW]
        if len(together) >= MASS_AT_LEAST and 2 * len(together) >= len(busy):
            return MassLoss(together, len(busy))
    return None


def _has_vanished(device: Device, now: datetime) -> bool:
    """Without a word: neither was its agent stopped in order, nor its access taken away."""
    if device.last_heartbeat_at is None or device.has_said_goodbye or device.revoked_at:
        return False
    return device.state(now) == DeviceState.DISCONNECTED


def _not_accepted(now: datetime) -> list[Attempt]:
    since = now - ACCEPTANCE
    waiting = Attempt.objects.real().open().filter(accepted_at=None, created_at__lte=since)
    return list(waiting.select_related("job__project", "device"))


def _leases_out(now: datetime) -> list[Attempt]:
    """Policy `requeue`: not named for a lease. Policy `wait`: for LAB_GIVE_UP_AFTER_SECONDS."""
    accepted = Attempt.objects.real().open().filter(accepted_at__isnull=False)
    given = accepted.select_related("job__project", "device")
    patience = timedelta(seconds=settings.LAB_GIVE_UP_AFTER_SECONDS)
    requeue = given.filter(
        on_device_lost=OnDeviceLost.REQUEUE,
        renewed_at__lte=now - timedelta(seconds=wire.LEASE_SECONDS),
    )
    wait = given.filter(on_device_lost=OnDeviceLost.WAIT, renewed_at__lte=now - patience)
    return [*requeue, *wait]


def _end(attempt: Attempt, outcome: Outcome, now: datetime, *, unconfirmed: bool = False) -> bool:
    try:
        attempt.end(outcome, now, unconfirmed=unconfirmed, if_still=_unchanged(attempt))
    except (AttemptEnded, LostRace):
        return False  # it was accepted, renewed or ended meanwhile
    logger.warning("%s on %s: %s", attempt, attempt.device, outcome.label)
    return True


def _unchanged(attempt: Attempt) -> dict[str, Any]:
    """What must still hold when it is ended: a poll may come in between."""
    return {"accepted_at": attempt.accepted_at, "renewed_at": attempt.renewed_at}
