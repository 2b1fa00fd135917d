"""What beat after beat leaves in the rows, by the quick way and by the thorough one."""

from dataclasses import replace

import pytest

from agent import wire
from devices import heartbeat
from devices.heartbeat import Beat
from devices.models import GPU
from tests import make

pytestmark = pytest.mark.django_db

CARD = wire.GPUReading(
    uuid="GPU-1", index=0, name="RTX 3090", memory_used_bytes=1, memory_total_bytes=2**34,
    utilization_percent=1.5, power_limit_watts=350,
)  # fmt: skip


def beat(device, **fields) -> None:
    heartbeat.record([Beat(device.pk, make.beat(device, **fields))])


def stored(device) -> GPU:
    return GPU.objects.get(device=device)


def test_every_beat_moves_what_always_moves():
    device = make.device()
    beat(device, cpu_percent=1, memory_used_bytes=10, disk_free_bytes=100)
    first_at = type(device).objects.get().last_heartbeat_at

    beat(device, cpu_percent=2, memory_used_bytes=20, disk_free_bytes=None)

    device.refresh_from_db()
    assert (device.cpu_percent, device.memory_used_bytes, device.disk_free_bytes) == (2, 20, None)
    assert device.last_heartbeat_at > first_at


def test_what_seldom_changes_is_written_when_it_does():
    device = make.device()
    source = wire.Source(commit="c", branch="main", dirty=False, source_hash="h")
    beat(device, driver_version="570", unix_user="kim")

    beat(device, driver_version="580", unix_user=None, source=source, cpu_count=64)

    device.refresh_from_db()
    assert (device.versions["driver"], device.unix_user, device.cpu_count) == ("580", "", 64)
    assert device.source["branch"] == "main"


def test_a_known_cards_readings_are_renewed():
    device = make.device()
    beat(device, gpus=[CARD])
    process = wire.GPUProcess(pid=7, user="김", memory_bytes=None, attempt_id=None)

    busy = replace(
        CARD, memory_used_bytes=5, utilization_percent=99.5, temperature_celsius=80,
        power_watts=300.5, xid_errors=[79], ecc_errors=2, processes=[process],
    )  # fmt: skip
    beat(device, gpus=[busy])

    card = stored(device)
    assert (card.memory_used_bytes, card.utilization_percent, card.ecc_errors) == (5, 99.5, 2)
    assert (card.temperature_celsius, card.power_watts, card.xid_errors) == (80, 300.5, [79])
    assert card.foreign_processes == [
        {"pid": 7, "user": "김", "memory_bytes": None, "attempt_id": None}
    ]


def test_a_card_that_changed_its_place_or_limit_is_written_whole():
    device = make.device()
    beat(device, gpus=[CARD])

    beat(device, gpus=[replace(CARD, index=3, power_limit_watts=300, memory_used_bytes=9)])

    card = stored(device)
    assert (card.index, card.power_limit_watts, card.memory_used_bytes) == (3, 300, 9)


def test_a_card_that_another_agent_of_its_host_has_is_noted_until_it_is_free():
    device = make.device()
    beat(device, gpus=[CARD])

    beat(device, gpus=[replace(CARD, used_elsewhere=True)])
    assert stored(device).used_elsewhere

    beat(device, gpus=[CARD])
    assert not stored(device).used_elsewhere


def test_a_card_that_was_absent_is_present_again():
    device = make.device()
    for gpus in ([CARD], [], [CARD]):
        beat(device, gpus=gpus)

    assert stored(device).present


def test_a_batch_costs_as_many_queries_as_a_beat(django_assert_max_num_queries):
    devices = [make.device() for _ in range(20)]

    def batch():
        return [
            Beat(one.pk, make.beat(one, gpus=[replace(CARD, uuid=f"GPU-{one.pk}")]))
            for one in devices
        ]

    heartbeat.record(batch())

    with django_assert_max_num_queries(8):  # clock, identity, transaction, devices, cards, writes
        answers = heartbeat.record(batch())

    assert len(answers) == len(devices)
    assert all(stored(one).uuid == f"GPU-{one.pk}" for one in devices)
