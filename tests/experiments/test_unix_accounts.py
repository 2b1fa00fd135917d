"""As which Unix user a job runs, where GPU servers run jobs as their submitters."""

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from agent import wire
from devices.heartbeat import Beat, record
from experiments import leases
from experiments.dispatch import dispatch
from experiments.errors import LostRace
from experiments.models import Attempt, Job, UnixAccount
from labsite.clock import database_now
from tests import make

pytestmark = pytest.mark.django_db


@pytest.fixture
def kim():
    return make.user("kim")


def named(user, name: str = "kim") -> UnixAccount:
    return UnixAccount.objects.create(user=user, name=name)


def submitters_device(gpus: int = 1, **fields):
    return make.device(gpus=gpus, run_as="submitter", unix_user="root", **fields)


def order_of(attempt: Attempt) -> wire.AttemptOrder:
    return leases.order(Attempt.objects.get(pk=attempt.pk), attempt.device)


def api(user) -> APIClient:
    client = APIClient()
    client.force_authenticate(user)
    return client


# --- what an agent is told ---


def test_a_heartbeat_says_how_a_device_runs_jobs():
    device = make.device()

    record([Beat(device.pk, make.beat(device, run_as=wire.JobUser.SUBMITTER))])

    device.refresh_from_db()
    assert device.run_as == "submitter"


def test_the_order_names_the_submitters_unix_user(kim):
    named(kim, "kim.cv")
    device = submitters_device()
    make.job(by=kim)

    [attempt] = dispatch()

    assert order_of(attempt).run_as == "kim.cv"
    assert attempt.unix_user == "kim.cv"
    assert attempt.device == device


def test_elsewhere_it_names_nobody_and_the_agents_user_is_kept_for_people(kim):
    named(kim)
    make.device(gpus=1, unix_user="trainer")
    make.job(by=kim)

    [attempt] = dispatch()

    assert order_of(attempt).run_as is None
    assert attempt.unix_user == "trainer"


def test_an_attempt_keeps_the_user_it_was_given(kim):
    account = named(kim)
    submitters_device()
    make.job(by=kim)
    [attempt] = dispatch()

    account.name = "other"
    account.save()

    assert order_of(attempt).run_as == "kim"


# --- who waits, and why ---


def test_a_job_is_not_offered_to_a_device_on_which_it_has_nobody_to_run_as(kim):
    submitters_device(host_id="gpu-root")
    job = make.job(by=kim)

    assert dispatch() == []
    job.refresh_from_db()
    assert job.waiting == {"code": "no_unix_name", "devices": ["gpu-root"]}
    assert "gpu-root" in job.waiting_reason
    assert job.waiting_reason.endswith("account has no Unix name; a manager sets it.")


def test_it_goes_where_jobs_run_as_the_agents_user(kim):
    submitters_device()
    other = make.device(gpus=1)
    make.job(by=kim)

    assert [attempt.device for attempt in dispatch()] == [other]


def test_where_such_a_place_is_busy_it_waits_for_that_one(kim):
    submitters_device()
    make.attempt(on=make.device(gpus=1))
    job = make.job(by=kim)

    assert dispatch() == []
    job.refresh_from_db()
    assert job.waiting == {**job.waiting, "code": "busy", "all": 1}


def test_one_users_lack_of_a_name_keeps_no_other_user_waiting(kim):
    """Both want the same, so what is known of the first must not be taken for the second."""
    named(kim)
    submitters_device()
    make.job(by=make.user("nameless"))
    make.job(by=kim)

    assert [attempt.job.user for attempt in dispatch()] == [kim]


def test_a_name_that_is_set_lets_the_job_go(kim):
    submitters_device()
    make.job(by=kim)
    assert dispatch() == []

    named(kim)

    assert len(dispatch()) == 1


def test_gpus_are_not_held_back_where_the_job_cannot_run(kim, settings):
    settings.LAB_HOLD_BACK_AFTER_SECONDS = 0
    submitters_device(gpus=2)
    held = make.attempt(on=make.device(gpus=2), gpus=2)
    make.job(by=kim, gpus=2)
    other = make.user("lee")
    named(other, "lee")
    make.job(by=other, name="small")

    assert [attempt.job.name for attempt in dispatch()] == ["small"]
    assert held.is_open


def test_a_name_taken_away_in_between_is_a_lost_race(kim):
    device = submitters_device()
    job = make.job(by=kim)

    with pytest.raises(LostRace):
        job.assign(device, list(device.gpus.all()), database_now())

    assert not Attempt.objects.exists()


# --- who sets it ---


@pytest.mark.parametrize(
    "name", ["root", "", "1000", "../etc", "a/b", ".hidden", "-r", "x" * 65, "kim lee"]
)
def test_what_names_no_person_is_refused(kim, name):
    with pytest.raises(ValidationError):
        UnixAccount(user=kim, name=name).full_clean()

    answer = api(make.manager()).post("/api/unix-accounts/", {"user": "kim", "name": name})
    assert answer.status_code == 400
    assert not UnixAccount.objects.exists()


def test_root_cannot_even_be_written(kim):
    with pytest.raises(IntegrityError), transaction.atomic():
        named(kim, "root")


def test_a_manager_sets_changes_and_takes_it_away(kim):
    client = api(make.manager())

    assert client.post("/api/unix-accounts/", {"user": "kim", "name": "kim"}).status_code == 201
    assert client.patch("/api/unix-accounts/kim/", {"name": "kim2"}).data["name"] == "kim2"
    assert client.get("/api/unix-accounts/").data["results"] == [{"user": "kim", "name": "kim2"}]
    assert client.delete("/api/unix-accounts/kim/").status_code == 204
    assert not UnixAccount.objects.exists()


def test_a_manager_does_not_move_it_to_somebody_else(kim):
    named(kim)
    make.user("lee")

    answer = api(make.manager()).patch("/api/unix-accounts/kim/", {"user": "lee"})

    assert answer.status_code == 400
    assert UnixAccount.objects.get().user == kim


def test_two_people_may_share_one(kim):
    named(kim, "shared")

    account = UnixAccount(user=make.user("lee"), name="shared")
    account.full_clean()
    account.save()

    assert UnixAccount.objects.filter(name="shared").count() == 2


@pytest.mark.parametrize("verb", ["post", "put", "patch", "delete"])
def test_nobody_else_does_by_the_api(kim, verb):
    named(make.user("lee"), "lee")
    account = named(kim)
    client = api(kim)
    url = "/api/unix-accounts/" if verb == "post" else "/api/unix-accounts/kim/"

    answer = getattr(client, verb)(url, {"user": "kim", "name": "lee"})

    assert answer.status_code == 403
    account.refresh_from_db()
    assert account.name == "kim"
    assert client.get("/api/unix-accounts/kim/").data["name"] == "kim"


def test_nobody_else_does_in_the_administration(kim):
    client = Client()
    client.force_login(kim)

    answer = client.post(
        reverse("admin:auth_user_change", args=[kim.pk]), {"unix_account-0-name": "lee"}
    )

    assert answer.status_code == 302
    assert "/login/" in answer.url
    assert not UnixAccount.objects.exists()


@pytest.mark.parametrize("key", ["run_as", "unix_user", "unix_name", "user"])
def test_nobody_does_by_a_config_or_a_submit(kim, key):
    client = api(kim)
    wish = {"project": "digits", "command": ["true"]}

    by_config = client.post("/api/jobs/", {**wish, "config": f"lab: {{{key}: lee}}"})
    client.post("/api/jobs/", {**wish, key: "lee"})

    assert by_config.status_code == 400
    submitters_device()
    assert dispatch() == []
    assert set(Job.objects.values_list("user__username", flat=True)) <= {"kim"}


def test_an_administrator_sets_it_on_the_users_own_page(kim):
    client = Client()
    client.force_login(make.administrator())
    url = reverse("admin:auth_user_change", args=[kim.pk])
    page = client.get(url)
    form = {**page.context["adminform"].form.initial, "username": "kim"}
    form = {key: value for key, value in form.items() if isinstance(value, str)}

    answer = client.post(
        url,
        {
            **form,
            "is_active": "on",
            "date_joined_0": "2026-01-01",
            "date_joined_1": "00:00:00",
            "unix_account-TOTAL_FORMS": 1,
            "unix_account-INITIAL_FORMS": 0,
            "unix_account-0-user": kim.pk,
            "unix_account-0-name": "kim",
        },
    )

    assert answer.status_code == 302, answer.context["errors"]
    assert UnixAccount.objects.get().name == "kim"


def test_how_a_device_runs_jobs_is_set_on_the_device_alone():
    """Root chose it there: a manager of the site is not root of the GPU servers."""
    device = make.device(host_id="gpu1")

    api(make.manager()).patch("/api/devices/gpu1/", {"run_as": "submitter"})

    device.refresh_from_db()
    assert device.run_as == "agent"


# --- what people see ---


@pytest.fixture
def client(client, kim):
    client.force_login(kim)
    return client


def test_the_preview_says_as_whom_it_would_run(client, kim):
    submitters_device(host_id="gpu-root")
    asked = {"project": "digits", "command": "true", "gpus": "1"}

    without = client.post(reverse("execute-check"), asked).json()["preview"]
    named(kim, "kim.cv")
    with_name = client.post(reverse("execute-check"), asked).json()["preview"]

    assert "your account has no Unix name to run as there; a manager sets it" in without
    assert ">root<" not in without
    assert ">kim.cv<" in with_name


def test_the_runs_page_says_as_whom_it_runs(client, kim):
    named(kim, "kim.cv")
    attempt = make.attempt(make.job(by=kim), submitters_device(host_id="gpu1"), started=True)

    html = client.get(reverse("run", args=[attempt.job.uid])).content.decode()

    assert "runs as kim.cv" in html


def test_devices_says_as_whom_jobs_run(client):
    make.device(host_id="a", unix_user="root")
    submitters_device(host_id="b")

    html = client.get("/devices/").content.decode()

    assert html.count("jobs run as root") == 1
    assert html.count("jobs run as whoever submitted them") == 1


def test_the_account_shows_its_unix_name(client, kim):
    assert "Unix name" not in client.get("/runs/").content.decode()

    named(kim, "kim.cv")

    assert "Unix name kim.cv" in client.get("/runs/").content.decode()
