"""Runs from files that a lab already has: made once, whoever asks how often, and shown as runs."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection
from django.test import Client

from experiments import imports, submission
from experiments.errors import NotSubmitted
from experiments.models import Attempt, Cell, Imported, Job, JobEvent, Project
from labsite.clock import database_now
from sync import trash
from sync.curves import shown
from sync.models import SyncFile, Upload
from tests import make
from tests.labsite.payloads import PAYLOADS

pytestmark = pytest.mark.django_db
CSV = b"epoch,loss\n0,2.5\n1,1.25\n"
MARK = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "a+", "b")}


class Person:
    """Somebody's program."""

    def __init__(self, user) -> None:
        self.user = user
        self._client = Client(raise_request_exception=False)
        self._token = make.token(user)

    def ask(self, method: str, path: str, body=None, raw: bytes | None = None, **headers: str):
        headers["authorization"] = f"Token {self._token}"
        kind = "application/json" if raw is None else "application/octet-stream"
        data = json.dumps(body) if raw is None else raw
        return self._client.generic(method, path, data, content_type=kind, headers=headers)

    def imports(self, **said):
        return self.ask("POST", "/api/imports/", wish(**said))

    def foresees(self, *runs):
        found = [{"project": "digits", "run": run, "marks": [MARK[m]]} for run, m in runs]
        return self.ask("POST", "/api/imports/preview/", {"runs": found}).json()

    def sends(self, uid: str, name: str, data: bytes, **headers: str):
        return self.ask("POST", f"/api/sync/import/{uid}/{name}", raw=data, **headers)


def wish(**said):
    marks = [MARK[name] for name in said.pop("marks", ["a"])]
    return {
        "project": "digits", "run": "run_003", "marks": marks, "host": "old-gpu",
        "folder": "/home/kim/logs/digits", "started_at": "2024-03-01T10:00:00Z",
        "finished_at": "2024-03-01T12:00:00Z", "file_count": 2, "size_bytes": len(CSV),
        "config": "lr: 0.1\r\nmodel: {depth: 18}\n", **said,
    }  # fmt: skip


@pytest.fixture
def kim(db) -> Person:
    return Person(make.user("kim"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- the run -------------------------------------------------------------------------------------


def test_a_run_keeps_its_number_its_times_and_its_config_byte_for_byte(kim):
    answer = kim.imports(tags=["old"])

    job = Job.objects.get()
    assert (answer.status_code, answer.json()["run_name"]) == (201, "run_003")
    assert (job.user, job.state, job.tags) == (kim.user, "succeeded", ["old"])
    assert bytes(job.config) == b"lr: 0.1\r\nmodel: {depth: 18}\n"
    assert job.keys == {"lr": 0.1, "model": {"depth": 18}}
    assert (job.finished_at - job.started_at).total_seconds() == 7200
    assert Cell.objects.filter(job=job, column__name="model.depth", text="18").exists()
    [event] = JobEvent.objects.all()
    assert (event.kind, event.by, event.data["host"]) == ("imported", kim.user, "old-gpu")


def test_nothing_of_it_ran_here_so_nothing_is_counted_given_out_or_waited_for(kim):
    kim.imports()

    assert not Attempt.objects.exists()
    assert not Job.objects.unended().exists()


def test_a_number_that_is_taken_becomes_the_next_and_the_old_name_is_told(kim):
    for _ in range(3):
        make.job(by=kim.user)

    said = kim.imports().json()

    assert said["run_name"] == "run_004"
    assert Job.objects.get(uid=said["uid"]).name == "run_003"
    assert make.job(by=kim.user).run_name == "run_005"


def test_runs_are_numbered_on_behind_the_highest_that_came(kim):
    kim.imports(run="run_040")
    kim.imports(run="run_002", marks=["b"])

    assert make.job(by=kim.user).run_name == "run_041"


@pytest.mark.parametrize("name", ["version_0", "run_20240301", "run_0", "run_1x", "실험"])
def test_what_is_no_number_of_ours_is_numbered_anew(kim, name):
    assert kim.imports(run=name).json()["run_name"] == "run_001"
    assert Job.objects.get().name == name


def test_the_number_of_a_deleted_run_is_not_given_again(kim):
    kim.imports()
    Job.objects.get().delete_run(database_now(), by=kim.user)

    assert kim.imports(marks=["b"]).json()["run_name"] == "run_004"


def test_a_file_that_is_no_config_is_none_and_says_why(kim):
    said = kim.imports(config="- a\n- b\n").json()

    assert "keys and values" in said["config_problem"]
    assert bytes(Job.objects.get().config) == b""


# --- exactly once --------------------------------------------------------------------------------


def test_the_same_files_make_no_second_run(kim):
    first = kim.imports().json()

    again = kim.imports()

    assert (again.status_code, again.json()) == (200, {**first, "status": "there"})
    assert Job.objects.count() == 1


def test_a_run_that_grew_is_known_by_a_mark_of_before_and_brought_up_to_date(kim):
    kim.imports()
    Job.objects.get().edit(by=kim.user, notes="mine")

    later = {"finished_at": "2024-03-02T12:00:00Z", "config": "lr: 0.2\n", "file_count": 5}
    later["size_bytes"] = 99
    said = kim.imports(marks=["a", "a+"], **later).json()

    job = Job.objects.get()
    assert (said["status"], job.keys, job.notes) == ("there", {"lr": 0.2}, "mine")
    assert (job.finished_at.day, job.imported.file_count) == (2, 5)
    assert set(Cell.objects.values_list("column__name", "text")) == {("lr", "0.2")}


@pytest.mark.parametrize(
    "said",
    [
        {"finished_at": "2024-03-01T11:00:00Z", "size_bytes": 99},
        {"finished_at": "2026-01-01T00:00:00Z"},  # copied, and not a byte more
    ],
)
def test_a_copy_that_knows_no_more_changes_no_time(kim, said):
    kim.imports()

    kim.imports(**said)

    assert f"{Job.objects.get().finished_at:%Y-%m-%d %H}" == "2024-03-01 12"


def test_what_ran_here_is_not_made_once_more(kim):
    ran = make.job(by=kim.user)
    found = {"project": "other", "run": "run_001", "marks": [MARK["b"]], "uid": ran.uid}

    told = kim.ask("POST", "/api/imports/preview/", {"runs": [found]}).json()
    said = kim.imports(uid=ran.uid).json()

    assert (told[0]["status"], told[0]["words"]) == ("ran", f"It ran here, as {ran}.")
    assert (said["status"], said["uid"]) == ("ran", ran.uid)
    assert Job.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_several_at_once_one_makes_it_and_the_others_find_it(kim):
    found = imports.Found("digits", "run_003", [MARK["a"]])
    now = database_now()
    facts = imports.Facts("old-gpu", "/logs", now, now, file_count=1, size_bytes=1)

    def one(_):
        try:
            return imports.take_in(found, facts, by=kim.user).status
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        told = sorted(pool.map(one, range(4)))

    assert told == ["new", "there", "there", "there"]
    assert Job.objects.count() == Imported.objects.count() == 1


def test_of_another_project_they_are_another_run(kim):
    kim.imports()

    assert kim.imports(project="other").status_code == 201


def test_what_was_deleted_stays_so_unless_it_is_wished_again(kim):
    uid = kim.imports().json()["uid"]
    Job.objects.get().delete_run(database_now(), by=kim.user)

    left, again = kim.imports().json(), kim.imports(again=True).json()

    assert (left["status"], left["uid"]) == ("deleted", None)
    assert (again["status"], again["uid"] != uid) == ("new", True)
    Job.objects.get(uid=uid).restore_run(by=kim.user)
    assert kim.imports().json()["uid"] == again["uid"]


def test_what_would_be_made_is_foretold_and_nothing_is_made(kim):
    uid = kim.imports().json()["uid"]

    told = kim.foresees(("run_003", "a"), ("run_003", "b"), ("version_0", "a+"))

    assert [(one["status"], one["run_name"]) for one in told] == [
        ("there", "run_003"), ("new", "run_004"), ("new", "run_005"),
    ]  # fmt: skip
    assert told[0]["uid"] == uid
    assert Job.objects.count() == 1


# --- who may -------------------------------------------------------------------------------------


def test_anothers_import_is_left_alone_and_named(kim):
    kim.imports()
    lee = Person(make.user("lee"))

    refused = lee.imports()

    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert refused.json()["detail"] == "kim imported this run already, as digits/run_003."
    assert lee.foresees(("run_003", "a"))[0]["status"] == "refused"


def test_an_archived_project_takes_none_and_no_file(kim):
    uid = kim.imports().json()["uid"]
    Project.objects.get().archive(database_now())

    answers = [kim.imports(), kim.imports(marks=["b"]), kim.sends(uid, "run_003.csv", CSV)]

    assert [answer.json()["code"] for answer in answers] == ["project_archived"] * 3
    assert "archived" in kim.foresees(("run_009", "b"))[0]["words"]


def test_a_private_project_takes_none_of_a_stranger_and_tells_nothing(kim):
    make.project("digits", created_by=make.user("ann"), private=True)

    assert kim.imports().status_code == 403
    assert kim.foresees(("run_003", "a"))[0]["status"] == "refused"


def test_a_viewer_imports_nothing(kim):
    viewer = Person(make.viewer())

    assert viewer.imports().status_code == 403
    assert not Project.objects.exists()


def test_files_are_sent_by_who_imported_it_and_of_imported_runs_only(kim):
    uid = kim.imports().json()["uid"]
    lee, ran = Person(make.user("lee")), make.job(by=kim.user)

    assert lee.sends(uid, "run_003.csv", CSV).status_code == 403
    assert kim.sends(ran.uid, f"{ran.run_name}.csv", CSV).status_code == 404
    assert not SyncFile.objects.exists()


# --- its files -----------------------------------------------------------------------------------


def test_its_csv_is_its_curve_its_summary_and_its_cells(kim):
    uid = kim.imports().json()["uid"]

    answer = kim.sends(uid, "run_003.csv", CSV, **{"x-file-sha256": sha256(CSV)})

    job = Job.objects.get()
    assert (answer.status_code, answer.json()["data"]["complete"]) == (200, True)
    assert job.summary["min"]["loss"] == 1.25
    assert Cell.objects.get(column__name="loss", job=job).number == 1.25
    drawn = json.loads(json.dumps(shown.of(job, "")))
    assert [2.5, 1.25] in [series["values"] for series in _series(drawn)]
    assert Project.objects.get().used_bytes == len(CSV)


def _series(drawn):
    """Each curve of what the page is sent, however it lies in it."""
    if isinstance(drawn, dict):
        if isinstance(drawn.get("values"), list):
            yield drawn
        for inner in drawn.values():
            yield from _series(inner)
    elif isinstance(drawn, list):
        for inner in drawn:
            yield from _series(inner)


def test_a_checkpoint_in_chunks_goes_on_where_it_was_cut(kim):
    uid, whole = kim.imports().json()["uid"], bytes(range(250)) * 4
    said = {
        "x-upload-id": "u1", "x-upload-length": "1000", "x-file-sha256": sha256(whole)
    }  # fmt: skip

    first = kim.sends(uid, "run_003.pt", whole[:600], **said, **{"x-upload-offset": "0"})
    asked = kim.ask("GET", f"/api/sync/import/{uid}/run_003.pt?upload_id=u1")
    last = kim.sends(uid, "run_003.pt", whole[600:], **said, **{"x-upload-offset": "600"})

    assert (first.status_code, asked["Upload-Offset"], last.status_code) == (202, "600", 200)
    assert not Upload.objects.exists()
    assert SyncFile.objects.get().complete
    assert Job.objects.get().can_be_resumed


def test_a_file_that_is_there_is_not_written_again(kim):
    uid = kim.imports().json()["uid"]
    kim.sends(uid, "run_003.csv", CSV)

    again = kim.sends(uid, "run_003.csv", CSV, **{"x-file-sha256": sha256(CSV)})

    assert again.json()["data"]["duplicate"]
    assert Project.objects.get().used_bytes == len(CSV)


def test_a_project_that_is_full_takes_no_file_and_says_what_to_do(kim):
    uid = kim.imports().json()["uid"]
    Project.objects.update(quota_bytes=3)

    refused = kim.sends(uid, "run_003.pt", b"0123")

    assert (refused.status_code, refused.json()["code"]) == (507, "quota_full")
    assert "Then import once more" in refused.json()["detail"]
    assert not SyncFile.objects.exists()


@pytest.mark.parametrize(
    "name", ["run_004.csv", "../run_003.csv", "run_003/../../x", "run_003/-rf", "run_003.csv.g1"]
)
def test_no_name_leads_out_of_the_run(kim, name):
    uid = kim.imports().json()["uid"]

    answer = kim.sends(uid, name, b"x")

    assert answer.status_code in (400, 404)
    assert not SyncFile.objects.exists()


def test_a_deleted_run_takes_no_file(kim):
    uid = kim.imports().json()["uid"]
    Job.objects.get().delete_run(database_now(), by=kim.user)
    trash.collect(database_now())

    assert kim.sends(uid, "run_003.csv", CSV).status_code == 410


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {"marks": []},
        {"finished_at": "2024-02-01T00:00:00Z"},
        {"started_at": "0001-01-01T00:00:00+14:00"},
        {"file_count": 0},
        {"size_bytes": 2**63},
        {"project": "../x"},
        {"run": "\0"},
        {"name": "a\nb"},
        {"tags": ["\0"]},
        {"config": "x" * (1024 * 1024 + 1)},
        {"host": "x" * 300},
        {"folder": "x" * 5000},
    ],
)
def test_what_cannot_be_meant_is_refused_and_makes_nothing(kim, said):
    assert kim.imports(**said).status_code == 400
    assert not Job.objects.exists()


def test_hostile_names_are_kept_as_text_and_their_pages_open(kim):
    client = Client()
    client.force_login(kim.user)
    texts = [text for text in PAYLOADS if text.strip() and text.isprintable()][:24]
    for n, text in enumerate(texts):
        marks = [hashlib.sha256(f"{n}".encode()).hexdigest()]
        said = {"run": text[:200], "host": text[:200], "folder": text[:200]}
        answer = kim.ask("POST", "/api/imports/", {**wish(), **said, "marks": marks})
        assert answer.status_code == 201, text
        page = client.get(f"/runs/{answer.json()['uid']}/").content.decode()
        assert "<script>alert" not in page


# --- on pages ------------------------------------------------------------------------------------


@pytest.fixture
def reader(kim) -> Client:
    client = Client()
    client.force_login(kim.user)
    return client


def test_its_page_says_where_it_came_from_and_nothing_of_gpu_servers(kim, reader):
    uid = kim.imports().json()["uid"]
    kim.sends(uid, "run_003.csv", CSV)

    page = reader.get(f"/runs/{uid}/").content.decode()

    assert "old-gpu:/home/kim/logs/digits" in page
    assert "1 of its files has not come yet" in page
    for word in ("Tries", "Asked for", "Priority", "It has not been started yet", "Command</h2>"):
        assert word not in page


def test_it_stands_in_the_table_as_imported_and_is_found_so(kim, reader):
    kim.imports()
    make.job(by=kim.user)

    page = reader.get("/runs/?q=state:imported").content.decode()
    listed = kim.ask("GET", "/api/jobs/?q=state:imported").json()

    assert 'data-state="imported"' in page
    assert [one["run_name"] for one in listed["results"]] == ["run_003"]


def test_a_program_is_told_that_it_was_imported(kim):
    uid = kim.imports().json()["uid"]

    job = kim.ask("GET", f"/api/jobs/{uid}/").json()
    why = kim.ask("GET", f"/api/jobs/{uid}/why/").json()

    assert (job["imported"]["host"], job["imported"]["name"]) == ("old-gpu", "run_003")
    assert why["sentences"] == [
        "It was imported from old-gpu:/home/kim/logs/digits: nothing of it ran here."
    ]


# --- once more -----------------------------------------------------------------------------------


def test_a_rerun_needs_a_command_and_says_how_to_give_one(kim, reader):
    uid = kim.imports().json()["uid"]

    refused = kim.ask("POST", f"/api/jobs/{uid}/rerun/", {})

    assert (refused.status_code, refused.json()["field"]) == (400, "command")
    assert "Rerun with a change" in refused.json()["detail"]
    form = reader.get(f"/execute/?from={uid}").content.decode()
    assert "depth: 18" in form


def test_with_the_projects_command_its_config_is_run_again(kim):
    make.project("digits", created_by=kim.user, command=["python", "train.py", "{config}"])
    uid = kim.imports().json()["uid"]

    again = kim.ask("POST", f"/api/jobs/{uid}/rerun/", {"set": {"lr": 0.5}})

    job = Job.objects.get(uid=again.json()["uid"])
    assert (job.parent.uid, job.gpus, job.keys["lr"]) == (uid, 1, 0.5)
    assert (job.imported_at, job.state) == (None, "queued")


def test_without_a_config_it_is_not_run_again(kim):
    kim.imports(config="")

    with pytest.raises(NotSubmitted):
        submission.rerun(Job.objects.get(), by=kim.user)
