"""What jobs require of GPU servers: who lacks it is passed over, and says so."""

import re

import pytest

from agent import wire
from devices.heartbeat import Beat, record
from experiments import leases, reports
from experiments.dispatch import dispatch
from experiments.models import Attempt, Job, UnixAccount
from experiments.states import JobState, Outcome
from experiments.submission import rerun
from tests import make

pytestmark = pytest.mark.django_db

IMAGENET = {"paths": ["/data/imagenet"]}


@pytest.fixture(autouse=True)
def patient(settings) -> None:
    """However long a test takes, its devices are there."""
    settings.LAB_HEALTHY_SECONDS = 60


def lacking(attempt: Attempt, *lacks: wire.Lack) -> None:
    """Its agent could not start it."""
    message = "This host lacks what the job requires: /data/imagenet cannot be read here"
    event = make.event(wire.EventType.START_FAILED, message=message, lacks=list(lacks))
    reports.receive(attempt.device, str(attempt.pk), event)


def beats(device, *lacks: wire.Lack, **more) -> None:
    device.refresh_from_db()
    cards = [wire.GPUReading(gpu.uuid, gpu.index, gpu.name) for gpu in device.gpus.all()]
    more = {"gpus": cards, "lacks": list(lacks), **more}
    record([Beat(device.pk, make.beat(device, **more))])


def lack(name: str = "/data/imagenet", **more: str) -> wire.Lack:
    return wire.Lack(name, **more)


def test_the_order_says_what_is_required() -> None:
    attempt = make.attempt(requires={**IMAGENET, "commands": ["ffmpeg"]})

    order = leases.order(attempt, attempt.device)

    assert order.requires == wire.Requires(["/data/imagenet"], ["ffmpeg"])


def test_a_start_refused_for_it_costs_no_try_and_goes_elsewhere() -> None:
    here = make.device(gpus=1)
    job = make.job(requires=IMAGENET)
    [attempt] = dispatch()
    attempt.accept(attempt.created_at)
    there = make.device(gpus=1)

    lacking(attempt, lack())
    [second] = dispatch()

    job.refresh_from_db()
    attempt.refresh_from_db()
    assert (attempt.device, second.device) == (here, there)
    assert attempt.outcome == Outcome.LACKING
    assert job.after(Outcome.START_FAILED, second)[1] == JobState.QUEUED  # the first of three


@pytest.mark.parametrize("set_for", ["job", "device"])
def test_a_gpu_server_without_uv_is_passed_over_until_it_has_it(set_for: str) -> None:
    python = {"python": "uv"}
    here = make.device(gpus=2, **(python if set_for == "device" else {}))
    job = make.job(**(python if set_for == "job" else {}))
    [attempt] = dispatch()

    lacking(attempt, lack("uv", python="uv"))
    Job.objects.update(avoids={})
    other = make.job(python="torch")

    assert [one.job for one in dispatch()] == [other]
    job.refresh_from_db()
    attempt.refresh_from_db()
    assert attempt.outcome == Outcome.LACKING
    assert job.waiting_reason.startswith(f"{here.host_id} lacks uv.")


def test_where_no_other_has_it_the_job_waits_and_says_who_lacks_what() -> None:
    device = make.device(
        gpus=1, host_id="bach", lacks=[{"name": "/data/imagenet", "user": "", "python": ""}]
    )
    job = make.job(requires=IMAGENET)

    assert dispatch() == []
    job.refresh_from_db()
    assert job.waiting_reason.startswith("bach lacks /data/imagenet.")
    assert make.job() in [attempt.job for attempt in dispatch()], "others run there"
    beats(device, lack())
    assert dispatch() == []


def test_a_heartbeat_that_tells_of_it_no_more_lets_the_job_come(monkeypatch) -> None:
    device = make.device(gpus=1)
    make.job(requires=IMAGENET)
    beats(device, lack())
    assert dispatch() == []

    asked = []
    monkeypatch.setattr("labsite.wake.ask_dispatch", lambda: asked.append(1))
    beats(device)

    assert asked
    assert len(dispatch()) == 1


def test_a_command_lacks_in_the_python_that_was_searched_and_in_no_other() -> None:
    device = make.device(gpus=2)
    beats(device, lack("accelerate", python="torch2"))
    make.job(requires={"commands": ["accelerate"]}, python="torch2")
    other = make.job(requires={"commands": ["accelerate"]}, python="torch3")

    assert [attempt.job for attempt in dispatch()] == [other]


def test_what_one_user_may_not_read_another_may() -> None:
    device = make.device(gpus=2, run_as="submitter")
    kim, lee = make.user("kim"), make.user("lee")
    for user in (kim, lee):
        UnixAccount.objects.create(user=user, name=f"u{user.username}")
    beats(device, lack(user="ukim"), run_as=wire.JobUser.SUBMITTER)
    make.job(by=kim, requires=IMAGENET)
    hers = make.job(by=lee, requires=IMAGENET)

    assert [attempt.job for attempt in dispatch()] == [hers]


def test_the_preview_says_which_server_lacks_it(client) -> None:
    make.device(gpus=1, lacks=[{"name": "/data/imagenet", "user": "", "python": ""}])
    client.force_login(make.user())
    config = "lab: {project: p, command: 'true', requires: {paths: [/data/imagenet]}}"

    answer = client.post("/execute/check/", {"config": config}).json()

    assert "it lacks /data/imagenet" in answer["preview"]


def test_what_was_required_is_required_again_by_a_rerun() -> None:
    assert rerun(make.job(requires=IMAGENET)).requires == IMAGENET
    assert Job.objects.count() == 2


def test_the_preview_shows_the_command_as_uv_runs_it(client) -> None:
    make.device(gpus=1)
    client.force_login(make.user())
    config = "lab: {project: p, command: [python, train.py], python: uv}"

    answer = client.post("/execute/check/", {"config": config}).json()

    assert "uv run --frozen -- python train.py" in re.sub("<[^>]+>", "", answer["preview"])
