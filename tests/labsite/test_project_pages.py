"""A project's timeline and its charts."""

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from experiments.models import Attempt, Job, Project
from experiments.states import Outcome
from labsite.clock import database_now
from labsite.pages import timeline
from sync import storage, summary
from sync.curves.kept import shelf
from sync.models import SyncFile
from sync.storage import Place
from tests import make
from tests.labsite.reading import client_of

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _own_logs(settings, tmp_path):
    settings.LAB_LOGS_DIR = tmp_path / "logs"
    shelf.clear()  # the runs of one test have the keys of another's
    yield
    shelf.clear()


@pytest.fixture
def ann():
    return make.user("ann")


@pytest.fixture
def client(ann):
    return client_of(ann)


@pytest.fixture
def host():
    return make.device(gpus=8, host_id="gpu-01")


def tried(ann, host, began_ago: timedelta, took: timedelta | None, outcome=Outcome.SUCCEEDED):
    """A try that began so long ago, and ended; `took` None: it goes on."""
    attempt = make.attempt(make.job(by=ann), host, started=True)
    if took is not None:
        attempt.end(outcome, database_now(), exit_code=0)
    began = database_now() - began_ago
    ended = None if took is None else began + took
    Attempt.objects.filter(pk=attempt.pk).update(created_at=began, ended_at=ended)
    Job.objects.filter(pk=attempt.job_id).update(finished_at=ended)
    return attempt


def learn(job: Job, *rows: str, head: str = "epoch,train_loss,test_accuracy") -> None:
    """Give the run a metrics CSV, as sync does."""
    text = "\n".join([head, *rows]) + "\n"
    name = f"{job.run_name}.csv"
    storage.write_at(Place.of(job, name), 0, text.encode())
    row = SyncFile.objects.create(
        job=job, name=name, attempt=1, generation=1, size=len(text), synced_at=job.submitted_at
    )
    summary.update(job, row)


def html_of(client, page: str, **query) -> str:
    answer = client.get(f"/projects/digits/{page}/", query)
    assert answer.status_code == 200
    return answer.content.decode()


def bars_in(html: str) -> list[tuple[str, str]]:
    """State and words of each."""
    return re.findall(r'<a href="/runs/[^"]+" data-state="(\w+)" aria-label="([^"]+)"', html)


# --- the timeline --------------------------------------------------------------------------------


def test_each_try_is_a_bar_in_the_row_of_its_gpu_server(client, ann, host):
    tried(ann, host, 30 * HOUR, 2 * HOUR, Outcome.FAILED)
    other = tried(ann, make.device(gpus=1, host_id="gpu-02"), HOUR, None)

    html = html_of(client, "timeline")

    first, second = html.split('class="lanes"')[1:]
    [(state, words)] = bars_in(first)
    assert state == "failed"
    assert re.match(r"run_001, ann, on gpu-01, failed, from .* to ", words)
    [(state, words)] = bars_in(second)
    assert state == "running"
    assert words.endswith(" to now")
    assert f'href="/runs/{other.job.uid}/"' in second
    assert "times in Asia/Seoul" in html or "times in UTC" in html


def test_what_was_drawn_is_told_in_a_table_too(client, ann, host):
    tried(ann, host, 30 * HOUR, 2 * HOUR, Outcome.TIMED_OUT)

    table = html_of(client, "timeline").split('id="as-table"')[1]

    for said in ("run_001", "ann", "gpu-01", "reached its time limit", "2\xa0h"):
        assert said in table


def test_a_window_has_what_reaches_into_it(client, ann, host):
    tried(ann, host, 30 * HOUR, 2 * HOUR)
    tried(ann, host, 26 * HOUR, 4 * HOUR)
    tried(ann, host, 400 * HOUR, HOUR)

    assert len(bars_in(html_of(client, "timeline", span="day"))) == 1
    assert len(bars_in(html_of(client, "timeline"))) == 2
    assert len(bars_in(html_of(client, "timeline", span="month"))) == 3
    assert len(bars_in(html_of(client, "timeline", span="\x00nonsense"))) == 2


def test_tries_at_the_same_time_lie_beneath_each_other_and_later_ones_move_up(ann, host):
    for began, took in ((10, 4), (9, 2), (5, 1)):
        tried(ann, host, began * HOUR, took * HOUR)
    project = Project.objects.get()

    found = timeline.timeline_of(project, ann, timeline.span_named("day"), database_now())

    [row] = found.rows
    assert [bar.lane for bar in row.bars] == [0, 1, 0]
    assert row.height == 2 * timeline.LANE


def test_a_bar_stays_within_the_window(ann, host):
    tried(ann, host, 200 * HOUR, None)
    tried(ann, host, timedelta(0), None)
    project = Project.objects.get()

    found = timeline.timeline_of(project, ann, timeline.span_named("week"), database_now())

    newest, oldest = found.bars
    assert (oldest.x, oldest.width) == (0, 100)
    assert newest.width == timeline.NARROWEST
    assert newest.x + newest.width <= 100


def test_days_are_marked_at_midnight_of_the_reader(ann, host):
    now = database_now()
    with timezone.override("America/New_York"):
        marks = list(timeline._moments(timeline.span_named("week"), now))

        assert {timezone.localtime(one).hour for one in marks} == {0}


def test_only_the_newest_are_drawn_and_the_page_says_so(client, ann, host, monkeypatch):
    monkeypatch.setattr(timeline, "DRAWN", 2)
    for hours in (3, 2, 1):
        tried(ann, host, hours * HOUR, HOUR / 2)

    html = html_of(client, "timeline")

    assert [words[:7] for _state, words in bars_in(html)] == ["run_002", "run_003"]
    assert "Only the newest 2 tries are drawn" in html


def test_runs_that_were_deleted_or_are_of_another_project_are_not_on_it(client, ann, host):
    gone = tried(ann, host, HOUR, HOUR / 2).job
    gone.refresh_from_db()
    gone.delete_run(database_now(), by=ann)
    make.attempt(make.job(by=ann, project="other"), host)

    assert bars_in(html_of(client, "timeline")) == []


def test_an_empty_timeline_says_where_to_look(client, ann):
    make.job(by=ann)

    html = html_of(client, "timeline")
    assert "No run of this project was on a GPU server in this time." in html
    assert "Imported runs did not run here." not in html

    Job.objects.update(imported_at=database_now())

    assert "Imported runs did not run here." in html_of(client, "timeline")


@pytest.mark.parametrize("page", ["timeline", "charts", "curve"])
def test_of_a_private_project_nothing_is_shown(ann, host, page):
    attempt = tried(ann, host, HOUR, None)
    learn(attempt.job, "1,0.5,0.9")
    Project.objects.update(private=True, created_by=ann)

    assert client_of(make.user("bob")).get(f"/projects/digits/{page}/").status_code == 404
    assert client_of(ann).get(f"/projects/digits/{page}/").status_code == 200


@pytest.mark.parametrize("page", ["timeline", "charts", "curve"])
def test_more_runs_cost_no_more_queries(client, ann, host, page):
    def asked_with_one_more() -> int:
        learn(tried(ann, host, HOUR, None).job, "1,0.5,0.9")
        with CaptureQueriesContext(connection) as asked:
            html_of(client, page)
        # PostgreSQL is asked what time it is, SQLite is not.
        return sum("clock_timestamp()" not in query["sql"] for query in asked)

    counts = [asked_with_one_more() for _ in range(5)]

    assert counts[-1] == counts[1]
    assert counts[-1] <= 16


# --- the charts ----------------------------------------------------------------------------------


def test_the_newest_runs_with_a_curve_are_drawn_by_the_main_metric(client, ann):
    jobs = [make.job(by=ann) for _ in range(10)]
    for job in jobs[:9]:
        learn(job, "1,0.5,0.9", "2,0.4,0.95")
    Project.objects.update(main_metric="train_loss")

    answer = client.get("/projects/digits/curve/").json()

    assert answer["metric"] == "train_loss"
    assert [one["run"] for one in answer["runs"]] == [f"run_{n:03d}" for n in range(9, 1, -1)]
    assert answer["runs"][0]["y"] == [0.5, 0.4]
    assert answer["runs"][0]["words"] == "run_009 ann"
    assert len(answer["files"]) == 9
    html = html_of(client, "charts")
    assert "train_loss" in html
    assert f"/compare/?runs={jobs[8].uid},{jobs[7].uid}" in html


def test_without_a_main_metric_the_most_common_one_is_drawn(client, ann):
    learn(make.job(by=ann), "1,0.5,0.9")
    for _ in range(2):
        learn(make.job(by=ann), "1,3", head="epoch,reward")
    Project.objects.update(main_metric="bleu")

    assert client.get("/projects/digits/curve/").json()["metric"] == "reward"
    assert "None of the newest runs has bleu" in html_of(client, "charts")


def test_charts_without_a_curve_say_what_to_do(client, ann):
    make.job(by=ann)

    html = html_of(client, "charts")

    assert "None of the newest runs has written a value yet." in html
    assert '/execute/?project=digits"' in html
    assert client.get("/projects/digits/curve/").json()["runs"] == []
