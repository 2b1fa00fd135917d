"""The pages: who sees what, what the buttons do, and that nothing hostile gets through."""

import re
from datetime import timedelta

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import translation

from agent.wire import WhyLeftOut
from devices.models import Device, EnrollmentCode
from experiments.models import Job
from experiments.states import JobState, Outcome, Priority
from labsite.clock import database_now
from labsite.pages.minutely import EachMinute
from sync import storage
from sync.models import SyncFile
from sync.storage import Place
from tests import make
from tests.labsite.reading import read, text_of

pytestmark = pytest.mark.django_db
HOSTILE = "<script>alert(1)</script>"
PAGES = ["devices", "execute", "queue", "runs"]


@pytest.fixture(autouse=True)
def _english_again():
    """The test client leaves the language of its last answer behind."""
    yield
    translation.deactivate()


@pytest.fixture
def minjun():
    return make.user("minjun", password="correct horse battery")


@pytest.fixture
def client(minjun):
    client = Client()
    client.force_login(minjun)
    return client


@pytest.fixture
def manager():
    client = Client()
    client.force_login(make.manager())
    return client


@pytest.fixture
def lab(minjun):
    """One GPU server with a run of minjun's on it, one that waits, and one that failed."""
    device = make.device(gpus=2, host_id="gpu-01", draining=False)
    running = make.attempt(make.job(by=minjun, config="lr: 0.1\n"), device, started=True).job
    failed = make.attempt(make.job(by=minjun), device, started=True)
    failed.end(Outcome.FAILED, database_now(), exit_code=1)
    waiting = make.job(by=minjun, gpus=8)
    return {"running": running, "waiting": waiting, "failed": failed.job}


def page(client, name, *args, **query):
    return client.get(reverse(name, args=args), query)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("language", ["en", "ko"])
def test_each_page_answers_a_researcher_and_a_manager(client, manager, lab, name, language):
    for visitor in (client, manager):
        visitor.cookies[settings.LANGUAGE_COOKIE_NAME] = language
        response = page(visitor, name)

        assert response.status_code == 200
        assert f'<html lang="{language}"' in response.content.decode()


@pytest.mark.parametrize("which", ["running", "waiting", "failed"])
@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_page_of_a_run_answers_in_every_state(client, manager, lab, which, language):
    for visitor in (client, manager):
        visitor.cookies[settings.LANGUAGE_COOKIE_NAME] = language
        assert page(visitor, "run", lab[which].uid).status_code == 200


@pytest.mark.parametrize(
    ("language", "words"), [("en", "kept on the GPU server"), ("ko", "GPU 서버에 남겨 두었습니다")]
)
def test_the_page_of_a_run_names_what_stays_on_the_gpu_server(client, lab, language, words):
    left_out = [
        {"name": "run_001/<실험>=1.ckpt", "reason": reason.value, "size_bytes": 20}
        for reason in WhyLeftOut
    ]
    lab["running"].open_attempt().advertise({}, database_now(), left_out)
    client.cookies[settings.LANGUAGE_COOKIE_NAME] = language

    response = page(client, "run", lab["running"].uid, part="files")

    assert text_of(response).count(words) == 2
    assert "run_001/&lt;실험&gt;=1.ckpt" in response.content.decode()


@pytest.mark.parametrize("part", ["head", "side", "files"])
def test_the_parts_of_a_run_are_the_ones_the_page_has(client, lab, part):
    whole = page(client, "run", lab["running"].uid).content.decode()

    response = page(client, "run", lab["running"].uid, part=part)

    heading = re.search(r"<h[12][^>]*>[^<]+</h[12]>", response.content.decode())[0]
    assert heading in whole
    assert "<html" not in response.content.decode()


@pytest.mark.parametrize(
    ("language", "words"),
    [("en", "used by another lab server"), ("ko", "다른 랩 서버가 사용 중")],
)
def test_a_gpu_that_another_lab_server_uses_says_so(client, language, words):
    make.gpu(make.device(), used_elsewhere=True, memory_used_bytes=20 * 2**30)
    client.cookies[settings.LANGUAGE_COOKIE_NAME] = language

    text = text_of(page(client, "devices"))

    assert text.count(words) == 1
    assert "outside the queue" not in text


@pytest.mark.parametrize("name", PAGES)
def test_nobody_looks_in_without_signing_in(db, name):
    response = Client().get(reverse(name))

    assert response.status_code == 302
    assert response["Location"].startswith("/login/")


def test_signing_in_leads_to_the_dashboard(minjun):
    response = Client().post(
        "/login/", {"username": "minjun", "password": "correct horse battery", "stay": "on"}
    )

    assert response["Location"] == "/"


def test_a_wrong_password_is_answered_by_a_sentence(minjun):
    response = Client().post("/login/", {"username": "minjun", "password": "no"})

    assert "User name or password is wrong." in text_of(response)


def test_every_page_has_the_strict_policy_and_nothing_inline(client, lab):
    for path in ["/devices/", "/execute/", "/queue/", "/runs/", f"/runs/{lab['running'].uid}/"]:
        response = client.get(path)
        html = response.content.decode()

        assert "script-src 'self';" in response["Content-Security-Policy"] + ";"
        assert not re.search(r"<script(?![^>]*\bsrc=)", html), path
        assert not re.search(r"<[^>]+\s(?:style|on\w+)=", html), path
        links = re.findall(r'(?:src|href|action)="([^"]*)"', html)
        assert not [link for link in links if link.startswith(("//", "http"))], path


def test_hostile_names_are_shown_and_not_run(client, minjun):
    device = make.device(gpus=1, labels={HOSTILE: HOSTILE}, unix_user=HOSTILE)
    gpu = device.gpus.get()
    gpu.name = HOSTILE
    gpu.processes = [{"pid": 1, "user": HOSTILE, "memory_bytes": 2**34, "attempt_id": None}]
    gpu.save()
    job = make.job(by=minjun, name=HOSTILE, config=f"key: {HOSTILE}\n", command=[HOSTILE])
    write_log(job, f"{HOSTILE}\n\x1b]0;{HOSTILE}\x07\x1b[31m{HOSTILE}\n".encode())
    (settings.LAB_CONFIG_DIR / "hostile").mkdir(exist_ok=True)

    for path in ["/devices/", "/queue/", "/runs/", f"/runs/{job.uid}/", "/runs/?q=" + HOSTILE]:
        html = client.get(path).content.decode()
        assert HOSTILE not in html, path
    assert HOSTILE not in client.get(f"/runs/{job.uid}/log/").json()["html"]


def test_a_host_that_is_gone_is_told_as_lost_contact_not_as_a_lost_run(client, lab):
    now = database_now()
    Device.objects.update(last_heartbeat_at=now - timedelta(minutes=30))

    text = text_of(page(client, "run", lab["running"].uid))

    assert "Running; host unreachable since" in text
    assert "probably still training; nothing is lost." in text
    assert "Give up and run elsewhere" in text


def test_giving_up_runs_it_elsewhere(client, lab):
    Device.objects.update(last_heartbeat_at=database_now() - timedelta(minutes=30))

    asked = client.post(f"/runs/{lab['running'].uid}/elsewhere/").content.decode()
    lab["running"].refresh_from_db()
    assert lab["running"].state == JobState.RUNNING
    assert "Are you sure?" in asked
    assert "what runs on it is stopped" in asked

    client.post(f"/runs/{lab['running'].uid}/elsewhere/", {"sure": "1"})

    lab["running"].refresh_from_db()
    assert lab["running"].state == JobState.QUEUED


def test_a_refusal_is_a_sentence_on_the_page(client, lab):
    response = client.post(f"/runs/{lab['running'].uid}/elsewhere/", {"sure": "1"}, follow=True)

    assert response.status_code == 200
    assert "can be reached" in text_of(response)


def test_a_failed_run_opens_with_the_reason_and_its_traceback(client, lab):
    write_log(lab["failed"], b"epoch 1\nTraceback (most recent call last):\nKeyError: 'lr'\n")

    html = page(client, "run", lab["failed"].uid).content.decode()

    assert "The script stopped with an error (exit code 1)." in html
    assert html.index("KeyError") < html.index('id="charts"')


def test_a_waiting_run_says_why(client, lab):
    assert lab["waiting"].waiting_reason in text_of(page(client, "queue"))


def test_the_queue_is_shown_in_the_order_of_dispatch(client, minjun):
    other = make.user("jiho")
    make.attempt(make.job(by=minjun), started=True)  # minjun holds a GPU, jiho none
    mine, kept = make.job(by=minjun, gpus=8), make.job(by=other, gpus=8)
    theirs, urgent = make.job(by=other, gpus=8), make.job(by=minjun, gpus=8, priority="high")
    kept.hold(True)

    html = page(client, "queue").content.decode()

    order = [job.uid for job in (urgent, theirs, mine, kept)]
    assert re.findall(r'<tr id="w-([^"]+)"', html) == order


@pytest.mark.parametrize(
    ("verb", "which", "state"),
    [("cancel", "waiting", JobState.CANCELLED), ("hold", "waiting", JobState.QUEUED)],
)
def test_an_owner_presses_a_button(client, lab, verb, which, state):
    response = client.post(f"/runs/{lab[which].uid}/{verb}/")

    assert response["Location"] == f"/runs/{lab[which].uid}/"
    job = Job.objects.get(pk=lab[which].pk)
    assert (job.state, job.held) == (state, verb == "hold")


def test_a_button_leads_back_to_where_it_stood_and_nowhere_else(client, lab):
    url = f"/runs/{lab['waiting'].uid}/hold/"

    assert client.post(url, {"back": "/queue/"})["Location"] == "/queue/"
    assert client.post(url, {"back": "https://evil.example/"})["Location"].startswith("/runs/")


def test_somebody_elses_run_is_not_ours_to_cancel(lab):
    other = Client()
    other.force_login(make.user("jiho"))

    response = other.post(f"/runs/{lab['waiting'].uid}/cancel/")

    assert response.status_code == 403
    assert "somebody else" in text_of(response)
    assert "Cancel" not in text_of(page(other, "run", lab["waiting"].uid))


def test_only_a_manager_calls_a_run_urgent(client, manager, lab):
    url = f"/runs/{lab['waiting'].uid}/priority/"

    client.post(url, {"priority": "urgent"})
    assert Job.objects.get(pk=lab["waiting"].pk).priority == Priority.NORMAL
    manager.post(url, {"priority": "urgent"})
    assert Job.objects.get(pk=lab["waiting"].pk).priority == Priority.URGENT


def test_a_button_needs_the_forms_token(lab, minjun):
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(minjun)

    response = strict.post(f"/runs/{lab['waiting'].uid}/cancel/")

    assert response.status_code == 403
    assert "load the page again" in text_of(response)


def test_a_manager_adds_a_gpu_server_by_one_command_shown_once(manager):
    text = text_of(manager.post("/devices/add/"))

    command = re.search(r"lab-agent --server \S+ --enroll-code ([0-9a-f]{32})", text)
    assert command
    assert f"/install.sh) | sh -s -- {command[1]}" in text
    assert EnrollmentCode.objects.count() == 1
    assert command[1] not in text_of(manager.get("/devices/"))


def test_a_researcher_does_not_add_gpu_servers(client):
    assert client.post("/devices/add/").status_code == 403
    assert not EnrollmentCode.objects.exists()


def test_a_manager_stops_new_jobs_and_takes_them_again(manager):
    device = make.device(gpus=1)

    manager.post(f"/devices/{device.pk}/drain/")
    assert Device.objects.get(pk=device.pk).draining
    manager.post(f"/devices/{device.pk}/resume/")
    assert not Device.objects.get(pk=device.pk).draining


@pytest.mark.parametrize("name", ["devices", "queue", "runs"])
def test_a_page_asks_the_database_no_more_for_more_rows(client, minjun, name):
    def asked_with_one_more() -> int:
        device = make.device(gpus=4)
        make.attempt(make.job(by=minjun), device, started=True)
        make.job(by=minjun, gpus=8)
        EachMinute.forget_all()  # a new minute may begin at any time
        with CaptureQueriesContext(connection) as asked:
            page(client, name)
        # PostgreSQL is asked what time it is, SQLite is not.
        return sum("clock_timestamp()" not in query["sql"] for query in asked)

    counts = [asked_with_one_more() for _ in range(6)]

    assert counts[-1] == counts[1]
    assert counts[-1] <= 20


# --- Execute ------------------------------------------------------------------------------------


def test_a_config_is_queued_and_its_run_shown(client, minjun):
    config = "lr: 0.1\nlab:\n  command: [python, train.py]\n"

    response = client.post("/execute/", {"config": config, "project": "digits", "gpus": "2"})

    job = Job.objects.get()
    assert response["Location"] == f"/runs/{job.uid}/"
    assert (bytes(job.config), job.gpus, job.user) == (config.encode(), 2, minjun)


def test_a_command_line_is_enough(client):
    client.post("/execute/", {"project": "digits", "command": "python train.py --lr 0.1"})

    assert Job.objects.get().command == ["python", "train.py", "--lr", "0.1"]


def test_a_wrong_config_comes_back_with_its_lines_and_is_not_queued(client):
    config = "lr: 0.1\nlab:\n  comand: [python]\n"

    response = client.post("/execute/", {"config": config, "project": "digits"})

    assert response.status_code == 400
    assert "line 3" in text_of(response)
    assert "comand: [python]" in response.content.decode()
    assert not Job.objects.exists()


def test_the_editor_is_told_the_place_of_each_mistake(client):
    config = "lr: 0.1\nlab:\n  command: [python]\n  resources: {gpus: many}\n"

    answer = client.post("/execute/check/", {"config": config, "project": "digits"}).json()

    assert [mistake["line"] for mistake in answer["mistakes"]] == [4]


def test_a_run_that_lacks_something_is_not_said_to_start(client):
    preview = client.post("/execute/check/", {"project": "digits"}).json()["preview"]

    assert 'data-head="Not complete yet"' in preview


def test_the_preview_shows_command_folder_user_and_where_it_fits(client):
    make.device(gpus=2, host_id="gpu-01", source_directory="/home/lab", unix_user="lab")

    answer = client.post(
        "/execute/check/", {"project": "digits", "command": "python train.py", "gpus": "1"}
    ).json()

    assert answer["mistakes"] == []
    shown = read(answer["preview"])
    for words in ["python train.py", "/home/lab", "gpu-01", "2 GPUs free", "digits / run_001"]:
        assert words in shown


def test_a_run_starts_from_a_config_of_the_lab(client):
    (settings.LAB_CONFIG_DIR / "digits.yaml").write_text("lr: 0.25\n")

    html = client.get("/execute/?config=digits.yaml").content.decode()

    assert "lr: 0.25" in html
    assert ">digits.yaml</option>" in html


@pytest.mark.parametrize(("says", "project"), [("", "digits"), ("project: flow\n", "")])
def test_a_config_that_names_no_project_suggests_its_own_name(client, says, project):
    (settings.LAB_CONFIG_DIR / "digits.yaml").write_text(f"{says}lab: {{command: [true]}}\n")

    html = client.get("/execute/?config=digits.yaml").content.decode()

    assert f'name="project" value="{project}"' in html


def test_no_file_outside_the_config_folder_is_shown(client):
    html = client.get("/execute/?config=../secret_key").content.decode()

    assert (settings.LAB_DATA_DIR / "secret_key").read_text() not in html


def test_a_rerun_is_a_new_run_of_the_same(client, lab):
    response = client.post(f"/runs/{lab['failed'].uid}/rerun/")

    again = Job.objects.order_by("-pk").first()
    assert response["Location"] == f"/runs/{again.uid}/"
    assert again.parent == lab["failed"]


# --- what is found, and what is not -------------------------------------------------------------


def test_a_run_is_found_by_project_number_and_person(client, minjun):
    make.job(project="digits", by=minjun)
    make.job(project="flow", by=minjun)

    assert "flow / run_001" not in text_of(client.get("/runs/?q=digits run_001"))
    assert "flow / run_001" in text_of(client.get("/runs/?q=minjun flow/1"))


def test_a_run_that_is_not_there_is_404(client):
    response = client.get("/runs/20260101_abcd/")

    assert response.status_code == 404
    assert "There is no such page" in text_of(response)


@pytest.mark.parametrize(
    "path",
    [
        "/runs/?q=%00&state=%00&page=99999999999999999999",
        "/runs/?q=run_99999999999999999999",
        "/runs/?c=key:%00&c=last:%ff&g=key:%00&sort=-key:%00&view=99999999999999999999&q=a%00<1",
        "/runs/?c=key:" + "x" * 300 + "&sort=-best:" + "y" * 300,
        "/runs/export.csv?q=%00&c=key:%00&project=%00",
        "/runs/export.tex?g=key:%00&c=max:%00",
        "/compare/?runs=%00,%ff&metric=%00&part=%00",
        "/compare/curves/?runs=%00&metric=%00&of=999999999",
        "/execute/?config=%00",
        "/execute/?config=a%00b.yaml",
        "/execute/?from=%00",
        "/devices/add/?device=%00",
        f"/devices/{'9' * 40}/drain/",
        f"/devices/joined/{'9' * 18}/",
        f"/runs/{'a' * 300}/",
    ],
)
def test_no_address_breaks_a_page(manager, path):
    assert manager.get(path).status_code < 500


@pytest.mark.parametrize("field", ["config", "project", "name", "command", "gpus", "priority"])
@pytest.mark.parametrize("text", ["\x00", "\ud7ff\ufffe", "9" * 5000, "{" * 500])
def test_no_form_breaks_the_execute_page(client, field, text):
    form = {"config": "lr: 1\n", "project": "digits", "command": "true"} | {field: text}

    assert client.post("/execute/check/", form).status_code == 200
    assert client.post("/execute/", form).status_code in (302, 400)


def test_an_uploaded_config_is_kept_byte_for_byte(client):
    upload = SimpleUploadedFile("a.yaml", b"lr: 0.1\r\nlab: {command: [true]}\r\n")

    client.post("/execute/", {"project": "digits", "upload": upload})

    assert bytes(Job.objects.get().config) == b"lr: 0.1\r\nlab: {command: [true]}\r\n"


def test_an_upload_that_is_no_text_is_refused_by_a_sentence(client):
    upload = SimpleUploadedFile("a.yaml", b"lr: \xff\xfe\n")

    response = client.post("/execute/", {"project": "digits", "upload": upload})

    assert response.status_code == 400
    assert "not UTF-8" in text_of(response)


def test_a_program_that_asks_for_nothing_gets_no_page(client):
    response = client.get("/api/nothing/")

    assert response.status_code == 404
    assert response.json()["code"] == "not_found"


def test_a_name_that_the_server_does_not_know_names_the_option(client):
    response = client.get("/devices/", headers={"host": "lab.example.org"})

    assert response.status_code == 400
    assert "--public-url http://lab.example.org" in text_of(response)


def test_the_language_is_kept(client):
    client.post("/language/", {"language": "ko", "next": "/queue/"})

    assert '<html lang="ko"' in client.get("/queue/").content.decode()


def write_log(job: Job, data: bytes) -> None:
    """As sync stores it."""
    name = f"{job.run_name}.log"
    storage.write_at(Place.of(job, name), 0, data)
    SyncFile.objects.create(
        job=job, name=name, attempt=1, generation=1, size=len(data), synced_at=database_now()
    )
