"""Room on the disk: what nobody finishes is removed, and the last of it is not for files."""

from datetime import timedelta

import pytest
from django.conf import settings

from experiments.states import Outcome
from labsite.clock import database_now
from sync import chunks, status, storage, tasks
from sync.errors import DiskFull, UploadExpired
from sync.models import SyncFile, Upload
from sync.status import SyncState
from tests.sync.conftest import Run, sha256

pytestmark = pytest.mark.django_db
WHOLE = b"0123456789"


def parts() -> list[str]:
    folder = settings.LAB_LOGS_DIR / storage.UPLOADS
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# --- what nobody finishes ------------------------------------------------------------------------


def test_an_upload_of_which_nothing_came_for_a_day_is_gone(run: Run):
    run.chunk(WHOLE, 0, 4)
    tasks.tidy()
    assert len(parts()) == 1

    Upload.objects.update(moved_at=database_now() - timedelta(hours=25))
    assert tasks.tidy() == 1

    assert parts() == []
    with pytest.raises(UploadExpired):
        run.chunk(WHOLE, 4, 6)
    with pytest.raises(UploadExpired):
        chunks.offset_of(run.target("run_001.pt"), "u1", sha256(WHOLE), 1)
    run.chunk(WHOLE, 0, 10, upload_id="u2", generation=2)
    assert run.stored("run_001.pt") == WHOLE


def test_the_row_of_an_abandoned_upload_is_forgotten_in_time(run: Run):
    run.chunk(WHOLE, 0, 4)
    Upload.objects.update(moved_at=database_now() - timedelta(days=8))

    tasks.tidy()

    assert not Upload.objects.exists()


def test_uploads_of_a_deleted_run_go_at_once(run: Run):
    run.chunk(WHOLE, 0, 4)
    run.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    run.attempt.job.delete_run(database_now())

    tasks.tidy()

    assert parts() == []


# --- room, and how far behind --------------------------------------------------------------------


def test_no_file_takes_the_last_of_the_disk(run: Run, settings, monkeypatch):
    settings.LAB_DISK_RESERVE_BYTES = 1000
    free = {"bytes": 1009}
    monkeypatch.setattr("sync.room.free_bytes", lambda: free["bytes"])

    for send in (lambda: run.chunk(WHOLE, 0, 4), lambda: run.full(WHOLE, length=10)):
        with pytest.raises(DiskFull) as refused:
            send()
        assert refused.value.facts == {"retry_after_seconds": 30}
    assert not Upload.objects.exists()
    assert not SyncFile.objects.exists()

    run.delta(b"0,1\n")  # curves go on in a part of the reserve
    free["bytes"] = 253
    with pytest.raises(DiskFull):
        run.delta(b"1,1\n")
    assert run.stored() == b"0,1\n"
    run.delta(b"", generation=1, offset=4, file_sha256=sha256(b"0,1\n"))
    assert run.row().complete  # what is there already can still be confirmed
    with pytest.raises(DiskFull):
        run.full(WHOLE)  # a form does not say how long it is
    free["bytes"] = 1010
    run.chunk(WHOLE, 0, 4)


def test_what_came_of_an_upload_is_not_behind(run: Run):
    files = {"run_001.pt": {"generation": 1, "size_bytes": 10, "acked_bytes": 0}}
    run.attempt.advertise(files, database_now() - timedelta(minutes=1))
    assert status.of(run.attempt.job, database_now()).state == SyncState.OUTDATED

    run.chunk(WHOLE, 0, 4)

    found = status.of(run.attempt.job, database_now())
    assert (found.state, found.behind_bytes) == (SyncState.SYNCING, 6)
