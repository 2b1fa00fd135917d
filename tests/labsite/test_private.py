"""Private projects: who sees them, and what the others are told of a GPU that is in use."""

import json

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import connection
from django.test.utils import CaptureQueriesContext

from agent import wire
from experiments import reports, submission
from experiments.dispatch import dispatch
from experiments.models import Job, Member, MemberRole, Project
from labsite.errors import Refused
from labsite.live import rows_after
from people.errors import NotAllowed
from tests import make
from tests.labsite.reading import client_of, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def ann():
    return make.user("ann")


@pytest.fixture
def secret(ann):
    return make.project("secretive", created_by=ann, private=True)


@pytest.fixture
def running(ann, secret) -> Job:
    device = make.device(gpus=1, host_id="gpu-01")
    return make.attempt(make.job(by=ann, project="secretive", name="hush"), device).job


@pytest.fixture
def waiting(ann, secret) -> Job:
    return make.job(by=ann, project="secretive", name="hush", gpus=8)


@pytest.mark.parametrize(
    ("who", "sees"),
    [("maker", True), ("stranger", False), ("manager", True), *((r, True) for r in MemberRole)],
)
def test_who_sees_a_private_project_and_its_runs(ann, secret, waiting, who, sees):
    person = {"maker": ann, "manager": make.manager()}.get(who) or make.user("bob")
    if who in MemberRole.values:
        Member.put(secret, person, MemberRole(who))

    assert Project.objects.visible_to(person).exists() == sees
    assert Job.objects.visible_to(person).exists() == sees
    assert ("secretive" in text_of(client_of(person).get("/runs/"))) == sees


def test_nobody_and_agents_see_nothing(waiting):
    for nobody in (None, AnonymousUser()):
        assert not Project.objects.visible_to(nobody).exists()
        assert not Job.objects.visible_to(nobody).exists()


def test_ones_own_run_stays_in_sight_when_one_is_taken_out(secret):
    bob = make.user("bob")
    member = Member.put(secret, bob, MemberRole.WORK)
    job = make.job(by=bob, project="secretive")
    member.delete()

    assert Job.objects.visible_to(bob).get() == job
    assert client_of(bob).post(f"/runs/{job.uid}/cancel/").status_code == 302


@pytest.mark.parametrize(
    ("role", "works"),
    [(None, False), (MemberRole.LOOK, False), (MemberRole.WORK, True), (MemberRole.LEAD, True)],
)
def test_who_queues_runs_in_a_private_project(secret, role, works):
    bob = make.user("bob")
    if role:
        Member.put(secret, bob, role)

    if works:
        assert make.job(by=bob, project="secretive").project == secret
    else:
        with pytest.raises(NotAllowed, match="is private, and you do not work in it"):
            make.job(by=bob, project="secretive")


def test_the_defaults_of_a_private_project_are_told_to_nobody_else(secret):
    Project.objects.update(command=["python", "hush.py"])

    with pytest.raises(Refused, match="there is no command"):
        submission.read("", {"project": "secretive"}, by=make.user("bob"))
    answer = client_of(make.user("eve")).post("/execute/check/", {"project": "secretive"})
    assert "hush" not in answer.content.decode()


@pytest.mark.parametrize("path", ["/queue/", "/devices/", "/devices/gpu/{gpu}/"])
def test_others_read_that_a_private_run_of_somebody_holds_the_gpu(ann, running, waiting, path):
    gpu = running.open_attempt().gpu_claims.get().gpu
    attempt = str(running.open_attempt().pk)
    process = {"pid": 7, "user": "lab", "memory_bytes": 2**30, "attempt_id": attempt}
    type(gpu).objects.update(processes=[process])
    path = path.format(gpu=gpu.pk)

    shown = client_of(make.user("bob")).get(path)
    own = text_of(client_of(ann).get(path))

    html = shown.content.decode()
    assert "a private run" in text_of(shown)
    assert "run_001" in own
    for word in ("secretive", "hush", "run_001", running.uid, waiting.uid):
        assert word not in html
    if path != f"/devices/gpu/{gpu.pk}/":
        assert "ann" in text_of(shown)


def test_what_waits_behind_a_private_run_is_not_told_its_name(ann, secret, settings):
    settings.LAB_HOLD_BACK_AFTER_SECONDS = 0.0
    make.attempt(on=make.device(gpus=2, host_id="gpu-01"))
    make.job(by=ann, project="secretive", gpus=2)
    small = make.job(by=make.user("bob"))

    dispatch()

    small.refresh_from_db()
    assert small.waiting["code"] == "held_back"
    assert small.waiting_reason.startswith("Free GPUs are held back for a private run")


def test_the_live_feed_names_no_run(running):
    told = [text for _seq, text in rows_after(0, 100)]

    assert {json.loads(text)["job"] for text in told} == {running.pk}
    assert not [text for text in told if "secretive" in text or "run_001" in text]


@pytest.mark.parametrize("path", ["/queue/", "/devices/", "/runs/"])
def test_a_page_asks_no_more_for_more_private_projects(path, ann):
    client = client_of(make.user("bob"))

    def asked_with_one_more() -> int:
        project = make.project(created_by=ann, private=True)
        make.attempt(make.job(by=ann, project=project.name))
        with CaptureQueriesContext(connection) as asked:
            client.get(path)
        # PostgreSQL is asked what time it is, SQLite is not.
        return sum("clock_timestamp()" not in query["sql"] for query in asked)

    counts = [asked_with_one_more() for _ in range(5)]

    assert counts[-1] == counts[1]


def _lacking(project: str, path: str, by, device, **more) -> None:
    """A run there was refused for it, as its agent tells from then on."""
    attempt = make.attempt(make.job(by=by, project=project, requires={"paths": [path]}), device)
    told = make.event(
        wire.EventType.START_FAILED, message="not here", lacks=[wire.Lack(path, **more)]
    )
    reports.receive(device, str(attempt.pk), told)


def test_what_a_gpu_server_lacks_is_told_by_runs_that_one_may_see(ann, secret):
    device, bob = make.device(gpus=1, host_id="gpu-01"), make.user("bob")
    _lacking("secretive", "/data/patients", ann, device)
    _lacking("digits", "/data/mnist", ann, device)

    for person, sees in [(bob, False), (ann, True), (make.manager(), True)]:
        told = client_of(person)
        device_api = told.get("/api/devices/gpu-01/").json()
        listed = told.get("/api/devices/").json()["results"][0]
        pages = [told.get(url) for url in ("/devices/", f"/devices/{device.pk}/", "/")]
        texts = [text_of(page) for page in pages] + [str(device_api), str(listed)]
        assert [("patients" in text) for text in texts] == [sees, sees, False, sees, sees], person
        assert all("/data/mnist" in text for text in (texts[0], texts[3])), person
        assert len(device_api["lacks"]) == 1 + sees, person


def test_a_name_that_both_require_is_told_without_the_other_ones_user(ann, secret):
    device = make.device(gpus=1, host_id="gpu-01")
    _lacking("digits", "/data/mnist", ann, device)
    _lacking("secretive", "/data/mnist", ann, device, user="u_ann")

    told = client_of(make.user("bob")).get("/api/devices/gpu-01/").json()["lacks"]

    assert told == [{"name": "/data/mnist", "user": "", "python": ""}]
