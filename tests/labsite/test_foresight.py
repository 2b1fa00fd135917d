"""What the API foretells of a run, and whom it tells: preview, why, me, claims, names of runs."""

import pytest

from experiments.models import GPUClaim, Job, UnixAccount
from experiments.states import Outcome
from labsite.clock import database_now
from tests import make
from tests.experiments.test_api import caller

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _patient(settings):
    """On however busy a machine, what was just heard of is there."""
    settings.LAB_HEALTHY_SECONDS = 600.0


@pytest.fixture
def ann():
    return make.user("ann")


@pytest.fixture
def api(client, ann):
    return caller(client, ann)


# --- preview --------------------------------------------------------------------------------


def test_a_preview_says_what_would_run_and_where_and_queues_nothing(api):
    make.device(gpus=2, host_id="gpu-1", source_directory="/home/lab/code", unix_user="lab")
    make.device(host_id="gpu-2")

    seen = api("POST", "jobs/preview/", {"project": "p", "command": ["python", "a b.py"]}).json()

    assert (seen["project"], seen["runs"], seen["first_run"]) == ("p", 1, "run_001")
    assert seen["command"] == ["python", "a b.py"]
    assert seen["wants"] == "1 GPU"
    told = [[one[name] for name in ("device", "when", "folder", "user")] for one in seen["places"]]
    assert told == [["gpu-1", "now", "/home/lab/code", "lab"], ["gpu-2", "never", "", ""]]
    assert Job.objects.count() == 0


def test_a_preview_of_a_sweep_shows_the_first_runs(api):
    wish = {
        "project": "p",
        "command": ["python", "a.py"],
        "sweep": {"grid": {"lr": [1, 2, 3]}, "seeds": [0, 1], "arguments": True},
    }

    seen = api("POST", "jobs/preview/", wish).json()

    assert (seen["runs"], seen["first_run"], seen["last_run"]) == (6, "run_001", "run_006")
    assert seen["command"] == ["python", "a.py", "--lr", "1", "--seed", "0"]
    assert seen["sweep"]["keys"] == ["lr", "seed"]
    assert seen["sweep"]["product"] == "3 × 2"
    assert seen["sweep"]["points"][1] == {"lr": 1, "seed": 1}
    assert seen["sweep"]["added_keys"] == []


def test_a_preview_names_the_swept_keys_that_the_file_does_not(api):
    wish = {
        "project": "p",
        "command": ["a", "{config}"],
        "config": "lr: 1\n",
        "sweep": {"grid": {"lrr": [1, 2]}},
    }

    assert api("POST", "jobs/preview/", wish).json()["sweep"]["added_keys"] == ["lrr"]


def test_a_mistake_in_a_preview_is_what_the_submit_would_say(api):
    answers = [api("POST", path, {"command": ["x"]}) for path in ("jobs/preview/", "jobs/")]

    assert [one.status_code for one in answers] == [400, 400]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["field"] == "project"


# --- why ------------------------------------------------------------------------------------


def test_one_that_waits_is_told_with_each_gpu_server(api, ann):
    make.device(gpus=1, host_id="small")
    job = make.job(by=ann, gpus=2)

    seen = api("GET", f"jobs/{job.uid}/why/").json()

    assert seen["state"] == "queued"
    assert seen["sentences"] == [job.waiting_reason]
    assert [(one["device"], one["when"]) for one in seen["places"]] == [("small", "never")]


def test_one_that_runs_is_told_where(api, ann):
    attempt = make.attempt(by=ann, started=True)

    seen = api("GET", f"jobs/{attempt.job.uid}/why/").json()

    assert seen["sentences"] == [f"running: {attempt.device.host_id}"]
    assert seen["places"] == []


def test_one_that_ended_is_told_how(api, ann):
    attempt = make.attempt(by=ann, started=True)
    attempt.end(Outcome.FAILED, database_now(), exit_code=127)

    [sentence] = api("GET", f"jobs/{attempt.job.uid}/why/").json()["sentences"]

    assert "command was not found" in sentence


def test_of_anothers_run_the_places_are_its_submitters(api):
    device = make.device(gpus=1, run_as="submitter")
    kim = make.user("kim")
    UnixAccount.objects.create(user=kim, name="kimu")
    job = make.job(by=kim)

    [place] = api("GET", f"jobs/{job.uid}/why/").json()["places"]

    assert (place["device"], place["user"]) == (device.host_id, "kimu")


# --- me -------------------------------------------------------------------------------------


def test_a_token_says_whose_it_is(api):
    seen = api("GET", "me/").json()

    assert (seen["username"], seen["role"], seen["may_submit"]) == ("ann", "researcher", True)
    assert seen["token"]["name"] == "script"
    assert not {"sha256", "key"} & set(seen["token"])


def test_a_session_has_no_token(client, ann):
    client.force_login(ann)

    assert client.get("/api/me/").json()["token"] is None


# --- claims ---------------------------------------------------------------------------------


def test_who_has_a_card_is_told_but_not_with_which_private_run(client, api):
    kim = make.user("kim")
    make.project("secret", created_by=kim, private=True)
    hidden = make.attempt(project="secret", by=kim, started=True)
    shown = make.attempt(project="digits", by=kim, started=True)

    rows = {one["gpu"]: one for one in api("GET", "claims/").json()["results"]}

    theirs, everybodys = (rows[one.gpu_uuids[0]] for one in (hidden, shown))
    assert (theirs["run"], theirs["words"]) == (None, "a private run (kim)")
    assert (everybodys["run"], everybodys["words"]) == (shown.job.uid, "digits/run_001 (kim)")


def test_claims_cost_the_same_however_many_there_are(api, django_assert_max_num_queries):
    make.attempt(started=True)
    with django_assert_max_num_queries(12) as few:
        api("GET", "claims/")
    for _ in range(5):
        make.attempt(started=True)

    with django_assert_max_num_queries(len(few)):
        assert len(api("GET", "claims/").json()["results"]) == GPUClaim.objects.count() == 6


# --- names of runs --------------------------------------------------------------------------


def found(api, ref: str) -> set[str]:
    return {one["uid"] for one in api("GET", f"jobs/?ref={ref}").json()["results"]}


def test_a_run_is_found_by_what_people_call_it(api, ann):
    first, second = make.job(project="a", by=ann), make.job(project="b", by=ann)

    assert found(api, first.uid) == {first.uid}
    assert found(api, "b/run_001") == found(api, "b/run_1") == {second.uid}
    assert found(api, "run_001") == {first.uid, second.uid}
    assert found(api, first.uid[:8]) == {first.uid, second.uid}


@pytest.mark.parametrize("ref", ["run_", "a/", "/", "a/b/run_001", "run_9999999999", "a", "%25"])
def test_what_names_no_run_finds_none(api, ref):
    make.job(project="a")

    assert found(api, ref) == set()


def test_a_list_says_where_each_run_is_in_the_same_number_of_queries(
    api, ann, django_assert_max_num_queries
):
    attempt = make.attempt(by=ann, started=True)
    with django_assert_max_num_queries(12) as few:
        api("GET", "jobs/")
    for _ in range(4):
        make.attempt(by=ann)
    make.job(by=ann)

    with django_assert_max_num_queries(len(few)):
        rows = api("GET", "jobs/").json()["results"]

    assert [row["device"] for row in rows if row["uid"] == attempt.job.uid] == [
        attempt.device.host_id
    ]
    assert rows[0]["device"] is None
