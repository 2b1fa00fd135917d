"""Readers while files are being written: what they get is one version, whole."""

import pytest

from sync import append, upload
from tests.sync.test_http import BEARER

pytestmark = pytest.mark.django_db


def read(client, run, name: str) -> bytes:
    answer = client.get(f"/api/sync/file/{run.uid}/{name}", **BEARER)
    return b"".join(answer.streaming_content) if answer.status_code == 200 else b""


@pytest.fixture
def at_each_step(client, run, monkeypatch):
    """What a reader gets just before and just after the row of an upload is moved."""
    seen = []

    def watched(row, **fields):
        seen.append(read(client, run, row.name))
        changed = append.change(row, **fields)
        seen.append(read(client, run, row.name))
        return changed

    monkeypatch.setattr(upload, "change", watched)
    return seen


@pytest.mark.parametrize("newer", [b"longer than the first", b"short"])
def test_a_whole_file_is_read_as_one_version_at_every_moment(run, at_each_step, newer):
    first = b"the first one"
    run.full(first)
    at_each_step.clear()

    run.full(newer, generation=2)

    assert at_each_step == [first, first, newer, newer]  # the row says first that it is going


def test_the_first_version_is_whole_from_its_first_moment(run, at_each_step):
    run.full(b"weights")

    assert at_each_step == [b"weights", b"weights"]


def test_of_a_growing_file_only_what_was_acknowledged_is_read(client, run):
    run.delta(b"a,b\n1,2\n")
    with run.target().place.path.open("ab") as file:
        file.write(b"3,4\n")

    assert read(client, run, "run_001.csv") == b"a,b\n1,2\n"


def ask(client, run, name: str, **headers: str):
    asked = {f"HTTP_{header.upper()}": value for header, value in headers.items()}
    answer = client.get(f"/api/sync/file/{run.uid}/{name}", **BEARER, **asked)
    body = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return answer, body


def test_a_follower_is_sent_what_is_new_of_its_version(client, run):
    run.delta(b"one\n", name="run_001.log")
    first, _body = ask(client, run, "run_001.log")
    run.delta(b"two\n", name="run_001.log", offset=4)

    more, body = ask(client, run, "run_001.log", range="bytes=4-", if_range=first["ETag"])
    nothing, _none = ask(client, run, "run_001.log", range="bytes=8-", if_range=first["ETag"])

    assert (more.status_code, body) == (206, b"two\n")
    assert (nothing.status_code, nothing["ETag"]) == (416, first["ETag"])


def test_a_follower_of_another_version_is_sent_the_whole(client, run):
    run.full(b"the first one")
    before, _body = ask(client, run, "run_001.pt")
    run.full(b"second", generation=2)

    answer, body = ask(client, run, "run_001.pt", range="bytes=4-", if_range=before["ETag"])

    assert (answer.status_code, body) == (200, b"second")
    assert answer["ETag"] != before["ETag"]
