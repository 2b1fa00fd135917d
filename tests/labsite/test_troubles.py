"""What is wrong with more than one GPU server is told where people look at them."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse

from devices.models import Device
from experiments.models import Pulse
from labsite.clock import database_now
from tests import make

pytestmark = pytest.mark.django_db


@pytest.fixture
def page():
    client = Client()
    client.force_login(make.user())
    return lambda: client.get(reverse("devices")).content.decode()


def test_a_loss_of_many_at_once_is_told(page):
    for _ in range(3):
        make.attempt(started=True)
    assert "vanished" not in page()

    Device.objects.update(last_heartbeat_at=database_now() - timedelta(minutes=5))

    assert "3 of 3 busy GPU servers vanished" in page()


def test_a_dispatch_that_is_silent_is_told_and_since_when(page):
    make.device()
    now = database_now()
    Pulse.beat(Pulse.DISPATCH, now - timedelta(seconds=5))
    assert "not given out" not in page()

    Pulse.objects.update(at=now - timedelta(minutes=1), unbroken_since=now - timedelta(hours=1))

    assert "Queued runs are not given out since" in page()
