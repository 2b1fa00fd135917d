"""Writing what heartbeats tell, thousands a second.

Almost every beat changes the same few columns and nothing else. Those are written by one
prepared UPDATE for the whole batch, past the ORM, which costs ten times as much as the database
here. What seldom changes is compared with what is stored, and written only where it differs.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.db import connection, models
from django.db.models import Case, Value, When

from agent import wire
from devices import faults
from devices.models import GPU, Device, DeviceState
from labsite import wake
from labsite.clock import database_now

#: What is loaded of a device to judge a beat, besides SELDOM_OF_DEVICE.
JUDGED = (
    "host_id", "heartbeat_seq", "last_heartbeat_at", "goodbye_at", "revoked_at", "draining",
    "is_demo", "created_at",
)  # fmt: skip
SELDOM_OF_DEVICE = (
    "instance_id", "boot_id", "heartbeat_interval_seconds", "cpu_count", "memory_total_bytes",
    "disk_total_bytes", "versions", "unix_user", "run_as", "source_directory", "source",
    "driver_answers", "lacks",
)  # fmt: skip
ALWAYS_OF_DEVICE = (
    "heartbeat_seq", "last_heartbeat_at", "cpu_percent", "memory_used_bytes", "disk_free_bytes",
)  # fmt: skip
SELDOM_OF_GPU = (
    "device_id", "present", "missing_since", "index", "name", "simulated", "memory_total_bytes",
    "power_limit_watts", "used_elsewhere", "ecc_errors_lifetime", "remap_pending",
)  # fmt: skip
ALWAYS_OF_GPU = (
    "memory_used_bytes", "utilization_percent", "temperature_celsius", "power_watts",
    "graphics_clock_mhz", "memory_clock_mhz", "throttle_reasons", "xid_errors", "ecc_errors",
    "processes",
)  # fmt: skip


def load(ids: Iterable[int]) -> dict[int, Device]:
    """The devices of a batch, with what take_over() and write() compare, locked in one order:
    whoever writes to several at a time (polls, another web process) takes them in that order."""
    rows = Device.objects.only(*JUDGED, *SELDOM_OF_DEVICE).filter(pk__in=set(ids))
    return {one.pk: one for one in rows.order_by("pk").select_for_update(no_key=True)}


def write(
    newest: Mapping[int, wire.Heartbeat], devices: Mapping[int, Device], now: datetime
) -> None:
    """Store the newest beat of each device. In a transaction."""
    heard_at = connection.ops.adapt_datetimefield_value(now)
    rows = []
    for pk, beat in sorted(newest.items()):
        used, free = beat.memory_used_bytes, beat.disk_free_bytes
        rows.append((beat.seq, heard_at, beat.cpu_percent, used, free, pk))
        facts = _seldom_of_device(beat)
        if any(getattr(devices[pk], name) != fact for name, fact in facts.items()):
            Device.objects.filter(pk=pk).update(**facts)
            if len(facts["lacks"]) < len(devices[pk].lacks):
                wake.ask_dispatch()  # something is there now that jobs wait for
    _update(Device, ALWAYS_OF_DEVICE, "id", rows)
    _write_cards(newest, now)


def _seldom_of_device(beat: wire.Heartbeat) -> dict[str, Any]:
    return {
        "instance_id": beat.instance_id,
        "boot_id": beat.boot_id,
        "heartbeat_interval_seconds": beat.interval_seconds,
        "cpu_count": beat.cpu_count,
        "memory_total_bytes": beat.memory_total_bytes,
        "disk_total_bytes": beat.disk_total_bytes,
        "versions": {
            "agent": beat.agent_version,
            "driver": beat.driver_version,
            "cuda": beat.cuda_version,
            "torch": beat.torch_version,
            "python": beat.python_version,
        },
        "unix_user": beat.unix_user or "",
        "run_as": beat.run_as.value,
        "source_directory": beat.source_directory or "",
        "source": asdict(beat.source) if beat.source else None,
        "driver_answers": beat.driver_answers,
        "lacks": [asdict(one) for one in beat.lacks],
    }


def _write_cards(newest: Mapping[int, wire.Heartbeat], now: datetime) -> None:
    stored = GPU.objects.filter(device_id__in=newest).values_list(
        "uuid", "errors_judged", *SELDOM_OF_GPU
    )
    known, judged = {}, {}
    for uuid, errors, *facts in stored:
        known[uuid], judged[uuid] = facts, errors
    rows, others, named = [], [], set()
    for pk, beat in newest.items():
        for card in beat.gpus:
            named.add(card.uuid)
            if known.get(card.uuid) == _seldom_of_card(pk, card):
                rows.append(_row(card))
            else:
                others.append((pk, card))
    _update(GPU, ALWAYS_OF_GPU, "uuid", rows)
    _lay_in(others)
    faults.judge_errors(newest, judged, now)
    _miss({uuid: facts for uuid, facts in known.items() if uuid not in named}, newest, now)


def _miss(
    unnamed: Mapping[str, list[Any]], newest: Mapping[int, wire.Heartbeat], now: datetime
) -> None:
    """Cards that their device no longer names: fallen off the bus, taken out, or not read once.
    Those that `--gpus` leaves out are none of these."""
    left_out = {uuid for beat in newest.values() for uuid in beat.gpus_left_out} & unnamed.keys()
    if left_out:
        GPU.objects.filter(uuid__in=left_out).update(present=False, missing_since=None)
    gone, lost = [], []
    for uuid in unnamed.keys() - left_out:
        facts = dict(zip(SELDOM_OF_GPU, unnamed[uuid], strict=True))
        since = facts["missing_since"]
        if facts["present"]:
            gone.append(uuid)
        elif (
            since and now - since >= faults.GONE and faults.sees_cards(newest[facts["device_id"]])
        ):
            lost.append(uuid)
    if gone:
        rows = GPU.objects.filter(uuid__in=gone)
        rows.update(present=False, missing_since=Case(When(simulated=False, then=Value(now))))
    if lost:
        faults.judge_missing(lost, now)


def _seldom_of_card(device_id: int, card: wire.GPUReading) -> list[Any]:
    return [
        device_id, True, None, card.index, card.name, card.simulated, card.memory_total_bytes,
        card.power_limit_watts, card.used_elsewhere, card.ecc_errors_lifetime, card.remap_pending,
    ]  # fmt: skip


def _row(card: wire.GPUReading) -> tuple[Any, ...]:
    processes = json.dumps([asdict(one) for one in card.processes]) if card.processes else "[]"
    return (
        card.memory_used_bytes, card.utilization_percent, card.temperature_celsius,
        card.power_watts, card.graphics_clock_mhz, card.memory_clock_mhz,
        json.dumps(card.throttle_reasons), json.dumps(card.xid_errors), card.ecc_errors,
        processes, card.uuid,
    )  # fmt: skip


def _lay_in(read: Sequence[tuple[int, wire.GPUReading]]) -> None:
    """Store cards that are new, or about which something has changed that seldom does.

    A card that two devices claim to have (two agents on one host) stays with the first of them
    as long as that one is heard from: one card is never offered twice.
    """
    cards = {card.uuid: (pk, card) for pk, card in read}
    if not cards:
        return
    owners = GPU.objects.filter(uuid__in=cards, present=True).select_related("device")
    now = database_now()
    kept = {
        gpu.uuid
        for gpu in owners
        if gpu.device_id != cards[gpu.uuid][0] and gpu.device.state(now) == DeviceState.HEALTHY
    }
    GPU.objects.bulk_create(
        [
            GPU(device_id=pk, present=True, **asdict(card))
            for uuid, (pk, card) in cards.items()
            if uuid not in kept
        ],
        update_conflicts=True,
        unique_fields=["uuid"],
        update_fields=(*SELDOM_OF_GPU, *ALWAYS_OF_GPU),
    )


def _update(
    model: type[models.Model], names: Sequence[str], key: str, rows: Sequence[tuple[Any, ...]]
) -> None:
    """One UPDATE for each row: the values of `names` in their order, then that of the key."""
    if not rows:
        return
    quote = connection.ops.quote_name
    changes = ", ".join(f"{quote(model._meta.get_field(name).column)} = %s" for name in names)
    table, column = quote(model._meta.db_table), quote(model._meta.get_field(key).column)
    with connection.cursor() as cursor:
        cursor.executemany(f"UPDATE {table} SET {changes} WHERE {column} = %s", rows)  # noqa: S608
