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

    assert at_each_step == [newer, newer]


def test_the_first_version_is_whole_from_its_first_moment(run, at_each_step):
    run.full(b"weights")

    assert at_each_step == [b"weights", b"weights"]


def test_of_a_growing_file_only_what_was_acknowledged_is_read(client, run):
    run.delta(b"a,b\n1,2\n")
    with run.target().place.path.open("ab") as file:
        file.write(b"3,4\n")

    assert read(client, run, "run_001.csv") == b"a,b\n1,2\n"
