"""Runs beside each other: what differs, what is best, and their curves."""

import re

import pytest
from django.test import Client

from experiments.models import Job
from labsite.clock import database_now
from sync import storage, summary
from sync.curves import kept
from sync.models import SyncFile
from sync.storage import Place
from tests import make
from tests.labsite.reading import text_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _own_logs(settings, tmp_path):
    settings.LAB_LOGS_DIR = tmp_path / "logs"
    kept.shelf.clear()


@pytest.fixture
def client():
    client = Client()
    client.force_login(make.user("kim"))
    return client


def run(config, csv):
    job = make.job(config=config)
    data = csv.encode()
    storage.write_at(Place.of(job, f"{job.run_name}.csv"), 0, data)
    row = SyncFile.objects.create(
        job=job, name=f"{job.run_name}.csv", attempt=1, generation=1, size=len(data),
        synced_at=database_now(),
    )  # fmt: skip
    summary.update(job, row)
    return Job.objects.get(pk=job.pk)


@pytest.fixture
def pair():
    return [
        run("lr: 0.1\nmodel: {depth: 18}\n", "epoch,loss,acc\n1,0.9,0.5\n2,nan,0.7\n3,0.4,0.6\n"),
        run("lr: 0.10\nmodel: {depth: 50}\n", "epoch,loss\n1,0.8\n2,0.5\n"),
    ]


def compared(client, jobs, **more):
    return client.get("/compare/", {"runs": ",".join(job.uid for job in jobs), **more})


def table(html, name):
    [row] = re.findall(rf'<th class="stick[^"]*" scope="row">{name}.*?</tr>', html, re.DOTALL)
    return re.findall(r"<td([^>]*)>(?:<span class=\"sr\">best </span>)?([^<]*)</td>", row)


def test_only_the_keys_that_differ_are_shown_until_all_are_asked_for(client, pair):
    differing = compared(client, pair).content.decode()
    whole = compared(client, pair, all="").content.decode()

    assert [text for _css, text in table(differing, "model.depth")] == ["18", "50"]
    assert 'scope="row">lr<' not in differing  # 0.1 is 0.10
    assert len(table(whole, "lr<")) == 2


def test_the_best_value_is_marked(client, pair):
    html = compared(client, pair).content.decode()

    assert table(html, 'loss <span class="dim">best') == [
        (' class="n best"', "0.4000"),
        (' class="n"', "0.5000"),
    ]
    assert table(html, 'loss <span class="dim">last') == [
        (' class="n best"', "0.4000"),
        (' class="n"', "0.5000"),
    ]
    assert table(html, 'acc <span class="dim">best') == [
        (' class="n"', "0.7000"),
        (' class="n"', ""),
    ]
    assert "epoch <span" not in html


def test_what_is_not_there_is_named_and_is_no_error(client, pair):
    pair[1].cancel()
    pair[1].delete_run(database_now())

    response = compared(client, pair)

    assert response.status_code == 200
    assert f"1 run is not there any more, or not for you to see: {pair[1].uid}" in text_of(
        response
    )


@pytest.mark.parametrize("runs", ["", ",,", "\x00", "x" * 500, "<script>", ",".join("ab" * 400)])
def test_no_address_breaks_it(client, runs):
    assert client.get("/compare/", {"runs": runs}).status_code == 200
    assert client.get("/compare/curves/", {"runs": runs, "metric": runs}).status_code == 200


def test_curves_come_with_their_axes_and_gaps(client, pair):
    asked = {"runs": f"{pair[0].uid},nobody,{pair[1].uid}", "metric": ["loss", "nothing"]}

    first, second = client.get("/compare/curves/", asked).json()["runs"]

    assert (first["uid"], first["live"], first["more"]) == (pair[0].uid, True, False)
    assert first["curves"] == {
        "loss": {"rows": [0, 1, 2], "values": [0.9, None, 0.4], "axes": {"epoch": [1, 2, 3]}}
    }
    assert second["curves"]["loss"]["values"] == [0.8, 0.5]


def test_curves_of_many_runs_are_thinned(client):
    rows = "".join(f"{n},{n % 7}\n" for n in range(5000))
    long = run("", f"step,loss\n{rows}")

    answer = client.get("/compare/curves/", {"runs": long.uid, "metric": "loss", "of": "100"})

    [one] = answer.json()["runs"]
    assert 100 <= len(one["curves"]["loss"]["rows"]) <= 320


def test_a_run_is_taken_out(client, pair):
    html = compared(client, pair).content.decode()

    assert f'href="/compare/?runs={pair[1].uid}"' in html


def test_nothing_to_compare_says_what_to_do(client):
    assert "Tick runs in a table" in text_of(client.get("/compare/"))
