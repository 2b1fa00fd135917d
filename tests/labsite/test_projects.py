"""Projects as people see them: space, quota, the archive, and what was deleted."""

from datetime import timedelta

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.utils import translation

from experiments.errors import ProjectArchived
from experiments.models import Job, JobEvent, Project
from experiments.states import Outcome
from labsite.clock import database_now
from people.models import AuditEntry
from sync import disk, storage, tasks
from sync.models import DiskSample, SyncFile, Trash, TrashState, What
from sync.storage import Place
from tests import make
from tests.labsite.reading import client_of, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _own_logs(settings, tmp_path, monkeypatch):
    settings.LAB_LOGS_DIR = tmp_path / "logs"
    monkeypatch.setattr(tasks, "SECONDS", 60)  # one slice, on however busy a machine
    yield
    translation.deactivate()


@pytest.fixture
def ann():
    return make.user("ann")


@pytest.fixture
def manager():
    return client_of(make.manager())


@pytest.fixture
def job(ann) -> Job:
    """One that has failed, with a checkpoint of 2 kB here."""
    attempt = make.attempt(make.job(by=ann), started=True)
    attempt.end(Outcome.FAILED, database_now(), exit_code=1)
    store(attempt.job, "run_001.pt")
    return attempt.job


def store(job: Job, name: str) -> None:
    storage.write_at(Place.of(job, name), 0, b"x" * 2000)
    SyncFile.objects.create(
        job=job, name=name, attempt=1, generation=1, size=2000, complete=True, sha256="0" * 64,
        synced_at=database_now(),
    )  # fmt: skip
    job.project.note_used(2000)


def state() -> str:
    return Trash.objects.get().state


# --- deleting a run ------------------------------------------------------------------------------


def test_a_run_is_deleted_from_its_page_after_a_question_and_restored_from_its_project(job, ann):
    client = client_of(ann)
    assert "Delete" in text_of(client.get(f"/runs/{job.uid}/"))

    asked = client.post(f"/runs/{job.uid}/delete/")
    assert "Delete digits/run_001 with all its files?" in text_of(asked)
    assert Job.objects.present().exists()

    page = client.post(f"/runs/{job.uid}/delete/", {"sure": "1"}, follow=True)
    assert page.redirect_chain == [("/projects/digits/", 302)]
    assert "digits/run_001 was deleted." in text_of(page)
    assert client.get(f"/runs/{job.uid}/").status_code == 404
    assert JobEvent.objects.get(job=job, kind="deleted").by == ann
    tasks.tidy()

    page = client.get("/projects/digits/")
    assert "in the trash" in text_of(page)
    client.post(f"/projects/digits/trash/{Trash.objects.get().pk}/restore/")
    tasks.tidy()
    assert client.get(f"/runs/{job.uid}/").status_code == 200
    assert state() == TrashState.RESTORED


def test_nobody_elses_run_is_deleted_or_restored(job, ann):
    bob = client_of(make.user("bob"))
    assert bob.post(f"/runs/{job.uid}/delete/", {"sure": "1"}).status_code == 403
    assert "Delete" not in text_of(bob.get(f"/runs/{job.uid}/"))
    job.delete_run(database_now(), by=ann)
    tasks.tidy()
    pk = Trash.objects.get().pk

    for verb in ("restore", "empty"):
        assert bob.post(f"/projects/digits/trash/{pk}/{verb}/").status_code == 403
        assert bob.post(f"/api/sync/trash/{pk}/{verb}").status_code == 403
    assert state() == TrashState.KEPT


def test_a_run_that_goes_on_is_not_deleted(ann):
    job = make.attempt(make.job(by=ann), started=True).job
    client = client_of(ann)

    assert client.delete(f"/api/jobs/{job.uid}/").status_code == 409
    page = client.post(f"/runs/{job.uid}/delete/", {"sure": "1"}, follow=True)

    assert "cancel it first" in text_of(page)
    assert Job.objects.present().exists()


def test_a_manager_deletes_at_the_desk(job, manager):
    manager.post(
        "/admin/experiments/job/", {"action": "delete_runs", "_selected_action": [job.pk]}
    )

    assert Job.objects.get().deleted_at
    tasks.tidy()
    assert manager.get("/admin/sync/trash/").status_code == 200
    manager.post(
        "/admin/sync/trash/",
        {"action": "restore", "_selected_action": [Trash.objects.get().pk]},
    )
    assert state() == TrashState.RESTORING


# --- freeing space -------------------------------------------------------------------------------


def test_a_manager_sees_what_would_go_before_it_does(job, manager):
    page = manager.get("/projects/digits/", {"what": "failed", "older_than_days": "0"})
    assert "1 run would be deleted with all its files: 1 file, 2.0 kB." in text_of(page)
    assert Job.objects.present().exists()
    form = {"what": "failed", "older_than_days": "0", "confirm": page.context["plan"].digest}

    page = manager.post("/projects/digits/free/", form, follow=True)

    assert "2.0 kB was deleted." in text_of(page)
    assert Trash.objects.get().what == What.FAILED
    assert not Job.objects.present().exists()
    assert Project.objects.get().used_bytes == 0


def test_what_was_not_shown_does_not_go(job, manager):
    page = manager.post("/projects/digits/free/", {"what": "failed", "confirm": "?"}, follow=True)

    assert "has changed meanwhile" in text_of(page)
    assert Job.objects.present().exists()


def test_removing_for_good_is_asked_first(job, manager):
    job.delete_run(database_now())
    tasks.tidy()
    address = f"/projects/digits/trash/{Trash.objects.get().pk}/empty/"

    assert "frees 2.0 kB of the disk" in text_of(manager.post(address))
    assert state() == TrashState.KEPT
    manager.post(address, {"sure": "1"})
    tasks.tidy()

    assert state() == TrashState.EMPTIED
    assert not list(settings.LAB_LOGS_DIR.rglob("*.pt"))


def test_space_is_the_managers_business(job, ann):
    client = client_of(ann)

    assert "Free space" not in text_of(client.get("/projects/digits/?what=failed"))
    for address in ("free", "quota"):
        assert client.post(f"/projects/digits/{address}/").status_code == 403
    for address in ("projects/digits/free?what=failed", "disk"):
        assert client.get(f"/api/sync/{address}").status_code == 403
    assert client.get("/api/sync/projects/digits/trash").status_code == 200


def test_the_api_shows_does_and_takes_back(job, manager):
    address = "/api/sync/projects/digits/free"
    shown = manager.get(address, {"what": "runs"}).json()
    assert (shown["runs"], shown["files"], shown["size_bytes"]) == (1, 1, 2000)
    assert shown["deleted_runs"] == ["run_001"]
    refused = manager.post(address, {"what": "runs"}, "application/json")
    assert (refused.status_code, refused.json()["code"]) == (409, "plan_changed")
    assert refused.json()["confirm"] == shown["confirm"]

    wish = {"what": "runs", "confirm": shown["confirm"]}
    made = manager.post(address, wish, "application/json")

    assert (made.status_code, made.json()["jobs"]) == (201, [job.uid])
    assert (made.json()["files"], made.json()["size_bytes"]) == (1, 2000)
    listed = manager.get("/api/sync/projects/digits/trash").json()
    assert [one["id"] for one in listed] == [made.json()["id"]]
    back = manager.post(f"/api/sync/trash/{made.json()['id']}/restore")
    assert back.json()["state"] == "restoring"
    again = manager.post(f"/api/sync/trash/{made.json()['id']}/restore")
    assert (again.status_code, again.json()["code"]) == (409, "not_in_trash")


def test_the_command_shows_does_and_takes_back(job, capsys):
    def says(*words: str) -> str:
        call_command("projects", *words)
        return capsys.readouterr().out

    assert "1 files of 1 runs, 2.0 kB, would be deleted" in says("free", "digits", "--what", "all")
    assert Job.objects.present().exists()
    says("free", "digits", "--what", "all", "--yes")
    number = str(Trash.objects.get().pk)
    assert "in the trash" in says("trash", "digits")
    assert "restored" in says("restore", number)
    assert Job.objects.present().exists()
    assert "may take 2.5 TB" in says("quota", "digits", "2.5T")
    assert Project.objects.get().quota_bytes == 2_500_000_000_000
    says("archive", "digits")
    assert "digits: 2.0 kB of 2.5 TB, archived" in says("list")
    says("unarchive", "digits")
    says("free", "digits", "--what", "failed", "--yes")
    assert "removed" in says("empty", str(Trash.objects.first().pk))
    for wrong in (["archive", "other"], ["restore", number], ["quota", "digits", "much"]):
        with pytest.raises(CommandError):
            call_command("projects", *wrong)
    told = AuditEntry.objects.filter(door="command").order_by("pk").values_list("verb", flat=True)
    assert list(told) == [
        "delete", "restore", "quota", "archive", "unarchive", "delete", "empty"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["other", "%00", "..", "a%2Fb", "%F0%9F%98%80"])
def test_a_project_that_is_not_there_is_not_found(job, manager, name):
    for address in (f"/projects/{name}/", f"/api/sync/projects/{name}/trash"):
        assert manager.get(address).status_code == 404
    assert manager.post(f"/projects/{name}/archive/").status_code == 404


# --- quota and archive ---------------------------------------------------------------------------


def test_a_project_that_is_nearly_full_says_so(job, manager):
    manager.post("/projects/digits/quota/", {"quota": "0.0000021"})
    assert Project.objects.get().quota_bytes == 2100

    page = text_of(manager.get("/projects/digits/"))
    assert "95 % of its quota of 2.1 kB is used." in page
    assert "95 % of 2.1 kB" in text_of(manager.get("/projects/"))
    running = make.attempt(make.job(), started=True).job
    assert "has used 95 % of its quota" in text_of(manager.get(f"/runs/{running.uid}/"))

    manager.post("/projects/digits/quota/", {"quota": ""})
    assert Project.objects.get().quota_bytes is None
    page = manager.post("/projects/digits/quota/", {"quota": "-1"}, follow=True)
    assert "Write the quota as a number" in text_of(page)


def test_only_managers_set_a_quota_by_the_api(job, ann, manager):
    wish = {"quota_bytes": 5}

    refused = client_of(ann).patch("/api/projects/digits/", wish, "application/json")
    assert refused.status_code == 400
    taken = manager.patch("/api/projects/digits/", wish, "application/json")

    assert (taken.json()["quota_bytes"], taken.json()["used_bytes"]) == (5, 2000)


def test_an_archived_project_is_read_only_and_hidden_until_it_is_taken_out(job, ann):
    client = client_of(ann)
    client.post("/projects/digits/archive/", follow=True)
    with pytest.raises(ProjectArchived):
        make.job()
    assert Project.objects.get().last_run == 1

    assert "digits" not in text_of(client.get("/projects/"))
    assert "digits" in text_of(client.get("/projects/?archived=1"))
    assert "run_001" not in text_of(client.get("/runs/"))
    assert "run_001" in text_of(client.get("/runs/?archived=1"))
    assert client.get("/api/projects/").json()["count"] == 0
    assert client.get("/api/projects/?archived=true").json()["count"] == 1
    assert client.get("/api/projects/?archived=false").json()["count"] == 0
    assert client.get("/api/jobs/").json()["count"] == 0
    assert client.get("/api/jobs/?project=digits").json()["count"] == 1
    assert client.get(f"/runs/{job.uid}/").status_code == 200
    refused = client.patch("/api/projects/digits/", {"description": "x"}, "application/json")
    assert (refused.status_code, refused.json()["code"]) == (409, "project_archived")
    page = client.post(f"/runs/{job.uid}/rerun/", follow=True)
    assert "is archived and takes no new runs" in text_of(page)

    assert client.post("/api/projects/digits/unarchive/").json()["archived_at"] is None
    assert make.job().run_name == "run_002"


def test_a_project_is_archived_by_its_maker_or_a_manager_and_only_when_nothing_goes_on(job, ann):
    bob = client_of(make.user("bob"))
    assert bob.post("/projects/digits/archive/").status_code == 403
    assert bob.post("/api/projects/digits/archive/").status_code == 403
    make.job()

    page = client_of(ann).post("/projects/digits/archive/", follow=True)

    assert "has runs that wait or run" in text_of(page)
    assert Project.objects.get().archived_at is None


# --- the disk ------------------------------------------------------------------------------------


def fill(days: float) -> None:
    """Samples of two days, by which the disk is full in so many days."""
    free, total = disk.free_and_total()
    now = database_now()
    for hours in range(1, 48):
        free_then = free + int(free * hours / 24 / days)
        at = now - timedelta(hours=hours)
        DiskSample.objects.create(at=at, free_bytes=free_then, total_bytes=total)


@pytest.mark.parametrize(("days", "warns"), [(5.6, True), (60.6, False)])
def test_managers_are_told_how_long_the_disk_lasts(settings, manager, ann, days, warns):
    settings.LAB_DISK_RESERVE_BYTES = 0
    make.device()
    assert "not known yet" in text_of(manager.get("/devices/"))
    fill(days)

    page = text_of(manager.get("/devices/"))

    assert f"full in about {int(days)} days" in page
    assert ("The server's disk is filling up." in page) is warns
    assert manager.get("/api/sync/disk").json()["days_left"] == pytest.approx(days, rel=0.05)
    assert "full in about" not in text_of(client_of(ann).get("/devices/"))
