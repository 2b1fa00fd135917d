"""The demo lab: made up, marked as such, touched by nothing, and taken away to the last row."""

import random
from datetime import timedelta

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from devices.models import Device, DeviceState
from experiments.dispatch import dispatch
from experiments.errors import ProjectArchived
from experiments.leases import reap
from experiments.models import Job, Project
from experiments.states import JobState
from labsite.clock import database_now
from labsite.demo import history, plan
from tests import make

pytestmark = pytest.mark.django_db
SMALL = {"runs": 80, "devices": 7, "verbosity": 0}


@pytest.fixture(autouse=True)
def _folder(settings, tmp_path, monkeypatch):
    settings.LAB_LOGS_DIR = tmp_path / "logs"
    monkeypatch.setattr(history, "WEEK_MINUTES", 180)  # a week is 100 000 rows


def counts() -> dict[str, int]:
    """Rows of each of our tables, and of people."""
    ours = [
        m
        for name in ("devices", "experiments", "sync")
        for m in apps.get_app_config(name).get_models()
    ]
    return {model.__name__: model.objects.count() for model in [*ours, User]}


def test_all_of_it_goes_again_and_nothing_else(settings, tmp_path):
    real = make.attempt(make.job(by=make.user("minjun")), started=True)
    before = counts()

    call_command("demo_data", beside=True, **SMALL)
    made = counts()
    call_command("demo_data", remove=True)

    assert made["Job"] == before["Job"] + 80
    assert all(
        made[name] > before[name] for name in ("GPUSample", "LabSample", "SyncFile", "JobEvent")
    )
    assert counts() == before
    assert [
        p for p in settings.LAB_LOGS_DIR.rglob("*") if p.is_file() and ".locks" not in p.parts
    ] == []
    real.refresh_from_db()
    assert real.is_open


def test_real_runs_are_in_the_way_unless_it_is_to_stand_beside_them():
    make.job()

    with pytest.raises(CommandError, match="--beside"):
        call_command("demo_data", **SMALL)

    assert not Project.objects.filter(is_demo=True).exists()


def test_there_is_one_demo_at_a_time():
    call_command("demo_data", **SMALL)

    with pytest.raises(CommandError, match="--remove"):
        call_command("demo_data", **SMALL)


def test_nothing_of_it_is_given_out_nor_given_to():
    call_command("demo_data", **SMALL)
    before = dict(Job.objects.values_list("uid", "state"))
    job = make.job()
    later = database_now() + timedelta(days=400)

    dispatch(later)
    reap(later)

    job.refresh_from_db()
    assert job.waiting["code"] == "no_devices"
    assert dict(Job.objects.exclude(pk=job.pk).values_list("uid", "state")) == before


def test_it_takes_no_run_of_anybody():
    call_command("demo_data", **SMALL)
    project = Project.objects.filter(is_demo=True).first()

    with pytest.raises(ProjectArchived, match="demo"):
        make.job(project=project.name)


def test_a_run_of_it_that_is_cancelled_ends_at_once():
    call_command("demo_data", **SMALL)
    running = Job.objects.filter(state=JobState.RUNNING).first()

    running.cancel()

    running.refresh_from_db()
    assert running.state == JobState.CANCELLED


def test_its_hosts_stay_as_they_were_made():
    call_command("demo_data", **SMALL)
    later = database_now() + timedelta(days=400)

    states = [device.state(later) for device in Device.objects.all()]

    assert states.count(DeviceState.HEALTHY) == 5
    assert {DeviceState.STALE, DeviceState.DISCONNECTED} < set(states)


@pytest.mark.parametrize(("password", "may"), [("", False), ("correct horse battery", True)])
def test_its_people_sign_in_only_if_they_were_given_a_password(password, may):
    call_command("demo_data", password=password, **SMALL)

    client = Client()
    client.post("/login/", {"username": "minjun", "password": "correct horse battery"})

    assert ("_auth_user_id" in client.session) is may


def test_one_seed_makes_one_lab():
    def lab(seed):
        made = plan.runs(50, plan.hosts(7), random.Random(seed))
        return [(run.submitted, run.keys, run.tries) for run in made]

    assert lab(3) == lab(3)
    assert lab(3) != lab(4)


def test_it_has_runs_in_every_state_that_people_ask_for():
    call_command("demo_data", runs=300, devices=7, verbosity=0)

    states = set(Job.objects.values_list("state", flat=True))

    assert states == set(JobState.values) - {JobState.ASSIGNED}
