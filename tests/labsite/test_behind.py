"""How far the server's copy is behind: the same on the run's page and for programs."""

from datetime import timedelta

import pytest
from django.test import Client

from experiments.states import Outcome
from labsite import wake
from labsite.clock import database_now
from sync import append, ownership
from tests import make
from tests.labsite.reading import text_of

pytestmark = pytest.mark.django_db
HERE_BYTES, THERE_BYTES = 1000, 2_101_000


@pytest.fixture(autouse=True)
def _own_logs(settings, tmp_path):
    settings.LAB_LOGS_DIR = tmp_path / "logs"


def told(client: Client, uid: str) -> tuple[str, str, int]:
    page = text_of(client.get(f"/runs/{uid}/"))
    data = client.get(f"/api/sync/status/{uid}").json()["data"]
    return page, data["sync_status"], data["behind_bytes"]


def test_a_run_says_how_far_it_is_behind_and_when_it_is_not_any_more():
    client, attempt = Client(), make.attempt(started=True)
    client.force_login(make.user())
    uid, name = attempt.job.uid, "run_001.csv"
    target = ownership.target(attempt.device, uid, name, None)
    row = append.append(target, append.Delta(b"x" * HERE_BYTES)).row

    def advertise(size_bytes: int) -> None:
        files = {name: {"generation": 1, "size_bytes": size_bytes, "acked_bytes": HERE_BYTES}}
        attempt.advertise(files, database_now())

    advertise(THERE_BYTES)
    page, state, behind = told(client, uid)
    assert "behind by 2.1 MB" in page
    assert (state, behind) == ("syncing", THERE_BYTES - HERE_BYTES)

    type(row).objects.update(synced_at=database_now() - timedelta(seconds=16))
    assert told(client, uid)[1:] == ("outdated", THERE_BYTES - HERE_BYTES)

    advertise(HERE_BYTES)
    page, state, behind = told(client, uid)
    assert "behind by" not in page
    assert (state, behind) == ("synced", 0)


@pytest.mark.parametrize(("is_local", "origin"), [(True, "local"), (False, "remote-gpu-07")])
def test_the_origin_tells_the_servers_own_agent_from_others(is_local, origin):
    device = make.device(gpus=1, host_id="gpu-07", is_local=is_local)
    attempt = make.attempt(make.job(), device, started=True)
    client = Client()
    client.force_login(make.user())

    data = client.get(f"/api/sync/status/{attempt.job.uid}").json()["data"]

    assert data["server_origin"] == origin


def test_the_head_of_a_run_that_has_ended_listens_until_all_of_it_is_here(
    monkeypatch, django_capture_on_commit_callbacks
):
    client, attempt = Client(), make.attempt(started=True)
    client.force_login(make.user())
    job, told = attempt.job, []
    monkeypatch.setattr(wake, "publish", lambda kind, id, size=None: told.append((kind, id)))
    attempt.advertise({}, database_now(), to_come=True)
    attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)

    def listens() -> bool:
        page = client.get(f"/runs/{job.uid}/?part=head").content.decode()
        return f"arrived:{job.pk}" in page

    assert listens()
    with django_capture_on_commit_callbacks(execute=True):
        attempt.note_arrived()
    assert ("arrived", job.pk) in told
    assert not listens()
