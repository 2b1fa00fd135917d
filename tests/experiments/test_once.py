"""A submit that arrives twice, as the answer to the first was lost, is queued once."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from django.db import connection

from experiments import submission
from experiments.models import Asked, Job, JobEvent, SubmitKey, Sweep
from labsite.clock import database_now
from tests import make

pytestmark = pytest.mark.django_db
WISH = {"project": "digits", "command": ["python", "train.py"]}
GRID = {**WISH, "sweep": {"grid": {"lr": [1, 2]}, "arguments": True}}


@pytest.fixture
def ann():
    return make.user("ann")


@pytest.fixture
def post(client, ann):
    return poster(client, ann)


def poster(client, user):
    token = make.token(user)

    def ask(path: str, data, key: str | None = "k1"):
        given = {} if key is None else {"HTTP_IDEMPOTENCY_KEY": key}
        return client.post(
            f"/api/{path}",
            json.dumps(data),
            content_type="application/json",
            HTTP_AUTHORIZATION=f"Token {token}",
            **given,
        )

    return ask


def test_the_same_key_queues_one_job_and_gets_its_answer_again(post):
    first, second = post("jobs/", WISH), post("jobs/", WISH)

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["uid"] == second.json()["uid"] == Job.objects.get().uid
    assert JobEvent.objects.count() == 1


def test_without_a_key_each_request_is_one_of_its_own(post):
    post("jobs/", WISH, key=None)
    post("jobs/", WISH, key=None)

    assert Job.objects.count() == 2
    assert not SubmitKey.objects.exists()


def test_a_sweep_is_queued_once(post):
    first, second = post("sweeps/", GRID), post("sweeps/", GRID)

    assert first.json() == second.json()
    assert (Sweep.objects.count(), Job.objects.count()) == (1, 2)


@pytest.mark.parametrize("verb", ["rerun", "resume"])
def test_a_run_is_queued_again_once(post, ann, verb):
    job = make.job(by=ann)
    if verb == "resume":
        job.cancel(by=ann)
        resume = {"from_experiment_uid": job.uid, "files": [], "checkpoint": "run_001.pt"}
        Job.objects.update(resume_point={"point": {}, "resume": resume})

    first, second = post(f"jobs/{job.uid}/{verb}/", {}), post(f"jobs/{job.uid}/{verb}/", {})

    assert first.status_code == 201, first.content
    assert first.json()["uid"] == second.json()["uid"]
    assert job.children.count() == 1


def test_a_key_that_stands_for_another_request_is_refused(post):
    post("jobs/", WISH)

    refused = post("jobs/", {**WISH, "name": "another"})

    assert (refused.status_code, refused.json()["code"]) == (422, "key_reused")
    assert Job.objects.count() == 1


def test_of_a_form_every_value_of_a_name_is_what_was_asked(client, ann):
    headers = {"authorization": f"Token {make.token(ann)}", "idempotency-key": "k1"}

    first, second = (
        client.post(
            "/api/jobs/", {"project": "digits", "command": "true", "tags": tags}, headers=headers
        )
        for tags in (["a", "b"], ["c", "b"])
    )

    assert (first.status_code, second.status_code) == (201, 422)


def test_what_was_refused_leaves_the_key_free(post):
    assert post("jobs/", {**WISH, "project": "no name!"}).status_code == 400

    assert post("jobs/", WISH).status_code == 201


def test_a_key_is_its_persons(client, post):
    mine = post("jobs/", WISH).json()["uid"]

    theirs = poster(client, make.user("bo"))("jobs/", {**WISH, "project": "other"})

    assert theirs.status_code == 201
    assert theirs.json()["uid"] != mine


@pytest.mark.parametrize("key", ["", "two words", "k" * 129, "열쇠"])
def test_what_cannot_be_a_key_is_told(post, key):
    refused = post("jobs/", WISH, key=key)

    assert refused.status_code == 400
    assert "Idempotency-Key" in refused.json()["detail"]


@pytest.mark.parametrize("depth", [50, 900, 5000, 100_000])
def test_whatever_comes_with_a_key_has_an_answer(post, client, depth):
    deep = '{"environment": ' + "[" * depth + "]" * depth + "}"
    token = make.token(make.user("deep"))

    answer = client.post(
        "/api/jobs/",
        deep,
        content_type="application/json",
        HTTP_AUTHORIZATION=f"Token {token}",
        HTTP_IDEMPOTENCY_KEY="k",
    )

    assert answer.status_code == 400
    assert not SubmitKey.objects.exists()


def test_a_key_is_forgotten_after_a_week(post, ann):
    post("jobs/", WISH)
    SubmitKey.objects.update(at=database_now() - timedelta(days=8))

    post("jobs/", WISH, key="k2")

    assert SubmitKey.objects.get().key == "k2"


def test_a_run_that_was_deleted_since_is_not_queued_anew(post, ann):
    job = Job.objects.get(uid=post("jobs/", WISH).json()["uid"])
    job.cancel(by=ann)
    job.delete_run(database_now(), by=ann)

    assert post("jobs/", WISH).status_code == 404
    assert Job.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_two_that_race_one_is_queued_and_both_get_it():
    user, start = make.user("ann"), Barrier(4)
    asked = Asked.of(user, "k1", WISH)

    def submit(_number: int) -> str:
        try:
            start.wait(10)
            return submission.submit(None, WISH, by=user, asked=asked).uid
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        uids = set(pool.map(submit, range(4)))

    assert len(uids) == Job.objects.count() == 1


# --- the page ------------------------------------------------------------------------------------


def form_of(client) -> dict[str, str]:
    page = client.get("/execute/").content.decode()
    once = page.split('name="once" value="')[1].split('"')[0]
    return {"project": "digits", "command": "python train.py", "once": once}


def test_a_form_that_is_sent_twice_leads_to_the_run_that_it_became(client, ann):
    client.force_login(ann)
    form = form_of(client)

    first, second = client.post("/execute/", form), client.post("/execute/", form, follow=True)

    assert Job.objects.count() == 1
    assert second.redirect_chain[0][0] == first["Location"]
    assert "It is queued already" in second.content.decode()


def test_a_form_that_was_changed_or_opened_anew_is_another_run(client, ann):
    client.force_login(ann)
    form = form_of(client)
    client.post("/execute/", form)

    client.post("/execute/", {**form, "command": "python other.py"})
    client.post("/execute/", form_of(client))

    assert Job.objects.count() == 3
