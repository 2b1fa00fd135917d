"""Heartbeats: what they write, whose they are, and how a device is by their age."""

import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from agent import wire
from devices import heartbeat
from devices.errors import DuplicateAgent
from devices.heartbeat import Beat
from devices.models import GPU, Device, DeviceState, allowance
from labsite.clock import database_now
from tests import make
from tests.waiting import until_somebody_waits_for_a_row

db = pytest.mark.django_db


def beat(device: Device, **fields):
    [answer] = heartbeat.record([Beat(device.pk, make.beat(device, **fields))])
    return answer


def reading(uuid: str = "GPU-1", **fields) -> wire.GPUReading:
    return wire.GPUReading(uuid=uuid, index=0, name="RTX 3090", **fields)


@db
def test_a_beat_makes_a_device_healthy_and_knows_its_gpus():
    device = make.device(online=False)

    reply = beat(device, gpus=[reading(memory_total_bytes=24 * 2**30)], cpu_percent=12.5)

    device.refresh_from_db()
    assert device.state(database_now()) == DeviceState.HEALTHY
    assert (device.cpu_percent, device.gpus.get().memory_total_bytes) == (12.5, 24 * 2**30)
    assert not reply.ignored


@db
def test_an_older_beat_is_ignored():
    device = make.device()
    beat(device, seq=10, cpu_percent=1)

    reply = beat(device, seq=10, cpu_percent=99)

    device.refresh_from_db()
    assert reply.ignored
    assert device.cpu_percent == 1


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite has one lock")
@pytest.mark.django_db(transaction=True)
def test_beats_and_whoever_else_writes_to_several_devices_lock_them_in_one_order():
    first, second = make.device(), make.device()
    anew = [make.beat(device, instance_id="anew", boot_id="boot-2") for device in (second, first)]
    beats = [Beat(second.pk, anew[0]), Beat(first.pk, anew[1])]

    def record():
        try:
            heartbeat.record(beats)
        finally:
            connection.close()

    thread = threading.Thread(target=record)
    with transaction.atomic():
        first.drain()
        thread.start()
        until_somebody_waits_for_a_row()
        second.drain()  # or: deadlock detected
    thread.join()

    assert set(Device.objects.values_list("instance_id", flat=True)) == {"anew"}


@db
def test_of_one_devices_beats_in_a_batch_the_newest_wins():
    device = make.device()
    beats = [Beat(device.pk, make.beat(device, seq=s, cpu_percent=s)) for s in (7, 9, 8)]

    answers = heartbeat.record(beats)

    device.refresh_from_db()
    assert (device.cpu_percent, device.heartbeat_seq) == (9, 9)
    assert [answer.ignored for answer in answers] == [False, False, True]


@db
def test_a_gpu_that_is_no_longer_named_is_absent():
    device = make.device()
    beat(device, gpus=[reading("GPU-1"), reading("GPU-2")])

    beat(device, gpus=[reading("GPU-2")])

    assert list(GPU.objects.present().values_list("uuid", flat=True)) == ["GPU-2"]


@db
def test_a_card_that_two_devices_name_stays_with_the_first():
    first, second = make.device(), make.device()
    beat(first, gpus=[reading()])

    beat(second, gpus=[reading()])

    assert GPU.objects.get().device == first


@db
def test_a_card_moved_to_another_host_follows():
    first, second = make.device(), make.device()
    beat(first, gpus=[reading()])
    Device.objects.filter(pk=first.pk).update(last_heartbeat_at=database_now() - timedelta(days=1))

    beat(second, gpus=[reading()])

    assert GPU.objects.get().device == second


@db
def test_a_second_living_agent_is_refused():
    device = make.device()
    incumbent = device.instance_id

    answer = beat(device, instance_id="other")

    assert isinstance(answer, DuplicateAgent)
    device.refresh_from_db()
    assert device.instance_id == incumbent


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_instance_id": "instance-x"},  # the same agent, started again
        {"boot_id": "boot-2"},  # after a reboot
    ],
)
@db
def test_a_successor_takes_over_at_once(fields):
    device = make.device(instance_id="instance-x", poll_seq=50)

    answer = beat(device, instance_id="new", seq=1, **fields)

    device.refresh_from_db()
    assert not answer.ignored
    assert (device.instance_id, device.poll_seq) == ("new", -1)


@db
def test_a_stranger_takes_over_after_three_seconds_of_silence():
    device = make.device(last_heartbeat_at=database_now() - timedelta(seconds=3.1))

    assert not beat(device, instance_id="new").ignored


@db
def test_goodbye_is_not_healthy_at_once():
    device = make.device()

    device.say_goodbye(device.instance_id, database_now())

    device.refresh_from_db()
    assert device.state(database_now()) == DeviceState.DISCONNECTED


def test_at_one_beat_a_second_a_device_is_healthy_for_three_seconds_exactly():
    assert allowance(1.0) == 1.0


@given(interval=st.floats(0.05, 60), age=st.floats(0, 10_000))
def test_the_state_is_a_function_of_the_age(interval, age):
    now = timezone.now()
    device = Device(
        heartbeat_interval_seconds=interval, last_heartbeat_at=now - timedelta(seconds=age)
    )
    k = max(1, 2.5 * interval / 3)
    age = (now - device.last_heartbeat_at).total_seconds()  # as microseconds allow

    expected = "healthy" if age <= 3 * k else "stale" if age <= 30 * k else "disconnected"

    assert device.state(now) == expected


@db
def test_the_server_asks_for_its_own_interval_however_slow_the_agent_was(settings):
    settings.LAB_HEARTBEAT_SECONDS = 2.0

    assert beat(make.device(), interval_seconds=10.0).next_heartbeat_seconds == 2.0
