"""Deltas that go on where their files end, many in one transaction; all others are left alone."""

import hashlib
import os
import zlib

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.datastructures import CaseInsensitiveMapping

from devices.models import digest
from experiments.models import Job, Project
from experiments.states import JobState, Outcome
from labsite.clock import database_now
from sync import append, retention, room, steady, storage, trash
from sync.models import SyncFile, What
from sync.steady import Asked, go_on
from tests import make
from tests.sync.conftest import TOKEN, Run, sha256

pytestmark = pytest.mark.django_db

LOG, CSV = "run_001.log", "run_001.csv"
HEAD = b"epoch,loss\n"


def asked(run: Run, data: bytes, offset: int, name: str = LOG, **headers: object) -> Asked:
    """As an agent sends it; a header of None is left out."""
    said = {
        "X-Sync-Attempt": run.attempt.number,
        "X-Sync-Generation": 1,
        "X-Sync-Offset": offset,
        "X-Chunk-SHA256": sha256(data),
        "X-File-Mtime": 7,
        **{key.replace("_", "-"): value for key, value in headers.items()},
    }
    given = {key: str(value) for key, value in said.items() if value is not None}
    return Asked(digest(TOKEN), run.uid, name, CaseInsensitiveMapping(given), data)


@pytest.fixture
def begun(run: Run) -> Run:
    """A run whose log and metrics have begun."""
    for name in (LOG, CSV):
        run.delta(HEAD, name, generation=1, offset=0)
    return run


def test_a_chunk_at_the_end_is_stored_and_answered_as_by_append(begun: Run):
    [taken] = go_on([asked(begun, b"1,0.5\n", 11)])

    row = begun.row(LOG)
    assert begun.stored(LOG) == HEAD + b"1,0.5\n"
    assert (row.size, row.generation, row.source_mtime, row.complete) == (17, 1, 7, False)
    begun.delta(b"1,0.5\n", CSV, generation=1, offset=11)
    assert taken is not None
    by_append = begun.delta(b"2,0.4\n", CSV, generation=1, offset=17)
    assert taken.facts.keys() - {"message", "bytes_synced"} == by_append.facts.keys()
    assert taken.facts == {
        "message": "Delta synced successfully", "bytes_synced": 6, "bytes_appended": 6,
        "acked_bytes": 17, "size_bytes": 17, "generation": 1, "duplicate": False,
        "complete": False,
    }  # fmt: skip


def test_what_the_project_takes_moves_with_it(begun: Run):
    go_on([asked(begun, b"1,0.5\n", 11), asked(begun, b"2\n", 11, CSV)])

    project = Project.objects.get()
    before = project.used_bytes
    assert retention.recount(project) == before == 30


def test_many_files_share_one_transaction(run: Run):
    names = [f"run_001.{number}.log" for number in range(5)]
    for name in names:
        run.delta(HEAD, name, generation=1, offset=0)

    with CaptureQueriesContext(connection) as queries:
        taken = go_on([asked(run, b"x\n", 11, name) for name in names])

    assert all(taken)
    begun = [one for one in queries if one["sql"].startswith("SAVEPOINT")]
    assert len(begun) == 1


def test_the_bytes_are_on_the_disk_before_any_row_says_so(begun: Run, monkeypatch):
    seen = []
    real = os.fsync

    def spy(descriptor: int) -> None:
        seen.append((os.fstat(descriptor).st_size, begun.row(LOG).size))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)

    go_on([asked(begun, b"1,0.5\n", 11)])

    assert seen == [(17, 11)]


def test_the_file_is_nobody_elses_until_its_row_is_moved(begun: Run, monkeypatch):
    held = []
    real = append.move

    def spied(row, **fields):
        with pytest.raises(storage.FileBusy), storage.locked(begun.target(LOG).place, seconds=0):
            pass
        held.append(row)
        return real(row, **fields)

    monkeypatch.setattr(append, "move", spied)

    assert all(go_on([asked(begun, b"x", 11)]))
    assert held
    with storage.locked(begun.target(LOG).place, seconds=0):
        pass


def test_metrics_keep_their_summary(begun: Run):
    assert all(go_on([asked(begun, b"0,0.5\n1,0.25\n2,", 11, CSV)]))
    assert all(go_on([asked(begun, b"0.125\n", 26, CSV)]))

    found = Job.objects.get().summary
    assert (found["rows"], found["last"]) == (3, {"epoch": 2.0, "loss": 0.125})
    assert found["upto_bytes"] == begun.row(CSV).size


def test_a_compressed_chunk_is_unpacked(begun: Run):
    data = b"1,0.5\n" * 1000
    packed = zlib.compress(data, wbits=31)
    ask = asked(begun, packed, 11, Content_Encoding="gzip", X_Raw_Length=len(data),
                X_Chunk_SHA256=sha256(data))  # fmt: skip

    assert all(go_on([ask]))
    assert begun.stored(LOG) == HEAD + data


def test_what_an_attempt_left_behind_grows_beside_the_results(begun: Run):
    earlier = begun.attempt
    earlier.job.requeue()
    earlier.end(Outcome.PREEMPTED, database_now(), then=JobState.QUEUED)
    make.attempt(Job.objects.get(), started=True)
    append.append(begun.target(LOG, earlier.number), append.Delta(HEAD, generation=1, offset=0))

    assert all(go_on([asked(begun, b"late\n", 11)]))

    assert begun.row(LOG).size == 11
    assert SyncFile.objects.get(shelf=earlier.number).size == 16


# --- left as it was ------------------------------------------------------------------------------


def is_left(run: Run, data: bytes = b"1,0.5\n", offset: int = 11, **headers: object) -> bool:
    """Whether such a chunk is left to append(), and no row has moved."""
    before = rows()
    taken = go_on([asked(run, data, offset, **headers)])
    return taken == [None] and rows() == before


def test_a_gap_is_left(begun: Run):
    assert is_left(begun, offset=12)


def test_an_older_version_is_left(begun: Run):
    assert is_left(begun, X_Sync_Generation=0)


def test_a_confirmation_is_left(begun: Run):
    assert is_left(begun, b"x", X_File_SHA256=sha256(HEAD + b"x"))


def test_one_with_a_key_is_left(begun: Run):
    assert is_left(begun, Idempotency_Key="k")


def test_what_has_no_room_is_left(begun: Run, monkeypatch):
    monkeypatch.setattr(room, "free_bytes", lambda: 0)
    assert is_left(begun)


def test_what_is_beyond_the_quota_is_left(begun: Run, settings):
    settings.LAB_QUOTA_RESERVE_BYTES = 0
    Project.objects.update(quota_bytes=1)
    assert is_left(begun)


def test_a_file_of_which_the_disk_lost_bytes_is_left(begun: Run):
    begun.target(LOG).place.path.write_bytes(b"epoch")
    assert is_left(begun)


def test_a_deleted_file_is_left(begun: Run):
    SyncFile.objects.update(complete=True, sha256="0" * 64)
    row = begun.row(LOG)
    trash.put_away(row.job.project, What.CHECKPOINTS, [row], [], database_now())
    assert is_left(begun)


def test_a_run_that_was_deleted_within_the_second_is_left(begun: Run):
    begun.target(LOG)  # remembered
    Job.objects.update(deleted_at=database_now())
    assert is_left(begun)


def test_an_attempt_that_was_given_up_within_the_second_is_left(begun: Run):
    begun.target(LOG)
    give_up(begun)
    assert is_left(begun)


def test_an_attempt_that_is_given_up_at_that_moment_is_left(begun: Run, monkeypatch):
    real = storage.locked

    def overtaken(place, **how):
        give_up(begun)
        return real(place, **how)

    monkeypatch.setattr(storage, "locked", overtaken)
    assert is_left(begun)


def give_up(run: Run) -> None:
    run.attempt.job.requeue()
    run.attempt.end(Outcome.LOST, database_now(), then=JobState.QUEUED)


def test_what_the_disk_refuses_is_left(begun: Run, monkeypatch):
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    assert is_left(begun)


def test_a_row_that_somebody_moved_is_left(begun: Run, monkeypatch):
    real = storage.write_at

    def overtaken(place, offset, data):
        real(place, offset, data)
        SyncFile.objects.filter(name=LOG).update(size=12)

    monkeypatch.setattr(storage, "write_at", overtaken)

    assert go_on([asked(begun, b"1,0.5\n", 11)]) == [None]
    assert begun.row(LOG).size == 12


def rows() -> list[tuple[str, int]]:
    return list(SyncFile.objects.order_by("pk").values_list("name", "size"))


@pytest.mark.parametrize(
    ("offset", "headers"),
    [
        (10, {}),
        (0, {}),
        (11, {"X_Sync_Generation": 2}),
        (11, {"X_Sync_Generation": None}),
        (11, {"X_Sync_Offset": None}),
        (11, {"X_Sync_Offset": "eleven"}),
        (11, {"X_Sync_Attempt": 2}),
        (11, {"X_Chunk_SHA256": sha256(b"y")}),
        (11, {"Content_Encoding": "gzip", "X_Raw_Length": 1}),
        (11, {"Content_Encoding": "br"}),
    ],
)
def test_what_is_not_plain_is_left(begun: Run, offset, headers):
    assert is_left(begun, b"x", offset, **headers)

    assert begun.target(LOG).place.path.read_bytes() == HEAD


@pytest.mark.parametrize("name", ["run_002.log", "../run_001.log", "new.log", "run_001.new.log"])
def test_a_file_that_is_not_there_yet_or_may_not_be_is_left(begun: Run, name):
    assert go_on([asked(begun, b"x", 11, name)]) == [None]


def test_a_stranger_is_left(begun: Run):
    ask = asked(begun, b"x", 11)
    for token in (digest("labd_nobody"), digest("")):
        assert go_on([Asked(token, ask.uid, ask.name, ask.headers, ask.body)]) == [None]

    make.device(gpus=1, token="labd_other", host_id="gpu-02")
    other = Asked(digest("labd_other"), ask.uid, ask.name, ask.headers, ask.body)
    assert go_on([other]) == [None]


def test_another_source_of_curves_is_left(begun: Run):
    name = "run_001/metrics.jsonl"
    begun.delta(b"{}\n", name, generation=1, offset=0)

    assert go_on([asked(begun, b"{}\n", 3, name)]) == [None]


def test_a_file_that_is_written_is_left(begun: Run):
    with storage.locked(begun.target(LOG).place):
        assert go_on([asked(begun, b"x", 11)]) == [None]


def test_of_two_chunks_for_one_file_the_second_is_left(begun: Run):
    first, second = go_on([asked(begun, b"x", 11), asked(begun, b"x", 11)])

    assert first is not None
    assert second is None
    assert begun.stored(LOG) == HEAD + b"x"


def test_one_that_is_left_takes_no_other_with_it(begun: Run):
    refused, taken = go_on([asked(begun, b"x", 5), asked(begun, b"y\n", 11, CSV)])

    assert refused is None
    assert taken is not None
    assert begun.stored(CSV) == HEAD + b"y\n"


def test_bytes_whose_rows_were_not_moved_are_cut_off_by_the_next(begun: Run, monkeypatch):
    def dies(row, **fields):
        raise RuntimeError("the database is gone")

    with monkeypatch.context() as patch:
        patch.setattr(append, "move", dies)
        with pytest.raises(RuntimeError):
            go_on([asked(begun, b"never acknowledged", 11)])

    assert all(go_on([asked(begun, b"x", 11)]))
    assert begun.target(LOG).place.path.read_bytes() == HEAD + b"x"


def test_more_bytes_unmake_the_confirmation(begun: Run):
    begun.delta(b"", LOG, generation=1, offset=11, file_sha256=hashlib.sha256(HEAD).hexdigest())
    assert begun.row(LOG).complete

    assert all(go_on([asked(begun, b"x", 11)]))

    assert (begun.row(LOG).complete, begun.row(LOG).sha256) == (False, "")


def test_whoever_watches_the_file_is_told(begun: Run, monkeypatch):
    told = []
    monkeypatch.setattr(steady.wake, "publish", lambda *what: told.append(what))

    go_on([asked(begun, b"x", 11), asked(begun, b"x", 5, CSV)])

    assert told == [("file", begun.row(LOG).pk, 12)]
