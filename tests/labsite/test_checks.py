"""Settings that contradict each other stop the start; a wrong variable is named."""

import os
import subprocess
import sys

import pytest

from labsite.checks import times_of_devices


def test_the_defaults_are_right():
    assert times_of_devices(None) == []


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("LAB_STALE_SECONDS", 3.0, "labsite.E002"), ("LAB_HEALTHY_SECONDS", 1.0, "labsite.E001")],
)
def test_states_that_could_not_follow_one_another_are_refused(settings, name, value, error):
    setattr(settings, name, value)

    assert [found.id for found in times_of_devices(None)] == [error]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LAB_TIME_ZONE", "Mars/Olympus"),
        ("LAB_POOL_THREADS", "many"),
        ("LAB_POOL_THREADS", "0"),
        ("LAB_HEALTHY_SECONDS", "-1"),
    ],
)
def test_a_wrong_variable_stops_the_start_with_one_sentence(name, value):
    tried = subprocess.run(
        [sys.executable, "manage.py", "check"],
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert tried.returncode != 0
    assert name in tried.stderr
    assert "Traceback" not in tried.stderr
