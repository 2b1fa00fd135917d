"""The tables of runs: what they show, what is remembered, exported and done to many at once."""

import csv
import io
import re

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from experiments.models import Job, JobEvent, Pin, Project, SavedView
from experiments.states import JobState, Outcome
from labsite.clock import database_now
from labsite.pages.written import csv_cell, latex_text
from labsite.templatetags.lab import metric
from tests import make
from tests.experiments.test_table import metrics
from tests.labsite.reading import text_of

pytestmark = pytest.mark.django_db
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def kim():
    return make.user("kim")


@pytest.fixture
def client(kim):
    client = Client()
    client.force_login(kim)
    return client


@pytest.fixture
def runs(kim):
    """Three of kim's with three seeds, and one of somebody else's."""
    made = []
    for seed, acc in enumerate((0.90, 0.92, 0.94)):
        job = make.job(by=kim, config=f"lr: 0.1\nseed: {seed}\n", name=f"kim {seed}")
        job.note_summary(metrics(acc=(acc - 0.1, 0.1, acc), loss=1 - acc))
        made.append(job)
    other = make.job(by=make.user("lee"), config="lr: 0.01\nseed: 0\n", name="lee")
    other.note_summary(metrics(acc=0.5))
    return [*made, other]


def rows(response):
    """The names of the runs, in order."""
    return re.findall(r'</a> <span class="soft">([^<]+)</span>', response.content.decode())


# --- what is shown ------------------------------------------------------------------------------


def test_one_finds_ones_own_runs_first(client, runs):
    assert rows(client.get("/runs/")) == ["kim 2", "kim 1", "kim 0", "lee"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("q=lr<0.05", ["lee"]),
        ("q=acc>0.81&sort=best:acc", ["kim 1", "kim 2"]),
        ("sort=-best:acc", ["kim 2", "kim 1", "kim 0", "lee"]),
        ("sort=last:acc", ["lee", "kim 0", "kim 1", "kim 2"]),
        ("sort=key:seed&whose=mine", ["kim 0", "kim 1", "kim 2"]),
        ("state=failed", []),
        ("sort=nonsense&c=odd&g=state:x&view=77&page=99", ["kim 2", "kim 1", "kim 0", "lee"]),
    ],
)
@pytest.mark.parametrize("base", ["/runs/", "/projects/digits/"])
def test_a_table_shows_what_is_asked(client, runs, base, query, names):
    found = rows(client.get(f"{base}?{query}"))

    assert sorted(found) == sorted(names)
    if "sort=" in query and "nonsense" not in query:
        assert found == names


def test_a_project_shows_its_metrics_and_the_keys_in_which_runs_differ(client, runs):
    html = client.get("/projects/digits/").content.decode()

    heads = re.findall(r"<th[^>]*>(?:<a[^>]*>)?([^<]+)", html)
    assert [head for head in heads if head in ("acc (best)", "loss (best)", "lr", "seed")] == [
        "acc (best)", "loss (best)", "lr", "seed"
    ]  # fmt: skip
    assert "0.94" in html


def test_a_query_that_cannot_be_read_is_shown_with_its_place(client, runs):
    html = client.get("/runs/", {"q": "lr<0.1 state:<odd>"}).content.decode()

    assert "lr&lt;0.1 state:<mark>&lt;odd&gt;</mark>" in html
    assert "There is no state" in html


def test_a_name_that_no_run_has_is_told(client, runs):
    assert "did you mean seed?" in text_of(client.get("/runs/?q=sed:1"))


def test_seeds_are_told_as_mean_and_deviation(client, runs):
    text = text_of(client.get("/projects/digits/?g=key:lr&sort=-best:acc"))

    assert "0.1 3 0.920 ± 0.020" in text
    assert "0.01 1 0.5" in text


def test_runs_that_differ_by_their_seed_only_are_a_link_away(client, runs):
    html = client.get("/projects/digits/").content.decode()

    [link] = re.findall(r'<a href="([^"]+)">Runs that differ by their seed only', html)
    assert "0.1 3 0.920 ± 0.020" in text_of(client.get(link.replace("&amp;", "&")))


def test_a_group_leads_to_its_runs(client, runs):
    html = client.get("/projects/digits/?g=key:lr&q=acc>0").content.decode()

    [link] = re.findall(r'class="lead"><a href="([^"]+)"><span class="sr">lr </span>0.1<', html)
    assert rows(client.get(link.replace("&amp;", "&"))) == ["kim 2", "kim 1", "kim 0"]


def test_a_part_is_the_table_alone(client, runs):
    for base in ("/runs/", "/projects/digits/"):
        html = client.get(f"{base}?part=table").content.decode()

        assert "<html" not in html
        assert "kim 2" in html


def test_nothing_hostile_gets_through(client, kim):
    config = f'"{HOSTILE}": "{HOSTILE}"\nlab: {{command: [x], tags: ["{HOSTILE}"]}}\n'
    job = make.job(by=kim, config=config, name=HOSTILE, command=None)
    job.edit(notes=HOSTILE, by=kim)
    job.note_summary(metrics(**{HOSTILE: 1.0}))
    SavedView.save_as(HOSTILE, by=kim, project=None)
    asked = {"c": ["notes", "tag", f"key:{HOSTILE}", f"last:{HOSTILE}"], "q": f'"{HOSTILE}"<"'}

    for address, given in [
        ("/runs/", asked), ("/runs/", {**asked, "q": ""}),
        ("/projects/digits/", {"g": f"key:{HOSTILE}", "c": f"last:{HOSTILE}"}),
        ("/compare/", {"runs": job.uid, "all": ""}), (f"/runs/{job.uid}/edit/", {}),
    ]:  # fmt: skip
        response = client.get(address, given)
        assert response.status_code == 200
        assert HOSTILE not in response.content.decode()


@pytest.mark.parametrize("query", ["", "g=key:lr", "q=acc>0.1&sort=-best:acc", "sort=key:lr"])
@pytest.mark.parametrize("base", ["/runs/", "/projects/digits/"])
def test_a_table_asks_the_database_no_more_for_more_rows(client, kim, runs, base, query):
    def asked_with_more() -> int:
        job = make.job(by=kim, config="lr: 0.3\nseed: 7\n")
        job.note_summary(metrics(acc=0.3))
        make.attempt(job, make.device(gpus=1), started=True)
        with CaptureQueriesContext(connection) as asked:
            client.get(f"{base}?{query}")
        return sum("clock_timestamp()" not in query["sql"] for query in asked)

    counts = [asked_with_more() for _ in range(4)]

    assert counts[-1] == counts[1]
    assert counts[-1] <= 26


def test_archived_projects_are_left_out_until_they_are_asked_for(client, runs):
    Job.objects.update(state=JobState.SUCCEEDED, finished_at=database_now())
    Project.objects.get().archive(database_now())

    assert rows(client.get("/runs/")) == []
    assert len(rows(client.get("/runs/?archived=1"))) == 4
    assert len(rows(client.get("/projects/digits/"))) == 4


# --- what is remembered -------------------------------------------------------------------------


def test_chosen_columns_are_remembered_for_the_project_and_shared_by_the_address(client, runs):
    chosen = {"project": "digits", "c": ["key:seed", "state"], "add": ["max:acc"]}

    address = client.post("/runs/columns/", chosen)["Location"]

    assert address == "/projects/digits/?c=key%3Aseed&c=state&c=max%3Aacc"
    for path in (address, "/projects/digits/"):
        assert "acc (highest)" in text_of(client.get(path))
    assert "acc (highest)" not in text_of(client.get("/runs/"))


def test_columns_are_moved_and_the_usual_ones_come_back(client, runs):
    def post(**more):
        return client.post("/runs/columns/", {"c": ["state", "user", "took"], **more})["Location"]

    assert post(move="up user") == "/runs/?c=user&c=state&c=took&choose=1"
    assert post(move="down took") == "/runs/?c=state&c=user&c=took&choose=1"
    assert post(usual="1").startswith("/runs/?c=state&c=tag")


def test_a_view_is_saved_shown_shared_and_deleted(client, runs):
    given = {"project": "digits", "name": " best  seeds ", "q": "user:me", "sort": "-best:acc",
             "c": ["key:seed"], "shared": "1"}  # fmt: skip

    address = client.post("/runs/views/", given)["Location"]

    assert rows(client.get(address)) == ["kim 2", "kim 1", "kim 0"]
    others = Client()
    others.force_login(make.user("lee2"))
    assert "best seeds kim" in text_of(others.get("/projects/digits/"))
    assert rows(others.get(address)) == []  # user:me is who looks
    view = SavedView.objects.get()
    others.post(f"/runs/views/{view.pk}/delete/")
    assert SavedView.objects.exists()
    client.post(f"/runs/views/{view.pk}/delete/")
    assert not SavedView.objects.exists()


def test_what_is_chosen_beside_a_view_goes_before_it(client, kim, runs):
    given = {"name": "v", "q": "acc>0.6", "g": "key:lr", "whose": "mine", "state": "queued"}

    address = client.post("/runs/views/", given)["Location"]

    assert SavedView.objects.get().query == "acc>0.6 user:me state:queued"
    whole = client.get(f"{address}&q=&g=")
    assert len(rows(whole)) == 4
    [source] = re.findall(r'data-src="(/runs/[^"]+part=table[^"]+)"', whole.content.decode())
    assert len(rows(client.get(source.replace("&amp;", "&")))) == 4


def test_a_view_that_is_not_shared_is_its_owners(client, kim, runs):
    view = SavedView.save_as("mine", by=make.user("lee3"), project=None, query="nothing")

    assert len(rows(client.get(f"/runs/?view={view.pk}"))) == 4
    assert "mine" not in text_of(client.get("/runs/")).split("Save this view")[0].split("All")[-1]


def test_a_view_without_a_name_is_refused_by_a_sentence(client):
    response = client.post("/runs/views/", {"name": "  ", "q": "lr<1"}, follow=True)

    assert "Give the view a name." in text_of(response)
    assert response.redirect_chain[0][0] == "/runs/?q=lr%3C1"


def test_a_pinned_run_stands_on_top_until_it_is_unpinned(client, kim, runs):
    client.post(f"/runs/{runs[3].uid}/pin/", {"back": "/runs/?q=lr>0"})
    assert rows(client.get("/runs/"))[0] == "lee"

    client.post(f"/runs/{runs[3].uid}/unpin/")
    assert not Pin.objects.exists()


# --- by hand ------------------------------------------------------------------------------------


def test_tags_and_notes_are_written_in_place_and_told(client, kim, runs):
    url = f"/runs/{runs[0].uid}/edit/"

    assert client.post(url, {"tags": "b, a,b"}).status_code == 302
    client.post(url, {"notes": " two\r\nlines "})

    job = Job.objects.get(pk=runs[0].pk)
    assert (job.tags, job.notes, job.name) == (["b", "a"], "two\nlines", "kim 0")
    assert JobEvent.objects.filter(job=job, kind="edited", by=kim).count() == 2
    refused = client.post(url, {"tags": "x" * 100})
    assert "at most 64 characters" in text_of(refused)


def test_nobody_elses_run_is_edited(client, runs):
    assert client.post(f"/runs/{runs[3].uid}/edit/", {"tags": "x"}).status_code == 403


# --- many at once -------------------------------------------------------------------------------


def act(client, verb, jobs, **more):
    given = {"verb": verb, "run": [job.uid for job in jobs], "back": "/runs/?q=lr>0", **more}
    return client.post("/runs/act/", given, follow=True)


def test_many_runs_are_cancelled_after_a_question_and_refusals_are_told(client, runs):
    attempt = make.attempt(runs[0], make.device(gpus=1), started=True)
    attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)

    asked = act(client, "cancel", runs)
    question = text_of(asked)
    assert "Cancel these runs?" in question
    assert "1 of the ticked runs has ended already and stays as it is: digits/run_001" in question
    assert f'name="run" value="{runs[0].uid}"' not in asked.content.decode()
    assert "1 of the ticked runs is somebody else's and is left alone: digits/run_004" in question
    assert not Job.objects.filter(state=JobState.CANCELLED).exists()

    told = act(client, "cancel", runs, sure="1")

    assert told.redirect_chain == [("/runs/?q=lr%3E0", 302)]
    assert "2 runs are being cancelled." in text_of(told)
    assert "digits/run_001 has ended" in text_of(told)
    assert "digits/run_004: it is somebody else" in text_of(told)
    states = list(Job.objects.order_by("pk").values_list("state", flat=True))
    assert states == ["succeeded", "cancelled", "cancelled", "queued"]


def test_many_runs_are_tagged_and_untagged(client, runs):
    act(client, "tag", runs[:2], tags="paper, seeds")
    act(client, "untag", runs[:1], tags="seeds")

    assert [Job.objects.get(pk=job.pk).tags for job in runs[:3]] == [
        ["paper"], ["paper", "seeds"], []
    ]  # fmt: skip
    assert "Write the tags" in text_of(act(client, "tag", runs[:1], tags=" "))


def test_many_runs_are_deleted_into_the_trash(client, runs):
    act(client, "cancel", runs[:2], sure="1")

    told = act(client, "delete", runs[:3], sure="1")

    assert "2 runs were deleted." in text_of(told)
    assert "cancel it first" in text_of(told)
    assert rows(client.get("/runs/")) == ["kim 2", "lee"]


def test_ticked_runs_are_compared(client, runs):
    response = client.post("/runs/act/", {"verb": "compare", "run": [runs[0].uid, runs[1].uid]})

    assert response["Location"] == f"/compare/?runs={runs[0].uid},{runs[1].uid}"


def test_the_first_runs_of_a_table_are_a_click_from_their_curves(client, runs):
    several = client.get("/runs/?q=user:kim").content.decode()
    alone = client.get("/runs/?q=user:lee").content.decode()

    assert f'href="/compare/?runs={runs[2].uid},{runs[1].uid},{runs[0].uid}"' in several
    assert "/compare/?runs=" not in alone


@pytest.mark.parametrize("given", [{}, {"verb": "cancel"}, {"verb": "explode", "run": ["x"]}])
def test_without_ticks_nothing_is_done(client, runs, given):
    assert "Tick the runs" in text_of(client.post("/runs/act/", given, follow=True))


NONSENSE = ["", "\x00", "\x00x", "..", "x" * 3000, "-1", "9" * 40, "up \x00", "://", "ü"]


@pytest.mark.parametrize("path", ["act/", "columns/", "views/", "{uid}/edit/", "{uid}/pin/"])
def test_no_form_is_an_error_of_ours(client, runs, path):
    client.raise_request_exception = False
    fields = ("verb", "run", "tags", "notes", "name", "project", "q", "c", "g", "sort", "add")
    url = f"/runs/{path.format(uid=runs[0].uid)}"

    for nonsense in NONSENSE:
        for field in (*fields, "move", "view", "back", "shared"):
            answer = client.post(url, {"verb": "tag", "run": runs[0].uid, field: nonsense})
            assert answer.status_code < 500, (field, nonsense)


# --- export -------------------------------------------------------------------------------------


def sheet(response):
    text = b"".join(response.streaming_content).decode("utf-8-sig")
    return list(csv.reader(io.StringIO(text)))


def test_all_runs_that_match_are_exported(client, runs):
    response = client.get(
        "/runs/export.csv?q=user:kim&sort=key:seed&c=key:seed&c=best:acc&c=state"
    )

    assert sheet(response) == [
        ["project", "run", "uid", "name", "key:seed", "best:acc", "state"],
        *(
            ["digits", job.run_name, job.uid, job.name, str(seed), str(acc), "queued"]
            for seed, (job, acc) in enumerate(zip(runs, (0.9, 0.92, 0.94), strict=False))
        ),
    ]


def test_groups_are_exported_with_mean_and_deviation(client, runs):
    query = "project=digits&g=key:lr&c=best:acc&sort=-best:acc"

    head, first, second = sheet(client.get(f"/runs/export.csv?{query}"))
    latex = client.get(f"/runs/export.tex?{query}").content.decode()

    assert head == ["key:lr", "runs", "best:acc mean", "best:acc std"]
    assert [float(cell) for cell in first] == pytest.approx([0.1, 3, 0.92, 0.02])
    assert second == ["0.01", "1", "0.5", ""]
    assert r"0.1 & 3 & $0.920 \pm 0.020$ \\" in latex
    assert r"\toprule" in latex


def test_a_query_that_cannot_be_read_is_not_exported(client, runs):
    assert client.get("/runs/export.csv?q=lr<").status_code == 400


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"), ("@x", "'@x"), ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("\t=x", "'\t=x"), (" =x", "' =x"), ("-x", "'-x"), ("-0.5", "-0.5"), ("+1e-3", "+1e-3"),
        (-0.5, -0.5), ("a=b", "a=b"), ("", ""),
    ],
)  # fmt: skip
def test_no_cell_is_a_formula(value, cell):
    assert csv_cell(value) == cell


def test_latex_prints_what_was_written():
    assert latex_text("50%_a & {b} \\input #1\n~^") == (
        r"50\%\_a \& \{b\} \textbackslash{}input \#1 \textasciitilde{}\textasciicircum{}"
    )


# --- the API ------------------------------------------------------------------------------------


@pytest.fixture
def api(kim):
    api = APIClient()
    api.force_login(kim)
    return api


def test_the_api_takes_the_same_query_and_orders(api, runs):
    answer = api.get("/api/jobs/", {"q": "acc>0.6", "ordering": "best:acc", "page_size": 2}).json()

    assert answer["count"] == 3
    assert [job["name"] for job in answer["results"]] == ["kim 0", "kim 1"]


@pytest.mark.parametrize("asked", [{"q": "lr<"}, {"q": "state:odd"}, {"ordering": "odd:x"}])
def test_the_api_refuses_what_it_cannot_read(api, runs, asked):
    answer = api.get("/api/jobs/", asked)

    assert answer.status_code == 400
    if "q" in asked:
        assert answer.json()["code"] == "query_wrong"
        assert answer.json()["position"] >= 0


def test_the_api_writes_tags_and_notes_and_tells(api, kim, runs):
    url = f"/api/jobs/{runs[0].uid}/"

    answer = api.patch(url, {"tags": ["a", "a "], "notes": "n"}, format="json")

    assert (answer.json()["tags"], answer.json()["notes"]) == (["a"], "n")
    assert JobEvent.objects.filter(job=runs[0], kind="edited", by=kim).count() == 1
    assert api.patch(url, {"tags": ["x" * 65]}, format="json").status_code == 400


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.944, "0.9440"), (0.94473, "0.9447"), (12.5, "12.50"), (2.0, "2"), (12, "12"),
        (0.0003, "0.0003"), (1e-05, "1e-05"), (float("nan"), "nan"), (None, ""),
    ],
)  # fmt: skip
def test_figures_of_a_metric_have_the_same_decimals(value, words):
    assert metric(value) == words
