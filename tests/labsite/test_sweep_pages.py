"""The page of a sweep, its row in the queue, and what Execute says of it before the submit."""

import re
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from experiments import line, sweeps
from experiments.dispatch import dispatch
from experiments.models import Job, Sweep
from experiments.states import JobState, Outcome
from labsite.clock import database_now
from labsite.pages import sweepwords
from sync import storage, summary
from sync.models import SyncFile
from sync.storage import Place
from tests import make
from tests.labsite.reading import read, text_of

pytestmark = pytest.mark.django_db

CONFIG = """\
lr: 0.1
depth: 18
lab:
  command: [python, train.py]
  project: digits
  sweep: {grid: {lr: [0.1, 0.01], depth: [18, 50]}, seeds: [0, 1]}
"""


@pytest.fixture
def ann():
    return make.user("ann")


@pytest.fixture
def client(ann):
    client = Client()
    client.force_login(ann)
    return client


@pytest.fixture
def sweep(ann):
    return sweeps.submit(CONFIG, by=ann)


def learn(job: Job, *accuracies: float) -> None:
    """Give the run a metrics CSV, as sync does."""
    text = "epoch,train_loss,test_accuracy\n" + "".join(
        f"{epoch},{1 / epoch},{value}\n" for epoch, value in enumerate(accuracies, start=1)
    )
    name = f"{job.run_name}.csv"
    storage.write_at(Place.of(job, name), 0, text.encode())
    row = SyncFile.objects.create(
        job=job, name=name, attempt=1, generation=1, size=len(text), synced_at=job.submitted_at
    )
    summary.update(job, row)


def page(client, sweep, **query):
    return client.get(reverse("sweep", args=[sweep.pk]), query)


# --- its page ------------------------------------------------------------------------------------


def test_the_page_counts_ranks_and_marks_the_best(client, sweep):
    jobs = list(sweep.jobs.order_by("pk"))
    for job, accuracy in zip(jobs, [0.5, 0.7, 0.9, 0.8], strict=False):
        learn(job, 0.1, accuracy, accuracy - 0.05)

    html = page(client, sweep).content.decode()

    text = read(html)
    assert "8 waiting" in text
    assert "0 of 8 runs ended" in text
    assert "lr=0.1, depth=50, seed=0" in text
    [best] = re.findall(r'<tr id="s-([^"]+)"(?:(?!</tr>).)*class="n best"', html)
    assert best == jobs[2].uid
    ranked = page(client, sweep, sort="best").content.decode()
    assert re.findall(r'<tr id="s-([^"]+)"', ranked)[:2] == [jobs[2].uid, jobs[3].uid]
    lowest = page(client, sweep, metric="train_loss").content.decode()
    assert re.search(r'<option value="min" selected>', lowest)


def test_the_table_listens_to_the_sweep_and_to_the_metrics_of_what_runs(client, sweep):
    make.device(gpus=2)
    for attempt in dispatch():
        attempt.accept(database_now())
        attempt.start(database_now(), pid=1)
    tokens = f'data-live="sweep:{sweep.pk} file"'
    assert tokens in page(client, sweep).content.decode()  # none has a file of its own yet

    for job in sweep.jobs.live():
        learn(job, 0.5)

    ids = SyncFile.objects.order_by("pk").values_list("pk", flat=True)
    own = " ".join(f"file:{pk}" for pk in ids)
    html = page(client, sweep, part="runs").content.decode()
    assert f'data-tokens="sweep:{sweep.pk} {own}"' in html
    assert "test_accuracy" in page(client, sweep, part="metric").content.decode()


def test_two_keys_make_a_map_with_the_mean_over_seeds(client, sweep):
    jobs = list(sweep.jobs.order_by("pk"))
    for job, accuracy in zip(jobs, [0.5, 0.7, 0.9, 0.8, 0.1, 0.1, 0.2, 0.2], strict=True):
        learn(job, accuracy)

    html = page(client, sweep).content.decode()

    [table] = re.findall(r'<table class="t heat">.*?</table>', html, re.DOTALL)
    assert re.findall(r"<td[^>]*>([\d.]+)", table) == ["0.6000", "0.8500", "0.1000", "0.2000"]
    assert 'class="n h8 best">0.8500' in table
    assert "mean of 2" in table


def test_the_curves_of_all_runs_come_in_one_answer(client, sweep):
    jobs = list(sweep.jobs.order_by("pk"))
    learn(jobs[0], 0.2, 0.5)
    learn(jobs[1], 0.3, 0.9, 0.8)

    answer = client.get(reverse("sweep-curve", args=[sweep.pk])).json()

    assert (answer["metric"], answer["axis"], answer["best"]) == (
        "test_accuracy", "epoch", jobs[1].pk,
    )  # fmt: skip
    assert [(one["run"], one["x"], one["y"]) for one in answer["runs"]] == [
        ("run_002", [1, 2, 3], [0.3, 0.9, 0.8]),
        ("run_001", [1, 2], [0.2, 0.5]),
    ]
    assert answer["runs"][0]["words"] == "lr=0.1, depth=18, seed=1"
    assert len(answer["files"]) == 2


def test_the_curves_tell_also_the_files_in_which_there_is_no_value_yet(client, sweep):
    job = sweep.jobs.first()
    row = SyncFile.objects.create(
        job=job, name=f"{job.run_name}.csv", attempt=1, generation=1, size=0,
        synced_at=database_now(),
    )  # fmt: skip

    answer = client.get(reverse("sweep-curve", args=[sweep.pk])).json()

    assert (answer["runs"], answer["files"]) == ([], [row.pk])


def test_its_buttons_do_what_they_say(client, sweep):
    def press(verb, **fields):
        return text_of(client.post(f"/sweeps/{sweep.pk}/{verb}/", fields, follow=True))

    assert "8 runs are kept queued." in press("hold")
    assert "8 runs were let go." in press("unhold")
    assert "At most 2 of its runs run at a time now." in press("at-a-time", max_running="2")
    assert "Write how many" in press("at-a-time", max_running="-1")
    assert "As many of its runs as fit" in press("at-a-time", max_running="")
    assert "The priority of 8 runs was changed." in press("priority", priority="low")
    assert "Only a manager" in press("priority", priority="urgent")
    assert "Cancel all runs of sweep" in press("cancel")
    assert Job.objects.queued().count() == 8
    assert "8 runs were cancelled." in press("cancel", sure="1")
    assert "No run of sweep" in press("rerun-failed")
    assert "8 runs were deleted." in press("delete", sure="1")
    assert page(client, sweep).status_code == 404


def test_what_failed_is_rerun_from_the_page(client, sweep):
    make.device(gpus=1)
    [attempt] = dispatch()
    attempt.accept(database_now())
    attempt.start(database_now(), pid=1)
    attempt.end(Outcome.FAILED, database_now(), exit_code=1)

    assert "Rerun 1 failed" in text_of(page(client, sweep))
    client.post(f"/sweeps/{sweep.pk}/rerun-failed/")

    assert sweep.counts() == {"queued": 8}
    assert "again" in text_of(page(client, sweep))


def test_somebody_elses_sweep_is_read_and_not_changed(sweep):
    other = Client()
    other.force_login(make.user("bob"))

    assert "Cancel all" not in text_of(page(other, sweep))
    assert other.post(f"/sweeps/{sweep.pk}/cancel/", {"sure": "1"}).status_code == 403


def test_a_page_costs_the_same_for_more_runs(client, ann):
    def asked(seeds: int) -> int:
        made = sweeps.submit(CONFIG.replace("[0, 1]", str(list(range(seeds)))), by=ann)
        for job in made.jobs.all()[:seeds]:
            learn(job, 0.5)
        with CaptureQueriesContext(connection) as queries:
            page(client, made)
            client.get(reverse("sweep-curve", args=[made.pk]))
            client.get("/sweeps/")
            client.get("/queue/")
        return sum("clock_timestamp()" not in query["sql"] for query in queries)

    counts = [asked(seeds) for seeds in (2, 3, 9)]

    assert counts[-1] <= counts[1]
    assert counts[-1] <= 75


@pytest.mark.parametrize(
    "path", ["/sweeps/99/", "/sweeps/99/curve/", "/sweeps/0/?part=x", "/sweeps/%00/"]
)
def test_a_sweep_that_is_not_there_is_not_found(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("query", ["metric=%00", "goal=x", "sort=%27", "page=x", "part=runs"])
def test_no_query_breaks_the_page(client, sweep, query):
    assert client.get(f"/sweeps/{sweep.pk}/?{query}").status_code == 200
    assert client.get(f"/sweeps/{sweep.pk}/curve/?{query}").status_code == 200


# --- elsewhere -----------------------------------------------------------------------------------


def test_the_queue_shows_a_sweep_as_one_row_at_its_place(client, sweep, ann):
    make.device(gpus=1)
    dispatch()
    make.job(by=ann, name="after it", gpus=2)

    html = client.get("/queue/").content.decode()

    rows = re.findall(r'<tr id="w-.*?</tr>', html, re.DOTALL)
    assert len(rows) == 2
    assert "1 running , 7 waiting" in read(rows[0]) or "1 running, 7 waiting" in read(rows[0])
    assert "1–7" in rows[0]
    assert "after it" in rows[1]
    assert re.search(r'class="n pick[^>]*>.*?8</td>', rows[1])
    assert "8 waiting" in read(html)


def test_a_run_leads_to_its_sweep(client, sweep):
    job = sweep.jobs.first()

    for path in ("/runs/", f"/runs/{job.uid}/"):
        html = client.get(path).content.decode()
        assert f'href="/sweeps/{sweep.pk}/"' in html
        assert "depth=18, lr=0.1" in html or "depth=50, lr=0.01" in html


# --- Execute -------------------------------------------------------------------------------------


def look(client, **form):
    """What the editor is told; `seen` is all of its preview."""
    answer = client.post("/execute/check/", form).json()
    return {**answer, "seen": answer["wide"] + answer["preview"]}


def test_a_sweep_is_shown_before_it_is_queued(client):
    preview = read(look(client, config=CONFIG)["seen"])

    assert "8 runs" in preview
    assert "2 × 2 × 2" in preview
    assert "lr depth seed 0.1 18 0" in preview
    assert "and 3 more" in preview
    assert "digits / run_001–run_008" in preview
    assert "8 runs, places 1 to 8 in the queue" in preview
    assert "Not in the file, and added to it: seed" in preview


def test_a_sweep_is_typed_on_one_line(client):
    form = {
        "config": "lr: 1\n", "project": "digits", "command": "python train.py",
        "sweep": "lr=0.1,1e-3 seed=1..3", "max_running": "2",
    }  # fmt: skip

    response = client.post("/execute/", form)

    made = Sweep.objects.get()
    assert response["Location"] == f"/sweeps/{made.pk}/"
    assert (made.jobs.count(), made.max_running) == (6, 2)
    last = made.jobs.order_by("pk").last()
    assert bytes(last.config).decode() == "seed: 3\nlr: 0.001\n"


@pytest.mark.parametrize(
    ("typed", "axes"),
    [
        ("lr=0.1,0.01", {"lr": [0.1, 0.01]}),
        ("seed=3..1 a=yes,no", {"seed": [3, 2, 1], "a": [True, False]}),
        ("size=[1, 2],[3]; name='a b',\"c,d\"", {"size": [[1, 2], [3]], "name": ["a b", "c,d"]}),
        ("f=resize(size=1, p=2),none", {"f": ["resize(size=1, p=2)", "none"]}),
    ],
)
def test_words_of_a_sweep(typed, axes):
    assert sweepwords.grid_of(typed) == {"grid": axes}


@pytest.mark.parametrize("typed", ["lr", "=1", "lr=", "a=1 a=2", "a=[1", "a=1..999999999"])
def test_a_slip_in_the_line_is_told(client, typed):
    answer = look(client, config="a: 1\n", project="p", command="x", sweep=typed)

    assert answer["mistakes"], typed
    assert (
        client.post(
            "/execute/", {"config": "a: 1\n", "project": "p", "command": "x", "sweep": typed}
        ).status_code
        == 400
    )
    assert Job.objects.count() == 0


def test_a_mistake_in_the_files_grid_is_marked_at_its_line(client):
    [mistake] = look(client, config=CONFIG.replace("[0.1, 0.01]", "[]"))["mistakes"]

    assert mistake["line"] == 6


def test_everything_the_form_asks_for_is_queued(client):
    form = {
        "config": "lr: 1\n", "project": "digits", "command": "python train.py", "gpus": "2",
        "gpu_memory": "22", "gpu_type": "A6000", "time_limit": "6h", "tags": "fisher, seeds",
        "priority": "high", "name": "x",
    }  # fmt: skip

    client.post("/execute/", form)

    job = Job.objects.get()
    assert (job.gpus, job.gpu_memory_bytes, job.gpu_type) == (2, 22 * 2**30, "A6000")
    assert (job.time_limit_seconds, job.tags) == (6 * 3600, ["fisher", "seeds"])


def test_a_rerun_with_a_change_asks_only_for_what_the_file_does_not_say_and_shows_the_change(
    client, ann
):
    config = "lr: 0.1\nlab: {command: [python, a.py], resources: {gpus: 2}}\n"
    job = make.job(by=ann, config=config, gpus=2, priority="high", command=["python", "a.py"],
                   environment={"SEED": "7"})  # fmt: skip
    html = client.get(f"/execute/?from={job.uid}").content.decode()

    assert f'name="parent" value="{job.uid}"' in html
    assert re.search(r'name="gpus"[^>]*value=""', html)
    assert re.search(r'<option value="high" selected>', html)
    assert "Nothing differs yet" in html

    form = {"config": config.replace("0.1", "0.2"), "project": "digits", "priority": "high",
            "parent": job.uid}  # fmt: skip
    preview = look(client, **form)["seen"]
    assert "1 difference from run_001" in read(preview)
    assert re.search(r'lr</td><td class="mono">0.1</td><td class="mono"><strong>0.2', preview)
    assert 'data-op="−">lr: 0.1' in preview
    client.post("/execute/", form)
    again = Job.objects.order_by("pk").last()
    assert (again.parent, again.environment) == (job, {"SEED": "7"})


def test_one_starts_from_a_template_a_run_of_ones_own_or_a_projects_last(client, ann):
    mine, theirs = make.job(by=ann), make.job(project="other", by=make.user())

    html = client.get("/execute/").content.decode()
    values = re.findall(r'<option value="((?:run|example):[^"]+)"', html)
    assert values == [
        f"run:{mine.uid}", f"run:{mine.uid}", f"run:{theirs.uid}", "example:digits/digits.yaml",
        "example:digits/sweep.yaml",
    ]  # fmt: skip
    html = client.get("/execute/?start=example:digits/sweep.yaml").content.decode()
    assert "sweep:" in html
    assert "examples/digits/train.py" in html


def test_one_starts_from_a_sweep_with_all_that_it_was_given(client):
    form = {
        "config": "lr: 1\n", "project": "digits", "command": "python train.py", "gpus": "2",
        "gpu_memory": "22", "tags": "a, b", "sweep": "lr=0.1,0.2 o=adam,'a b'", "max_running": "2",
    }  # fmt: skip
    client.post("/execute/", form)
    made = Sweep.objects.get()

    html = client.get(f"/execute/?start=sweep:{made.pk}").content.decode()

    def value_of(name):
        return re.search(rf'name="{name}"[^>]*? value="([^"]*)"', html)[1]

    assert value_of("sweep") == "lr=0.1,0.2 o=adam,&quot;a b&quot;"
    assert (value_of("max_running"), value_of("gpus"), value_of("tags")) == ("2", "2", "a, b")
    assert value_of("gpu_memory") == "22GiB"
    assert "4 runs" in read(html)
    assert f"start=sweep:{made.pk}" in page(client, made).content.decode()


def test_what_was_given_with_a_sweep_and_has_no_field_is_given_again(client, ann):
    git = {"kind": "git", "url": "https://git.example.org/x", "commit": "c0ffee1"}
    given = {"project": "digits", "command": ["python", "a b.py"], "source": git}
    given |= {"python": "torch2", "resources": {"labels": {"room": "1"}}}
    given |= {"sweep": {"grid": {"lr": [1, 2]}, "arguments": True}}
    made = sweeps.submit("", given, by=ann)

    html = client.get(f"/execute/?start=sweep:{made.pk}").content.decode()
    form = {"again": str(made.pk), "project": "digits", "command": "python 'a b.py'"}
    client.post("/execute/", form)
    client.post("/execute/", form | {"sweep": "lr=3,4"})

    assert f'name="again" value="{made.pk}"' in html
    assert "2 runs" in read(html)
    _first, second, third = Sweep.objects.order_by("pk")
    jobs = [*second.jobs.order_by("pk"), *third.jobs.order_by("pk")]
    assert [job.command[2:] for job in jobs] == [["--lr", f"{lr}"] for lr in (1, 2, 3, 4)]
    for job in jobs:
        assert (job.source["commit"], job.labels) == ("c0ffee1", {"room": "1"})
        assert job.python == "torch2"


@pytest.mark.parametrize(
    "start", ["sweep:0", "sweep:x", "example:../manage.py", "run:%00", "x", "run:", "config:a"]
)
def test_no_start_breaks_the_page(client, start):
    assert client.get(f"/execute/?start={start}").status_code == 200


def test_without_a_script_one_looks_before_one_queues(client):
    response = client.post("/execute/", {"config": CONFIG, "look": "1"})

    assert response.status_code == 200
    assert "8 runs, places 1 to 8" in text_of(response)
    assert Job.objects.count() == 0


def test_the_place_in_the_queue_is_that_of_dispatch(client, ann):
    bob = make.user("bob")
    make.attempt(make.job(by=ann), started=True)  # ann holds a GPU, bob none
    make.job(by=bob)
    make.job(by=bob, priority="low")
    make.job(by=ann, priority="high").hold(True)

    preview = look(client, project="p", command="x", gpus="1")["seen"]

    assert "Place 2 in the queue" in read(preview)


def test_who_was_passed_over_comes_before_whoever_queues_now(client):
    bob = make.user("bob")
    make.attempt(make.job(by=bob), started=True)
    for gpus in (1, 2):  # of which one is for more than bob holds
        make.job(by=bob, gpus=gpus)
    assert "Place 1 in the queue" in read(look(client, project="p", command="x", gpus="1")["seen"])

    waited = timedelta(seconds=line.PASSED_OVER * settings.LAB_HOLD_BACK_AFTER_SECONDS)
    Job.objects.queued().update(submitted_at=database_now() - waited)

    assert "Place 2 in the queue" in read(look(client, project="p", command="x", gpus="1")["seen"])


def test_why_a_gpu_server_does_not_fit_is_said(client):
    make.device(gpus=2, host_id="small")
    make.device(host_id="bare")
    make.device(gpus=2, host_id="closed", draining=True)

    def why(**form):
        return read(look(client, project="p", command="x", **form)["seen"])

    assert "its GPUs have at most 24 GiB" in why(gpus="1", gpu_memory="40")
    assert "only 2 of its GPUs would do" in why(gpus="3")
    assert "it has no A100" in why(gpus="1", gpu_type="A100")
    text = why(gpus="1")
    assert "bare it has no GPU" in text
    assert "closed it takes no new runs" in text


def test_korean(client, sweep):
    client.cookies[settings.LANGUAGE_COOKIE_NAME] = "ko"

    assert "스윕" in text_of(page(client, sweep))
    assert sweep.jobs.filter(state=JobState.QUEUED).count() == 8


def test_a_project_leads_to_its_sweeps_and_to_a_new_run_of_it(client, sweep, ann):
    other = sweeps.submit(CONFIG.replace("project: digits", "project: letters"), by=ann)
    page_of = client.get("/projects/digits/").content.decode()
    listed = client.get("/sweeps/", {"project": "digits"}).content.decode()

    assert 'href="/sweeps/?project=digits"' in page_of
    assert 'href="/execute/?project=digits"' in page_of
    assert f'href="/sweeps/{sweep.pk}/"' in listed
    assert f'href="/sweeps/{other.pk}/"' not in listed
    assert client.get("/execute/", {"project": "digits"}).context["values"]["project"] == "digits"
    assert client.get("/execute/", {"project": "nobodys"}).context["values"]["project"] == ""


def test_another_metric_is_not_judged_by_the_goal_that_was_chosen_for_the_last_one(client, sweep):
    learn(sweep.jobs.first(), 0.1, 0.5)

    asked = {"metric": "train_loss", "goal": "max"}
    kept = page(client, sweep, of="train_loss", **asked).context["scores"]
    turned = page(client, sweep, of="test_accuracy", **asked).context["scores"]

    assert (kept.goal, turned.goal) == ("max", "min")
