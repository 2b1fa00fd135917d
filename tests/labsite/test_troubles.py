"""What is wrong with more than one GPU server is told where people look at them."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse

from devices.models import Device
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

    text = page()
    assert "3 of 3 busy GPU servers vanished" in text
    notice = text[text.index("busy GPU servers vanished") : text.index('class="devices"')]
    links = [f'href="/devices/{device.pk}/">{device.host_id}<' for device in Device.objects.all()]
    assert [link for link in links if link not in notice] == []
