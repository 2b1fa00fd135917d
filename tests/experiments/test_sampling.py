"""History: noted once a minute, made coarser when it is over, forgotten when it is old."""

from datetime import timedelta

import pytest

from devices.models import GPU, Device, DeviceSample, GPUSample, Span, minute_of
from experiments import sampling
from experiments.models import LabSample
from labsite.clock import database_now
from tests import make

pytestmark = pytest.mark.django_db


@pytest.fixture
def now():
    return database_now()


def used(percent: float) -> None:
    GPU.objects.update(utilization_percent=percent, memory_used_bytes=8 * 2**30)


def pretend_heard(moment) -> None:
    Device.objects.update(last_heartbeat_at=moment, last_poll_at=moment)


def test_a_sample_says_how_each_card_is_and_who_has_it(now):
    attempt = make.attempt(make.job(gpus=1), make.device(gpus=2, cpu_percent=37.6), started=True)
    held = GPU.objects.get(claim__attempt=attempt)
    GPU.objects.filter(pk=held.pk).update(
        utilization_percent=93.4,
        memory_used_bytes=20 * 2**30,
        temperature_celsius=71,
        power_watts=310,
    )

    sampling.sample(now)

    row = GPUSample.objects.get(gpu=held)
    assert (row.span, row.minute) == (Span.MINUTE, minute_of(now))
    assert (row.utilization_percent_mean, row.memory_mib_max) == (93, 20 * 1024)
    assert (row.temperature_celsius_mean, row.power_watts_mean) == (71, 310)
    assert (row.held_by, row.job_minutes, row.outside_minutes) == (attempt.job_id, 1, 0)
    assert DeviceSample.objects.get().cpu_percent_mean == 38
    lab = LabSample.objects.get()
    assert (lab.gpus, lab.busy, lab.running, lab.waiting) == (2, 1, 1, 0)


def test_who_works_outside_the_queue_is_noted(now):
    device = make.device()
    process = {"pid": 7, "user": "siwoo", "memory_bytes": 9 * 2**30, "attempt_id": None}
    make.gpu(device, memory_used_bytes=9 * 2**30, processes=[process])

    sampling.sample(now)

    row = GPUSample.objects.get()
    assert (row.outside_minutes, row.outside_users, row.job_minutes) == (1, "siwoo", 0)


def test_a_host_that_is_not_heard_of_leaves_a_gap(now):
    make.device(gpus=4, online=False)

    sampling.sample(now)

    assert not GPUSample.objects.exists()
    assert LabSample.objects.get().unreachable == 4


def test_a_minute_is_sampled_once_whoever_asks(now, monkeypatch):
    make.device(gpus=1)

    assert sampling.sample_when_due(now)
    assert not sampling.sample_when_due(now)
    monkeypatch.setattr(sampling._Last, "minute", 0)  # another process
    assert not sampling.sample_when_due(now)
    sampling.sample(now)  # and one that was between its question and its rows

    assert GPUSample.objects.count() == 1


def test_ten_minutes_and_hours_are_summed_up_when_they_are_over(now):
    attempt = make.attempt(make.job(gpus=1), make.device(gpus=1), started=True)
    start = now - timedelta(minutes=minute_of(now) % 60 + 120)
    for minute in range(60):
        at = start + timedelta(minutes=minute)
        pretend_heard(at)
        used(10.0 if minute < 30 else 90.0)
        sampling.sample(at)

    sampling.roll(Span.TEN, Span.MINUTE, minute_of(start) + 60)
    sampling.roll(Span.HOUR, Span.TEN, minute_of(start) + 60)

    tens = GPUSample.objects.filter(span=Span.TEN).order_by("minute")
    assert [row.utilization_percent_mean for row in tens] == [10, 10, 10, 90, 90, 90]
    hour = GPUSample.objects.get(span=Span.HOUR)
    assert hour.minute == minute_of(start)
    told = (
        hour.utilization_percent_min,
        hour.utilization_percent_mean,
        hour.utilization_percent_max,
    )
    assert told == (10, 50, 90)
    assert (hour.job_minutes, hour.held_by) == (60, attempt.job_id)
    assert DeviceSample.objects.filter(span=Span.HOUR).count() == 1


def test_what_is_not_over_is_not_summed_up_and_nothing_twice(now):
    make.device(gpus=1)
    start = now - timedelta(minutes=minute_of(now) % 10)
    for minute in range(15):
        at = start + timedelta(minutes=minute)
        pretend_heard(at)
        sampling.sample(at)

    for _ in range(2):
        sampling.roll(Span.TEN, Span.MINUTE, minute_of(start) + 15)

    assert GPUSample.objects.filter(span=Span.TEN).count() == 1


def test_what_is_old_is_forgotten_by_its_kind(now):
    card = make.gpu(make.device())
    ages = {Span.MINUTE: timedelta(hours=26), Span.TEN: timedelta(days=9)}
    for span, age in ages.items():
        for at in (now - age, now - timedelta(hours=2)):
            GPUSample.objects.create(gpu=card, span=span, minute=minute_of(at))

    sampling.forget(now)

    assert sorted(GPUSample.objects.values_list("span", flat=True)) == [Span.MINUTE, Span.TEN]


def test_a_large_lab_costs_a_few_statements(now, django_assert_max_num_queries):
    for _ in range(6):
        make.device(gpus=8)

    with django_assert_max_num_queries(20):
        sampling.sample(now)

    assert GPUSample.objects.count() == 6 * 8
