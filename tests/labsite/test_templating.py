"""What a page was made of is gone with it: nothing large is left to the collector of cycles."""

import gc

import pytest
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.test import Client, RequestFactory

from devices.models import GPU, Device
from labsite.pages.hostcards import Card
from tests import make

pytestmark = pytest.mark.django_db


def kept() -> list[Card | Device | GPU]:
    return [one for one in gc.get_objects() if type(one) in (Card, Device, GPU)]


@pytest.fixture
def of_others():
    """What other tests of this process still hold. Nothing is collected from now on."""
    gc.collect()
    gc.disable()
    yield kept()
    gc.enable()


def served(path: str) -> str:
    """As a server has it: the test client keeps what the page was made of."""
    client = Client()
    client.force_login(make.manager())
    cookie = client.cookies[settings.SESSION_COOKIE_NAME].output(attrs=[], header="")
    request = RequestFactory(HTTP_COOKIE=cookie.strip()).get(path)
    return WSGIHandler().get_response(request).content.decode()


@pytest.mark.parametrize("path", ["/devices/?part=list", "/"])
def test_gpu_servers_that_a_page_showed_are_let_go_of_with_it(path, of_others):
    name = make.device(gpus=2).host_id

    page = served(path)

    assert name in page
    before = {id(one) for one in of_others}
    assert not [one for one in kept() if id(one) not in before]
