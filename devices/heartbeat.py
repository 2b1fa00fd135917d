"""Taking in heartbeats: whole batches in one transaction, for the lane and for the DRF view."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from agent import wire
from devices import readings
from devices.errors import DuplicateAgent
from devices.models import Device, DeviceState, ServerIdentity
from labsite import wake
from labsite.clock import database_now
from labsite.errors import NotFound, Refused

INCUMBENT = timedelta(seconds=wire.INCUMBENT_SECONDS)


@dataclass(frozen=True)
class Beat:
    device_id: int
    message: wire.Heartbeat


def record(beats: Sequence[Beat]) -> list[wire.HeartbeatReply | Refused]:
    """Take in a batch, in one transaction; the answers stand in the order of the beats.

    Of one device's beats the later ones win. A beat whose `seq` is not above the last one seen
    of its instance changes nothing and is told so. No wake-up tells of readings: pages' tailer
    looks at all devices each second anyhow.
    """
    now = database_now()
    server_id = ServerIdentity.current()
    with transaction.atomic():
        devices = readings.load(beat.device_id for beat in beats)
        before = {pk: device.state(now) for pk, device in devices.items()}
        missed_since = {
            pk: device.last_heartbeat_at
            for pk, device in devices.items()
            if before[pk] == DeviceState.DISCONNECTED and not device.has_said_goodbye
        }  # an orderly stop is no silence
        answers = [_take(beat, devices, now, server_id) for beat in beats]
        newest = {
            beat.device_id: beat.message
            for beat, answer in zip(beats, answers, strict=True)
            if isinstance(answer, wire.HeartbeatReply) and not answer.ignored
        }
        readings.write(newest, devices, now)
        for pk in newest:
            if since := missed_since.get(pk):
                devices[pk].came_back(since, now)
        if any(before[pk] != DeviceState.HEALTHY and not devices[pk].draining for pk in newest):
            wake.ask_dispatch()  # one came back, and may take work
    return answers


def _take(
    beat: Beat, devices: dict[int, Device], now: datetime, server_id: str
) -> wire.HeartbeatReply | Refused:
    device = devices.get(beat.device_id)
    if device is None:
        return NotFound("This device has been deleted.")
    message = beat.message
    if message.instance_id != device.instance_id:
        if not _may_take_over(device, message, now):
            return DuplicateAgent(
                f"Another agent for {device.host_id} is alive ({device.instance_id[:8]}…). "
                "Stop one of the two, or give this one a --host-id and --workdir of its own.",
                incumbent=device.instance_id,
                retry_after_seconds=3,
            )
        device.instance_id = message.instance_id
        Device.objects.filter(pk=device.pk).update(instance_id=message.instance_id, poll_seq=-1)
    elif message.seq <= device.heartbeat_seq:
        return _reply(device, now, server_id, ignored=True)
    # For what comes later in this batch; what is stored is readings' business.
    device.heartbeat_seq, device.last_heartbeat_at = message.seq, now
    return _reply(device, now, server_id)


def _may_take_over(device: Device, message: wire.Heartbeat, now: datetime) -> bool:
    """Whether a new instance succeeds the incumbent now, or must wait for its silence."""
    if not device.instance_id or device.last_heartbeat_at is None or device.has_said_goodbye:
        return True
    if message.previous_instance_id == device.instance_id and message.boot_id == device.boot_id:
        return True  # the same agent, started again: it found its predecessor's state
    if message.boot_id != device.boot_id:
        return True  # the machine was started again (the token is bound to it)
    return now - device.last_heartbeat_at > INCUMBENT


def _reply(
    device: Device, now: datetime, server_id: str, *, ignored: bool = False
) -> wire.HeartbeatReply:
    return wire.HeartbeatReply(
        server_id=server_id,
        server_time=now.isoformat(),
        next_heartbeat_seconds=settings.LAB_HEARTBEAT_SECONDS,
        draining=device.draining,
        ignored=ignored,
    )
