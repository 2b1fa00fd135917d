"""The log of a run as its page asks for it."""

import pytest
from django.test import Client
from django.urls import reverse

from labsite.clock import database_now
from sync import storage
from sync.logs import lines as counting
from sync.models import SyncFile
from sync.storage import Place
from tests import make

pytestmark = pytest.mark.django_db
LOG = b"".join(b"line %04d\n" % n for n in range(1, 3001))


@pytest.fixture(autouse=True)
def _own_logs(settings, tmp_path, monkeypatch):
    settings.LAB_LOGS_DIR = tmp_path
    monkeypatch.setattr(counting, "BLOCK_BYTES", 1024)
    monkeypatch.setattr(counting, "WORTH_BYTES", 1024)


@pytest.fixture
def job():
    made = make.attempt(started=True).job
    put(made, LOG)
    return made


def put(job, data: bytes) -> None:
    name = f"{job.run_name}.log"
    storage.write_at(Place.of(job, name), 0, data)
    fields = {"size": len(data), "synced_at": database_now(), "attempt": 1}
    SyncFile.objects.update_or_create(job=job, name=name, generation=1, defaults=fields)


@pytest.fixture
def ask(job):
    client = Client()
    client.force_login(make.user())

    def asked(view: str = "run-log", **query):
        response = client.get(reverse(view, args=[job.uid]), query)
        assert response["Cache-Control"] == "no-store"
        return response.json() | {"status": response.status_code}

    return asked


def test_the_last_lines_come_first_with_their_numbers(ask):
    got = ask()

    assert (got["first"], got["next"], got["size"]) == (2801, len(LOG), len(LOG))
    assert got["html"].endswith('data-n="3000">line 3000</span>')


def test_a_line_is_gone_to_by_its_number(ask):
    got = ask(go=1500)

    assert got["first"] == 1300
    assert 'data-n="1500">line 1500<' in got["html"]


def test_a_number_beyond_the_end_leads_to_the_last_line(ask):
    assert 'data-n="3000">' in ask(go=10**15)["html"]


def test_while_lines_are_counted_a_request_says_how_far(ask, monkeypatch):
    monkeypatch.setattr("labsite.pages.logs.COUNT_SECONDS", -1)
    monkeypatch.setattr("labsite.pages.logs.PAGE_SECONDS", -1)

    got = ask(go=1500)
    at_the_end = ask()

    assert (got["counted"], got["size"]) == (0, len(LOG))
    assert "html" not in got
    assert at_the_end["first"] is None
    assert 'data-n="">line 3000' in at_the_end["html"]


def test_numbers_follow_when_they_are_counted(ask):
    got = ask("run-log-lines", at="0,10,29990,x")

    assert (got["numbers"], got["done"]) == ([1, 2, 3000], True)


def test_windows_lead_both_ways(ask):
    middle = ask(go=1500)
    earlier = ask(before=middle["start"])
    later = ask(offset=middle["next"], line=middle["next_line"])

    assert (earlier["next"], earlier["first"]) == (middle["start"], 800)
    assert f'data-n="{middle["next_line"]}">line {middle["next_line"]}<' in later["html"]


def test_what_is_found_is_told_and_gone_to(ask):
    found = ask("run-log-find", q="LINE 1999")
    around = ask(around=found["hits"][0][0], line=found["hits"][0][1])

    assert found["hits"] == [[19980, 1999, "<mark>line 1999</mark>"]]
    assert (found["lines"], found["done"]) == (1, True)
    assert 'data-n="1999">line 1999<' in around["html"]


def test_a_search_goes_on_where_it_was(ask, job, monkeypatch):
    monkeypatch.setattr("labsite.pages.logs.SEARCH_SECONDS", -1)
    monkeypatch.setattr("sync.logs.search.PATTERN_BLOCK_BYTES", 8000)
    first = ask("run-log-find", q="0$", pattern=1)

    second = ask(
        "run-log-find", q="0$", pattern=1, **{"from": first["next"]}, line=first["line"],
        listed=995,
    )  # fmt: skip

    assert (first["lines"], first["next"], first["done"]) == (80, 8000, False)
    assert [hit[1] for hit in second["hits"]] == [810, 820, 830, 840, 850]
    assert second["lines"] == 80


def test_a_hit_is_escaped(ask, job):
    put(job, b"<img src=x onerror=alert(1)> needle </span>\n")

    [[_, _, html]] = ask("run-log-find", q="needle")["hits"]

    assert html == "&lt;img src=x onerror=alert(1)&gt; <mark>needle</mark> &lt;/span&gt;"


def test_a_wrong_pattern_is_a_sentence(ask):
    got = ask("run-log-find", q="(", pattern=1)

    assert got["status"] == 200  # not an error: it is being typed
    assert got["wrong"].startswith("This is no pattern that can be searched for: missing )")


def test_another_version_of_the_file_is_shown_from_its_end(ask, job):
    old = ask()["version"]
    SyncFile.objects.update(generation=2)

    assert ask(offset=10, version=old)["reset"]


@pytest.mark.parametrize(
    "query",
    [{"offset": 10**17}, {"before": 10**17}, {"around": 10**17}, {"go": 0}, {"offset": "x"}],
)
def test_no_place_is_a_wrong_one(ask, query):
    assert "line 3000" in ask(**query)["html"] or "go" in query


def test_a_run_without_a_log_has_nothing_to_find(ask, job):
    SyncFile.objects.all().delete()

    assert ask()["html"] == ""
    assert ask("run-log-find", q="x")["done"]
    assert ask(go=5)["html"] == ""
