"""Projects and jobs over HTTP, as a researcher's script sees them."""

from datetime import timedelta

import pytest
from django.utils.dateparse import parse_datetime

from devices.models import Device
from devices.serializers import DeviceSerializer
from experiments.models import Attempt, Job, Project, Pulse
from experiments.serializers.jobs import JobSerializer
from experiments.serializers.projects import ProjectSerializer
from experiments.states import JobState, Outcome, Priority
from labsite.clock import database_now
from tests import make

pytestmark = pytest.mark.django_db
CONFIG = """\
# ours, untouched
lr: 0.1
tags: !!python/tuple [1, 2]
lab:
  command: [python, train.py, --config, "{config}"]
  resources: {gpus: 2, gpu_memory: 24GiB}
  priority: high
"""


@pytest.fixture
def ann():
    return make.user("ann")


@pytest.fixture
def api(client, ann):
    """Ask as ann, by her API token: method, path, body → answer."""
    return caller(client, ann)


def caller(client, user):
    token = make.token(user)

    def ask(method: str, path: str, data=None):
        return client.generic(
            method,
            f"/api/{path}",
            "" if data is None else data if isinstance(data, str) else _json(data),
            content_type="application/json",
            HTTP_AUTHORIZATION=f"Token {token}",
        )

    return ask


def _json(data) -> str:
    import json

    return json.dumps(data)


def test_only_a_manager_calls_a_run_urgent_by_whatever_door(api, ann):
    wish = {"command": ["true"], "project": "digits"}
    job = make.job(by=ann)
    sweep = api("POST", "sweeps/", {**wish, "sweep": {"grid": {"lr": [1, 2]}}}).json()
    doors = {
        "jobs/": {**wish, "priority": "urgent"},
        "sweeps/": {**wish, "priority": "urgent", "sweep": {"grid": {"lr": [1, 2]}}},
        f"jobs/{job.uid}/priority/": {"priority": "urgent"},
        f"sweeps/{sweep['id']}/priority/": {"priority": "urgent"},
    }

    answers = [api("POST", path, said) for path, said in doors.items()]

    assert [answer.status_code for answer in answers] == [403] * 4
    assert {answer.json()["detail"] for answer in answers} == {
        "Only a manager may call a run urgent."
    }


def test_what_a_manager_called_urgent_is_not_when_its_owner_runs_it_again(api, ann):
    job = make.job(by=ann)
    job.set_priority(Priority.URGENT, by=make.manager())
    job.cancel()

    again = api("POST", f"jobs/{job.uid}/rerun/").json()

    assert again["priority"] == "high"


def test_a_yaml_is_queued_and_kept_byte_for_byte(api, ann):
    answer = api("POST", "jobs/", {"config": CONFIG, "project": "digits", "name": "first"})

    assert answer.status_code == 201
    body = answer.json()
    job = Job.objects.get(uid=body["uid"])
    assert bytes(job.config) == CONFIG.encode()
    assert (body["run_name"], body["user"], body["state"]) == ("run_001", "ann", "queued")
    assert (body["gpus"], body["gpu_memory_bytes"], body["priority"]) == (2, 24 * 2**30, "high")
    assert body["waiting_reason"]


def test_a_command_and_a_project_are_enough(api):
    answer = api("POST", "jobs/", {"project": "p", "command": ["python", "a.py"]})

    assert answer.status_code == 201
    assert answer.json()["command"] == ["python", "a.py"]


def test_what_the_request_says_goes_before_the_file(api):
    answer = api("POST", "jobs/", {"config": CONFIG, "project": "p", "resources": {"gpus": 0}})

    assert answer.json()["gpus"] == 0


def test_a_projects_defaults_are_laid_beneath(api):
    api("POST", "projects/", {"name": "p", "command": ["make"], "environment": {"A": "1"}})

    answer = api("POST", "jobs/", {"project": "p", "environment": {"B": "2"}})

    assert answer.json()["command"] == ["make"]
    assert answer.json()["environment"] == {"A": "1", "B": "2"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"config": "lr: 0.1", "project": "p"}, "there is no command"),
        ({"config": "a: [", "project": "p"}, "line"),
        ({"config": "lab: {comand: [x]}", "project": "p"}, "command"),
        ({"command": ["x"]}, "No project is named"),
        ({"command": ["x"], "project": "../p"}, "project"),
        ({"config_path": "nope.yaml", "project": "p"}, "no config"),
        ({"config_path": "../../etc/passwd", "project": "p"}, "no config"),
        ({"command": ["x"], "project": "p", "time_limit": "90"}, "90"),
        ("{", "JSON"),
        ("[]", "dictionary"),
    ],
)
def test_a_mistake_is_a_sentence_and_queues_nothing(api, data, says):
    answer = api("POST", "jobs/", data)

    assert answer.status_code in (400, 404)
    assert says.lower() in answer.json()["detail"].lower()
    assert answer["Content-Type"].startswith("application/problem+json")
    assert Job.objects.count() == 0


def test_a_config_of_the_labs_folder_is_queued(api, settings, tmp_path):
    settings.LAB_CONFIG_DIR = tmp_path
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.yaml").write_text(CONFIG)

    answer = api("POST", "jobs/", {"config_path": "config/a/b.yaml", "project": "p"})

    assert answer.status_code == 201


def test_a_job_is_cancelled_held_and_given_another_priority(api, ann):
    job = make.job(by=ann)

    assert api("POST", f"jobs/{job.uid}/hold/").json()["held"] is True
    answer = api("POST", f"jobs/{job.uid}/priority/", {"priority": "high"})
    assert answer.json()["priority"] == "high"
    assert api("POST", f"jobs/{job.uid}/cancel/").json()["state"] == "cancelled"
    again = api("POST", f"jobs/{job.uid}/cancel/")
    assert (again.status_code, again.json()["code"]) == (409, "illegal_transition")


def test_somebody_elses_job_is_looked_at_and_not_touched(api):
    job = make.job(by=make.user("bob"))

    assert api("GET", f"jobs/{job.uid}/").status_code == 200
    assert api("POST", f"jobs/{job.uid}/cancel/").status_code == 403
    assert api("PATCH", f"jobs/{job.uid}/", {"notes": "x"}).status_code == 403
    assert api("DELETE", f"jobs/{job.uid}/").status_code == 403
    assert Job.objects.get().state == JobState.QUEUED


def test_a_manager_may_cancel_anybodys(client):
    job = make.job(by=make.user("bob"))

    answer = caller(client, make.manager())("POST", f"jobs/{job.uid}/cancel/")

    assert answer.json()["state"] == "cancelled"


def test_anybodys_job_may_be_rerun_as_ones_own(api):
    job = make.job(by=make.user("bob"), config=CONFIG, command=["a", "{config}"], gpus=1)

    answer = api("POST", f"jobs/{job.uid}/rerun/")

    again = Job.objects.get(uid=answer.json()["uid"])
    assert (again.parent, again.user.username, again.run_name) == (job, "ann", "run_002")
    assert bytes(again.config) == CONFIG.encode()
    assert (again.command, again.gpus) == (["a", "{config}"], 1)


def test_an_ended_job_is_deleted_as_a_tombstone(api, ann):
    job = make.job(by=ann)
    assert api("DELETE", f"jobs/{job.uid}/").status_code == 409
    job.cancel()

    assert api("DELETE", f"jobs/{job.uid}/").status_code == 204

    assert api("GET", f"jobs/{job.uid}/").status_code == 404
    assert Job.objects.get().deleted_at is not None


def test_state_is_not_written_by_hand(api, ann):
    job = make.job(by=ann)

    answer = api("PATCH", f"jobs/{job.uid}/", {"state": "succeeded", "notes": "mine"})

    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["notes"]) == ("queued", "mine")


def test_what_moved_between_the_reading_and_the_writing_is_not_taken_back(ann):
    """A PATCH reads a row and writes it a moment later; agents and dispatch do not wait."""
    job, device, project = make.job(by=ann), make.device(), Project.objects.get()
    stale = [
        (JobSerializer, Job.objects.get(), {"notes": "mine"}),
        (DeviceSerializer, Device.objects.get(), {"max_jobs": 2}),
        (ProjectSerializer, Project.objects.get(), {"description": "digits"}),
    ]
    job.cancel()
    device.revoke(database_now())
    project.next_run()

    for serializer, row, data in stale:
        form = serializer(row, data=data, partial=True)
        form.is_valid(raise_exception=True)
        form.save()

    job.refresh_from_db()
    device.refresh_from_db()
    project.refresh_from_db()
    assert (job.state, job.notes) == (JobState.CANCELLED, "mine")
    assert (device.revoked_at is not None, device.max_jobs) == (True, 2)
    assert (project.last_run, project.description) == (2, "digits")


@pytest.mark.parametrize("name", ["../../../tmp/x", "a/b", ".hidden", "other"])
def test_a_project_keeps_its_name_under_which_its_files_lie(api, ann, name):
    make.job(project="digits", by=ann)

    answer = api("PATCH", "projects/digits/", {"name": name})

    assert answer.status_code == 400
    assert Project.objects.get().name == "digits"


def test_a_projects_runs_are_those_that_there_are_however_they_are_numbered(api, ann):
    gone, _left = make.job(by=ann), make.job(by=ann)
    gone.cancel(by=ann)
    gone.delete_run(database_now(), by=ann)
    Project.objects.update(last_run=400)  # of an imported one
    make.job(by=ann)

    assert api("GET", "projects/digits/").json()["runs"] == 2
    assert api("GET", "projects/").json()["results"][0]["runs"] == 2
    assert api("POST", "projects/", {"name": "new"}).json()["runs"] == 0


def test_a_project_is_made_with_a_name_that_a_folder_may_have_only(api):
    assert api("POST", "projects/", {"name": "../x"}).status_code == 400
    assert api("POST", "projects/", {"name": "vision"}).status_code == 201


@pytest.mark.parametrize(
    "defaults",
    [{"command": {"a": 1}}, {"environment": ["A=1"]}, {"environment": {"LAB_CONFIG": "x"}}],
)
def test_a_projects_defaults_are_checked_as_a_jobs_options_are(api, ann, defaults):
    make.job(project="digits", by=ann)
    Project.objects.update(created_by=ann)

    assert api("PATCH", "projects/digits/", defaults).status_code == 400


def test_a_projects_command_may_be_written_as_a_line(api, ann):
    api("POST", "projects/", {"name": "digits", "command": "python train.py"})

    assert Project.objects.get().command == ["python", "train.py"]


def test_events_tell_what_happened(api, ann):
    job = make.job(by=ann)
    job.cancel(by=ann)

    kinds = [event["kind"] for event in api("GET", f"jobs/{job.uid}/events/").json()["results"]]

    assert kinds == ["submitted", "cancel_requested", "cancelled"]


def test_jobs_are_filtered_by_project_and_state(api, ann):
    make.job(by=ann, project="a")
    make.job(by=ann, project="b").cancel()

    listed = api("GET", "jobs/?state=cancelled").json()["results"]

    assert [job["project"] for job in listed] == ["b"]


@pytest.mark.parametrize(
    "path", ["jobs/", "projects/", "devices/", "enrollment-codes/", "schema/"]
)
def test_nobody_looks_without_signing_in(client, path):
    assert client.get(f"/api/{path}").status_code in (401, 403)


def test_an_agents_token_is_no_persons(client):
    make.device(token="labd_abcdefgh_secret")

    answer = client.get("/api/jobs/", HTTP_AUTHORIZATION="Bearer labd_abcdefgh_secret")

    assert answer.status_code in (401, 403)


def test_a_researcher_may_not_make_enrollment_codes(api):
    assert api("POST", "enrollment-codes/", {}).status_code == 403


def test_a_manager_makes_a_code_that_is_shown_once(client):
    ask = caller(client, make.manager())

    code = ask("POST", "enrollment-codes/", {"uses": 3, "minutes": 60}).json()

    assert len(code["code"]) == 32
    assert code["code"] not in ask("GET", "enrollment-codes/").content.decode()


def test_a_manager_stops_new_jobs_on_a_device(client):
    device = make.device(gpus=1)
    ask = caller(client, make.manager())

    assert ask("POST", f"devices/{device.host_id}/drain/").json()["draining"] is True
    assert ask("PATCH", f"devices/{device.host_id}/", {"max_jobs": 1}).json()["max_jobs"] == 1
    assert ask("POST", f"devices/{device.host_id}/resume/").json()["draining"] is False


def test_the_schema_describes_every_route(api):
    schema = api("GET", "schema/?format=json").json()

    assert {"/api/jobs/", "/api/agent/poll", "/api/devices/heartbeat"} <= set(schema["paths"])


def test_the_schema_of_an_agents_message_is_the_wires_own(api):
    schema = api("GET", "schema/?format=json").json()

    beat = schema["paths"]["/api/devices/heartbeat"]["post"]["requestBody"]["content"]
    properties = beat["application/json"]["schema"]["properties"]
    assert properties["cpu_percent"] == {
        "type": "number",
        "minimum": 0,
        "maximum": 100,
        "nullable": True,
    }
    assert properties["gpus"]["items"]["properties"]["uuid"]["maxLength"] == 96


RESUME = {
    "files": [
        {
            "experiment_uid": "",
            "file_name": "run_001.pt",
            "lay_as": "run_001.pt",
            "size_bytes": 7,
            "sha256": "0" * 64,
        }
    ],
    "checkpoint": "run_001.pt",
    "point": {"epoch": 5},
}


def test_an_ended_job_is_resumed_by_a_new_one_from_its_checkpoint(api):
    attempt = make.attempt(started=True)
    attempt.end(Outcome.FAILED, database_now(), exit_code=1)
    job = Job.objects.get()
    file = {**RESUME["files"][0], "experiment_uid": job.uid}
    job.note_resume_point({"resume": {**RESUME, "files": [file]}})

    answer = api("POST", f"jobs/{job.uid}/resume/")

    again = Job.objects.get(uid=answer.json()["uid"])
    given = make.attempt(again).resume
    assert again.parent == job
    assert given["checkpoint"] == "run_002.pt"
    assert given["files"] == [{**file, "lay_as": "run_002.pt"}]


def test_what_left_no_checkpoint_or_still_runs_is_not_resumed(api):
    running = make.attempt(started=True)
    running.job.note_resume_point({"resume": RESUME})
    ended = make.attempt(started=True)
    ended.end(Outcome.FAILED, database_now(), exit_code=1)

    for attempt in (running, ended):
        answer = api("POST", f"jobs/{attempt.job.uid}/resume/")
        assert (answer.status_code, answer.json()["code"]) == (400, "not_submitted")
    assert Job.objects.count() == 2


def test_a_silence_is_told_with_what_comes_of_it_by_itself(api, ann):
    attempt = make.attempt(make.job(by=ann, time_limit="6h"), started=True)
    path = f"jobs/{attempt.job.uid}/"
    assert api("GET", path).json()["attempts"][0]["contact"] is None
    silent_since = database_now() - timedelta(minutes=38)
    Device.objects.update(last_heartbeat_at=silent_since)

    contact = api("GET", path).json()["attempts"][0]["contact"]

    assert (contact["device_state"], contact["then"]) == ("disconnected", "failed")
    assert "nothing is lost" in contact["words"]
    times = [parse_datetime(contact[name]) for name in ("since", "time_limit_at", "then_at")]
    assert times == [
        silent_since,
        attempt.started_at + timedelta(hours=6),
        attempt.renewed_at + timedelta(days=7),
    ]


def test_a_server_that_was_blind_does_not_say_that_an_untaken_try_goes_back_before_it_can(api):
    attempt = make.attempt(accepted=False)
    now = database_now()
    Attempt.objects.update(created_at=now - timedelta(minutes=10))
    Device.objects.update(last_heartbeat_at=now - timedelta(minutes=10))
    seen_since = now - timedelta(seconds=20)
    Pulse.objects.create(name=Pulse.LANE, at=now, unbroken_since=seen_since)

    contact = api("GET", f"jobs/{attempt.job.uid}/").json()["attempts"][0]["contact"]

    assert contact["then"] == "queued"
    assert parse_datetime(contact["then_at"]) == seen_since + timedelta(seconds=60)


def test_why_a_try_ended_is_told_in_the_sentence_of_the_pages(api, ann):
    first = make.attempt(make.job(by=ann), started=True)
    path = f"jobs/{first.job.uid}/"
    assert api("GET", path).json()["attempts"][0]["ending"] == ""
    first.end(Outcome.SUPERVISOR_LOST, database_now())
    second = make.attempt(Job.objects.get(), first.device, started=True)
    second.end(Outcome.FAILED, database_now(), exit_code=1)

    endings = [attempt["ending"] for attempt in api("GET", path).json()["attempts"]]

    assert endings == [
        "What watched over it on the host was killed. That was try 1 of 3.",
        "The script stopped with an error (exit code 1).",
    ]


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (
            {"unknown_attempts": [{"id": "f", "pid": 4711}]},
            ["does not know runs here", "pid 4711"],
        ),
        ({"unknown_attempts": [{"id": "f", "pid": None}] * 2}, ["2 processes of jobs"]),
        ({"runs_ended_attempt": True}, ["still lives here and is being stopped"]),
        ({}, []),
    ],
)
def test_a_device_tells_in_words_what_a_person_should_know(api, facts, says):
    make.device(**facts)

    [device] = api("GET", "devices/").json()["results"]

    told = " ".join(device["remarks"])
    assert [words for words in says if words not in told] == []
    assert bool(told) is bool(says)


# --- sweeps --------------------------------------------------------------------------------------

GRID = CONFIG + "  sweep: {grid: {lr: [0.1, 0.2, 0.3]}, max_running: 2}\n"


def test_a_sweep_is_queued_read_bounded_and_cancelled(api):
    made = api("POST", "sweeps/", {"config": GRID, "project": "digits"})

    assert made.status_code == 201
    sweep = made.json()
    assert (sweep["runs"], sweep["states"], sweep["added_keys"]) == (3, {"queued": 3}, [])
    assert (sweep["keys"], sweep["max_running"]) == (["lr"], 2)
    jobs = api("GET", f"jobs/?sweep={sweep['id']}").json()["results"]
    assert sorted(job["swept"]["lr"] for job in jobs) == [0.1, 0.2, 0.3]
    assert {job["sweep"] for job in jobs} == {sweep["id"]}

    changed = api("PATCH", f"sweeps/{sweep['id']}/", {"max_running": 1, "name": "by hand"}).json()
    assert (changed["max_running"], changed["name"]) == (1, "by hand")
    held = api("POST", f"sweeps/{sweep['id']}/hold/").json()
    assert (held["concerned"], held["states"]) == (3, {"held": 3})
    assert api("DELETE", f"sweeps/{sweep['id']}/").json()["code"] == "sweep_not_ended"
    assert api("POST", f"sweeps/{sweep['id']}/cancel/").json()["states"] == {"cancelled": 3}
    assert api("POST", f"sweeps/{sweep['id']}/rerun_failed/").status_code == 409
    assert api("DELETE", f"sweeps/{sweep['id']}/").status_code == 204
    assert api("GET", f"sweeps/{sweep['id']}/").status_code == 404


def test_a_config_that_is_a_sweep_is_no_job_and_a_mistake_in_it_has_its_line(api):
    refused = api("POST", "jobs/", {"config": GRID, "project": "digits"})
    assert (refused.status_code, refused.json()["code"]) == (400, "not_submitted")
    assert "/api/sweeps/" in refused.json()["detail"]

    broken = GRID.replace("[0.1, 0.2, 0.3]", "[]")
    [error] = api("POST", "sweeps/", {"config": broken, "project": "digits"}).json()["errors"]
    assert error["line"] == broken.count("\n")


@pytest.mark.parametrize(
    "body", [{"max_running": 0}, {"max_running": "x"}, {"max_running": 10**9}]
)
def test_a_bound_that_is_none_is_refused(api, body):
    sweep = api("POST", "sweeps/", {"config": GRID, "project": "digits"}).json()

    assert api("PATCH", f"sweeps/{sweep['id']}/", body).status_code == 400


def test_a_sweep_is_changed_by_its_owner_and_by_managers(api, client):
    sweep = api("POST", "sweeps/", {"config": GRID, "project": "digits"}).json()
    bob, boss = caller(client, make.user("bob")), caller(client, make.manager())

    assert bob("GET", f"sweeps/{sweep['id']}/").status_code == 200
    assert bob("POST", f"sweeps/{sweep['id']}/cancel/").status_code == 403
    assert bob("DELETE", f"sweeps/{sweep['id']}/").status_code == 403
    assert boss("POST", f"sweeps/{sweep['id']}/cancel/").status_code == 200


def test_a_list_of_sweeps_costs_the_same_however_many_there_are(
    api, django_assert_max_num_queries
):
    for _ in range(4):
        api("POST", "sweeps/", {"config": GRID, "project": "digits"})

    with django_assert_max_num_queries(6):
        listed = api("GET", "sweeps/").json()

    assert [one["runs"] for one in listed["results"]] == [3, 3, 3, 3]


def test_a_list_remarks_on_names_that_no_run_has(api, ann):
    job = make.job(by=ann, config="optimizer: adam\n")
    job.note_summary({"last": {"val_loss": 0.1}, "min": {}, "max": {}, "columns": ["val_loss"]})

    asked = api("GET", "jobs/?q=optimzer%3Dadam%20lr%3C1&ordering=-best:val_los").json()
    plain = api("GET", "jobs/?q=optimizer%3Dadam").json()

    assert [words.partition(": ")[2] for words in asked["remarks"]] == [
        "did you mean optimizer?", "", "did you mean val_loss?",
    ]  # fmt: skip
    assert plain["remarks"] == []
    assert plain["count"] == 1


def test_what_is_no_column_says_which_may_have_been_meant(api, ann):
    job = make.job(by=ann)
    job.note_summary({"last": {"val_loss": 0.1}, "min": {}, "max": {}, "columns": ["val_loss"]})

    near, far = (api("GET", f"jobs/?ordering=-{word}") for word in ("val_los", "zzzzzz"))

    assert (near.status_code, far.status_code) == (400, 400)
    assert "did you mean key:val_loss, best:val_loss?" in near.json()["detail"]
    assert "did you mean" not in far.json()["detail"]
