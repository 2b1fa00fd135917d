"""How a run used its GPUs: on its page in words and as curves, of its own time alone."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse

from devices.models import GPUSample, Span, minute_of
from experiments.sampling import KEPT
from experiments.states import Outcome
from labsite.clock import database_now
from labsite.pages.gpuuse import MOST_POINTS
from tests import make
from tests.labsite.reading import text_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def client():
    client = Client()
    client.force_login(make.user("kim"))
    return client


def ran(begin, end):
    """An attempt with both cards of its server from `begin` to `end`."""
    attempt = make.attempt(gpus=2)
    attempt.start(begin, pid=4711)
    attempt.end(Outcome.SUCCEEDED, end, exit_code=0)
    return attempt


def note(attempt, moment, use, mib, span=Span.MINUTE):
    minute = minute_of(moment)
    for gpu in attempt.device.gpus.order_by("index"):
        GPUSample.objects.create(
            gpu=gpu, span=span, minute=minute - minute % span, memory_mib_mean=mib,
            utilization_percent_mean=use + gpu.index, memory_mib_max=mib,
        )  # fmt: skip


def curves(client, attempt):
    return client.get(reverse("run-gpus", args=[attempt.job.uid])).json()


def test_a_run_is_told_of_its_own_time(client):
    now = database_now()
    attempt = ran(now - timedelta(minutes=20), now - timedelta(minutes=10))
    note(attempt, now - timedelta(minutes=30), 3, 9000)  # somebody else's
    note(attempt, now - timedelta(minutes=15), 90, 2048)
    note(attempt, now - timedelta(minutes=5), 5, 9000)

    page = client.get(reverse("run", args=[attempt.job.uid]))
    told = curves(client, attempt)

    assert "mean use 90 %, VRAM at most 2.0 GiB" in text_of(page)
    use, memory = told["charts"]
    assert [one["label"] for one in use["series"]] == ["GPU 0", "GPU 1"]
    assert [v for v in use["series"][1]["values"] if v is not None] == [91]
    assert [v for v in memory["series"][0]["values"] if v is not None] == [2.0]
    assert len(told["at"]) == 11


def test_an_old_run_is_told_in_longer_spans_and_in_so_many_points(client):
    begin = database_now() - KEPT[Span.TEN] - timedelta(days=60)
    attempt = ran(begin, begin + timedelta(days=50))
    note(attempt, begin + timedelta(days=1), 70, 1024, Span.HOUR)

    told = curves(client, attempt)

    assert len(told["at"]) <= MOST_POINTS + 1
    assert 70 in told["charts"][0]["series"][0]["values"]


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_run_of_which_nothing_was_noted_has_no_such_part(client, gpus):
    attempt = make.attempt(gpus=gpus)

    page = client.get(reverse("run", args=[attempt.job.uid]))

    assert 'id="gpu-use"' not in page.content.decode()
    assert curves(client, attempt)["charts"] == []
