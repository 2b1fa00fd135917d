"""A rerun with a change: what differs is shown before and after, and whence it came is kept."""

import pytest
from django.test import Client
from django.urls import reverse

from experiments.models import Job
from labsite.pages.yamldiff import MAX_LINES, difference
from tests import make
from tests.labsite.reading import text_of

pytestmark = pytest.mark.django_db
CONFIG = "lr: 0.1\nepochs: 3\nseed: 1\n"


@pytest.fixture
def minjun():
    return make.user("minjun")


@pytest.fixture
def client(minjun):
    client = Client()
    client.force_login(minjun)
    return client


@pytest.fixture
def parent(minjun):
    return make.job(by=minjun, config=CONFIG, gpus=1)


def form(parent, **values):
    given = {"parent": parent.uid, "config": CONFIG, "project": "digits", "gpus": "1"}
    return given | {"priority": "normal", "command": "true"} | values


def test_a_line_that_changed_is_both_and_counts_once():
    found = difference(CONFIG, CONFIG.replace("0.1", "<0.2>"))

    assert found.count == 1
    assert found.html.count('<del class="l" data-op="−">') == 1
    assert (
        '<ins class="l" data-op="+"><span class="k">lr</span>: <span class="s">&lt;0.2&gt;'
        in found.html
    )
    assert found.html.count('<span class="l">') == 2


@pytest.mark.parametrize(
    "after", [CONFIG, CONFIG.replace("\n", "\r\n"), "a: 1\n" * (MAX_LINES + 1)]
)
def test_what_is_alike_or_too_long_has_no_difference(after):
    assert difference(CONFIG, after) is None


def test_what_is_queued_knows_what_it_came_from_and_its_page_tells(client, parent):
    client.post(reverse("execute"), form(parent, config=CONFIG.replace("0.1", "0.2")))

    again = Job.objects.get(parent=parent)
    page = client.get(reverse("run", args=[again.uid])).content.decode()
    assert "1 line differs from" in page
    assert 'data-op="−"' in page


def test_the_same_once_more_is_told_as_such(client, parent):
    client.post(reverse("run-rerun", args=[parent.uid]))

    page = text_of(client.get(reverse("run", args=[Job.objects.get(parent=parent).uid])))
    assert "the same as digits/run_001's" in page


def test_what_the_form_does_not_show_is_asked_for_again(client, minjun):
    parent = make.job(by=minjun, config=CONFIG, python="torch2", outputs=["tb/**"])

    client.post(reverse("execute"), form(parent, config=CONFIG.replace("0.1", "0.2")))

    again = Job.objects.get(parent=parent)
    assert (again.python, again.outputs) == ("torch2", ["tb/**"])


@pytest.mark.parametrize("uid", ["nothing", "x\x00", "", "20260101_ffff"])
def test_a_run_that_is_not_there_is_nobodys_parent(client, parent, uid):
    client.post(reverse("execute"), form(parent) | {"parent": uid})

    assert not Job.objects.filter(parent=parent).exists()
    assert Job.objects.count() == 2


def test_the_code_is_that_of_the_time_it_was_given_out(client, minjun):
    device = make.device(gpus=1)
    device.source_directory = "/srv/code"
    device.source = {
        "commit": "4f1c2ae" * 5,
        "branch": "fisher",
        "dirty": True,
        "source_hash": "x",
    }
    device.source_directory = "/home/lab/code"
    device.save()
    attempt = make.attempt(make.job(by=minjun), device, started=True)
    device.source = None
    device.save()

    page = text_of(client.get(reverse("run", args=[attempt.job.uid])))

    assert "4f1c2ae4f1 on fisher, with changes in no commit" in page


def test_the_page_has_the_command_that_queues_the_same_again(client, parent):
    page = text_of(client.get(reverse("run", args=[parent.uid])))

    assert f"lab rerun {parent.uid}" in page
