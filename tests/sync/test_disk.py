"""How long the disk will last: the slope of what was measured, and nothing below a day of it."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from labsite.clock import database_now
from sync import disk
from sync.models import DiskSample

GIB = 2**30
START = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _no_reserve(settings):
    settings.LAB_DISK_RESERVE_BYTES = 0


def hourly(hours: int, *, per_day: float, noise: float = 0.0) -> list[tuple[datetime, int]]:
    dice = random.Random(1)
    return [
        (
            START + timedelta(hours=n),
            int(1000 * GIB - per_day * n / 24 + dice.uniform(-noise, noise)),
        )
        for n in range(hours)
    ]


def test_a_disk_that_fills_up_evenly_lasts_as_long_as_one_reckons():
    found = disk.predicted(hourly(14 * 24, per_day=10 * GIB), 100 * GIB, 2000 * GIB)

    assert found.days_left == pytest.approx(10, rel=0.01)
    assert found.growth_bytes_per_day == pytest.approx(10 * GIB, rel=0.01)
    assert found.is_close


def test_a_spring_cleaning_and_noise_do_not_move_it():
    samples = hourly(14 * 24, per_day=10 * GIB, noise=2 * GIB)
    cleaned = [
        (at, free + (300 * GIB if at > START + timedelta(days=13) else 0)) for at, free in samples
    ]

    found = disk.predicted(cleaned, 400 * GIB, 2000 * GIB)

    assert found.growth_bytes_per_day == pytest.approx(10 * GIB, rel=0.25)
    assert not found.is_close


HALF_A_DAY = [(START + timedelta(minutes=15 * n), GIB - n) for n in range(50)]


@pytest.mark.parametrize("samples", [[], hourly(23, per_day=GIB), HALF_A_DAY])
def test_too_little_data_makes_no_forecast(samples):
    found = disk.predicted(samples, GIB, 2 * GIB)

    assert (found.growth_bytes_per_day, found.days_left) == (None, None)
    assert not found.is_close


def test_a_disk_that_does_not_fill_up_lasts():
    found = disk.predicted(hourly(48, per_day=-GIB), GIB, 2 * GIB)

    assert found.days_left is None
    assert found.growth_bytes_per_day < 0


def test_what_is_for_the_database_is_not_for_files(settings):
    settings.LAB_DISK_RESERVE_BYTES = 60 * GIB

    found = disk.predicted(hourly(48, per_day=10 * GIB), 100 * GIB, 2000 * GIB)

    assert found.days_left == pytest.approx(4, rel=0.01)


@pytest.mark.django_db
def test_a_sample_is_taken_once_an_hour_and_kept_for_a_season():
    now = database_now()
    DiskSample.objects.create(at=now - timedelta(days=91), free_bytes=1, total_bytes=2)

    for minutes in (0, 10, 54, 60, 119, 121):
        disk.sample(now + timedelta(minutes=minutes))

    assert DiskSample.objects.count() == 3
    assert not DiskSample.objects.filter(free_bytes=1).exists()


@pytest.mark.django_db
def test_another_disk_begins_anew():
    now = database_now()
    free, total = disk.free_and_total()
    for hours in range(60):
        at = now - timedelta(hours=hours)
        size = total if hours < 30 else total // 2
        DiskSample.objects.create(at=at, free_bytes=free + hours, total_bytes=size)

    assert disk.forecast(now).growth_bytes_per_day == pytest.approx(24, rel=0.01)
