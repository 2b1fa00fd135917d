"""A whole file in chunks: it goes on where it was, and takes its place whole or not at all."""

import os
import threading
from contextlib import suppress

import pytest
from django.conf import settings
from django.db import connections

from experiments.errors import LostRace
from experiments.states import Outcome
from labsite.clock import database_now
from labsite.errors import BadRequest, Refused, TooLarge
from sync import chunks, storage, upload
from sync.chunks import Progress
from sync.errors import (
    ChecksumDiffers,
    Diverged,
    FileBusy,
    OffsetMismatch,
    StaleGeneration,
)
from sync.models import SyncFile, Upload
from tests import make
from tests.sync.conftest import Run, sha256

pytestmark = pytest.mark.django_db
WHOLE = b"0123456789"
OTHER = b"abcdefghij"


@pytest.fixture(autouse=True)
def _no_digests(monkeypatch):
    """As after a restart; what is remembered of a whole is a matter of one test."""
    monkeypatch.setattr(chunks, "_digests", chunks._Digests())


def parts() -> list[str]:
    folder = settings.LAB_LOGS_DIR / storage.UPLOADS
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# --- how far it is -------------------------------------------------------------------------------


def test_a_file_arrives_in_chunks_and_is_seen_only_when_it_is_whole(run: Run):
    first = run.chunk(WHOLE, 0, 4)
    assert isinstance(first, Progress)
    assert (first.acked, first.facts["size_bytes"], first.facts["complete"]) == (4, 4, False)
    assert not SyncFile.objects.exists()
    assert not run.target("run_001.pt").place.path.exists()

    last = run.chunk(WHOLE, 4, 6)

    assert (last.acked, last.row.complete, last.row.sha256) == (10, True, sha256(WHOLE))
    assert run.stored("run_001.pt") == WHOLE
    assert parts() == []
    assert not Upload.objects.exists()


def test_an_empty_file_is_a_file(run: Run):
    run.chunk(b"", 0, 0)

    assert run.stored("run_001.pt") == b""
    assert run.row("run_001.pt").complete


@pytest.mark.parametrize("at", [0, 4])
def test_a_chunk_that_comes_twice_is_stored_once(run: Run, at):
    run.chunk(WHOLE, 0, 4)
    run.chunk(WHOLE, 4, 2)

    again = run.chunk(WHOLE, at, 2)

    assert (again.duplicate, again.acked, again.facts["size_bytes"]) == (True, at + 2, 6)
    assert run.chunk(WHOLE, 5, 5).row.complete  # an overlap adds what is new
    assert run.stored("run_001.pt") == WHOLE


def test_the_last_chunk_that_comes_twice_is_told_that_it_is_done(run: Run):
    run.chunk(WHOLE, 0, 4)
    run.chunk(WHOLE, 4, 6)
    before = run.target("run_001.pt").place.path.stat()

    again = run.chunk(WHOLE, 4, 6)

    assert (again.duplicate, again.acked, again.row.complete) == (True, 10, True)
    assert run.target("run_001.pt").place.path.stat() == before


def test_a_next_attempt_sends_one_chunk_of_what_it_was_given_to_go_on_from(run: Run):
    run.chunk(WHOLE, 0, 10)
    run.attempt.end(Outcome.HOST_REBOOTED, database_now())
    make.attempt(run.attempt.job, run.attempt.device, started=True)

    stored = run.chunk(WHOLE, 0, 4, upload_id="u2", number=2)

    assert (stored.duplicate, stored.facts["complete"], stored.acked) == (True, True, 4)
    row = run.row("run_001.pt")
    assert (row.version, row.complete, row.sha256) == ((2, 1), True, sha256(WHOLE))


def test_a_gap_and_other_bytes_are_refused_with_where_to_go_on(run: Run):
    run.chunk(WHOLE, 0, 4)

    with pytest.raises(OffsetMismatch) as gap:
        run.chunk(WHOLE, 5, 2)
    said = chunks.Chunk(b"0X2", "u1", len(WHOLE), sha256(WHOLE), 0, generation=1)
    with pytest.raises(Diverged) as other:
        chunks.receive(run.target("run_001.pt"), said)

    assert gap.value.facts["expected_offset"] == other.value.facts["expected_offset"] == 4


def test_an_upload_begins_at_zero(run: Run):
    with pytest.raises(OffsetMismatch) as refused:
        run.chunk(WHOLE, 4, 2)

    assert refused.value.facts == {"expected_offset": 0}
    assert not Upload.objects.exists()


def test_who_asks_is_told_where_to_go_on(run: Run):
    def asks(upload_id: str, whole: bytes = WHOLE) -> int | None:
        return chunks.offset_of(run.target("run_001.pt"), upload_id, sha256(whole), 1)

    assert asks("u1") is None
    run.chunk(WHOLE, 0, 4)
    assert (asks("u1"), asks("u2")) == (4, None)
    run.chunk(WHOLE, 4, 6)
    assert (asks("u1"), asks("u1", OTHER)) == (10, None)


# --- versions ------------------------------------------------------------------------------------


def test_a_newer_version_takes_the_place_of_one_that_is_on_its_way(run: Run):
    run.chunk(WHOLE, 0, 4)
    run.chunk(OTHER, 0, 4, upload_id="u2", generation=2)

    with pytest.raises(StaleGeneration) as late:
        run.chunk(WHOLE, 4, 6)
    run.chunk(OTHER, 4, 6, upload_id="u2", generation=2)

    assert late.value.facts == {"attempt": 1, "generation": 2}
    assert run.stored("run_001.pt") == OTHER
    assert parts() == []


def test_a_late_last_chunk_of_an_older_version_does_not_take_the_place_of_a_newer(run: Run):
    run.chunk(WHOLE, 0, 4)
    run.full(OTHER, generation=2)

    with pytest.raises(StaleGeneration):
        run.chunk(WHOLE, 4, 6)

    assert (run.stored("run_001.pt"), run.row("run_001.pt").generation) == (OTHER, 2)


def test_nor_does_one_that_was_overtaken_while_it_was_hashed(run: Run, monkeypatch):
    run.chunk(WHOLE, 0, 4)
    hashed = chunks._sha256_of

    def meanwhile(upload: Upload) -> str:
        run.full(OTHER, generation=2)
        return hashed(upload)

    monkeypatch.setattr(chunks, "_sha256_of", meanwhile)

    with pytest.raises(StaleGeneration):
        run.chunk(WHOLE, 4, 6)

    assert run.stored("run_001.pt") == OTHER


def test_an_attempt_that_is_given_up_while_its_file_is_hashed_changes_no_result(
    run: Run, monkeypatch
):
    run.full(OTHER, generation=1)
    run.chunk(WHOLE, 0, 4, generation=2)
    hashed = chunks._sha256_of

    def meanwhile(upload: Upload) -> str:
        run.attempt.end(Outcome.HOST_REBOOTED, database_now())
        make.attempt(run.attempt.job, run.attempt.device, started=True)
        return hashed(upload)

    monkeypatch.setattr(chunks, "_sha256_of", meanwhile)

    with pytest.raises(LostRace):
        run.chunk(WHOLE, 4, 6, generation=2)

    assert run.stored("run_001.pt") == OTHER


def test_the_same_bytes_that_came_by_another_way_meanwhile_leave_nothing_behind(
    run: Run, monkeypatch
):
    run.chunk(WHOLE, 0, 4)
    hashed = chunks._sha256_of
    monkeypatch.setattr(chunks, "_sha256_of", lambda one: run.full(WHOLE) and hashed(one))

    last = run.chunk(WHOLE, 4, 6)

    assert (last.duplicate, last.acked, parts()) == (True, 10, [])
    assert not Upload.objects.exists()


def test_chunks_without_a_number_replace_what_is_there(run: Run):
    run.full(OTHER, generation=3)
    run.chunk(WHOLE, 0, 4, generation=None)
    run.chunk(WHOLE, 4, 6, generation=None)

    assert (run.stored("run_001.pt"), run.row("run_001.pt").generation) == (WHOLE, 3)


def test_a_rewritten_csv_is_laid_aside_as_ever(run: Run):
    run.delta(b"a\n1\n", generation=1, offset=0)
    run.chunk(b"a,b\n1,2\n", 0, 3, generation=2, name="run_001.csv")
    run.chunk(b"a,b\n1,2\n", 3, 5, generation=2, name="run_001.csv")

    kept = run.target().place.path.with_name("run_001.csv.g1")
    assert (kept.read_bytes(), run.stored()) == (b"a\n1\n", b"a,b\n1,2\n")


def test_an_attempt_that_was_given_up_fills_its_own_shelf(run: Run):
    run.chunk(WHOLE, 0, 4)
    run.attempt.end(Outcome.HOST_REBOOTED, database_now())
    make.attempt(run.attempt.job, run.attempt.device, started=True)

    with pytest.raises(OffsetMismatch):  # evidence begins anew, beside the results
        run.chunk(WHOLE, 4, 6, number=1)
    run.chunk(WHOLE, 0, 10, number=1)

    assert not SyncFile.objects.results().exists()
    assert SyncFile.objects.get().shelf == 1


# --- what may go wrong ---------------------------------------------------------------------------


def test_chunks_that_are_not_the_file_begin_anew(run: Run):
    def send(data: bytes, offset: int):
        said = chunks.Chunk(data, "u1", len(WHOLE), sha256(WHOLE), offset, generation=1)
        return chunks.receive(run.target("run_001.pt"), said)

    send(b"0X23", 0)
    with pytest.raises(ChecksumDiffers):
        send(WHOLE[4:], 4)
    assert not SyncFile.objects.exists()
    assert chunks.offset_of(run.target("run_001.pt"), "u1", sha256(WHOLE), 1) == 0

    send(WHOLE, 0)

    assert run.stored("run_001.pt") == WHOLE


def test_the_whole_is_hashed_as_it_lies_on_the_disk_after_a_restart(run: Run, monkeypatch):
    run.chunk(WHOLE, 0, 4)
    monkeypatch.setattr(chunks, "_digests", chunks._Digests())

    assert run.chunk(WHOLE, 4, 6).row.complete


def test_the_whole_is_not_read_again_by_the_process_that_received_it(run: Run, monkeypatch):
    monkeypatch.setattr(storage, "sha256_of", lambda *_: pytest.fail("it was read again"))
    run.chunk(WHOLE, 0, 4)

    assert run.chunk(WHOLE, 4, 6).row.complete


def test_a_hash_is_of_no_use_once_another_process_went_on(run: Run, monkeypatch):
    run.chunk(WHOLE, 0, 4)
    ours = chunks._digests
    monkeypatch.setattr(chunks, "_digests", chunks._Digests())
    run.chunk(WHOLE, 4, 2)
    monkeypatch.setattr(chunks, "_digests", ours)

    assert run.chunk(WHOLE, 6, 4).row.complete
    assert run.stored("run_001.pt") == WHOLE


def test_bytes_that_were_never_acknowledged_are_cut_off(run: Run, monkeypatch):
    """The server dies after the bytes are written, before the row says so."""
    run.chunk(WHOLE, 0, 4)
    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(chunks, "_move", die)
        run.chunk(WHOLE, 4, 4)
    [number] = storage.upload_numbers()
    assert storage.size_of(storage.upload_place(number)) == 8

    with pytest.raises(OffsetMismatch):
        run.chunk(WHOLE, 8, 2)
    run.chunk(WHOLE, 4, 1)
    assert storage.size_of(storage.upload_place(number)) == 5
    run.chunk(WHOLE, 5, 5)
    assert run.stored("run_001.pt") == WHOLE


def die(*_args, **_fields):
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["change", "Upload.delete"])
def test_a_server_killed_while_the_file_takes_its_place_takes_it_again(
    run: Run, monkeypatch, where
):
    run.full(OTHER, generation=1)
    run.chunk(WHOLE, 0, 4, generation=2)
    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        if where == "change":
            patched.setattr(upload, "change", die)
        else:
            patched.setattr(Upload, "delete", die)
        run.chunk(WHOLE, 4, 6, generation=2)

    offset = chunks.offset_of(run.target("run_001.pt"), "u1", sha256(WHOLE), 2) or 0
    run.chunk(WHOLE, offset, 10, generation=2)

    assert (run.stored("run_001.pt"), run.row("run_001.pt").generation) == (WHOLE, 2)
    assert parts() == []


def test_bytes_that_the_disk_lost_are_asked_for_again(run: Run):
    run.chunk(WHOLE, 0, 6)
    [number] = storage.upload_numbers()
    os.truncate(storage.upload_place(number).path, 2)

    assert chunks.offset_of(run.target("run_001.pt"), "u1", sha256(WHOLE), 1) == 2
    with pytest.raises(OffsetMismatch) as refused:
        run.chunk(WHOLE, 6, 4)
    assert refused.value.facts["expected_offset"] == 2
    run.chunk(WHOLE, 2, 8)
    assert run.stored("run_001.pt") == WHOLE


def test_a_symlink_in_the_place_of_an_upload_leads_nowhere(run: Run, tmp_path):
    run.chunk(WHOLE, 0, 4)
    [number] = storage.upload_numbers()
    victim = tmp_path / "victim"
    victim.write_bytes(b"theirs")
    path = storage.upload_place(number).path
    path.unlink()
    path.symlink_to(victim)

    with pytest.raises(Refused):
        run.chunk(WHOLE, 4, 2)
    assert victim.read_bytes() == b"theirs"


def test_a_chunk_beyond_the_file_and_a_file_beyond_the_limit_are_refused(run: Run, settings):
    with pytest.raises(BadRequest):
        chunks.receive(run.target("run_001.pt"), chunks.Chunk(b"0123", "u1", 3, sha256(b"012"), 0))
    settings.LAB_MAX_FILE_BYTES = 9
    with pytest.raises(TooLarge) as refused:
        run.chunk(WHOLE, 0, 4)

    assert refused.value.facts == {"limit": 9}
    assert not Upload.objects.exists()


# --- several at once -----------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_two_workers_that_send_the_same_file_store_it_once(run: Run):
    whole = os.urandom(64 * 1024)
    target = run.target("run_001.pt")
    errors: list[Exception] = []

    def work() -> None:
        offset = 0
        try:
            while True:
                data = whole[offset : offset + 4096]
                said = chunks.Chunk(data, "u1", len(whole), sha256(whole), offset, generation=1)
                result = chunks.receive(target, said)
                if not isinstance(result, Progress):
                    return
                offset = result.acked
        except Exception as exc:
            errors.append(exc)
        finally:
            connections.close_all()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    assert [error for error in errors if not getattr(error, "retryable", False)] == []
    assert run.stored("run_001.pt") == whole
    assert parts() == []


def test_an_upload_has_one_writer(run: Run, monkeypatch):
    monkeypatch.setattr(storage, "LOCK_SECONDS", 0.05)
    place = run.target("run_001.pt").place

    with storage.locked(place, kind=chunks._LOCK), pytest.raises(FileBusy):
        run.chunk(WHOLE, 0, 4)
    with storage.locked(place):
        run.chunk(WHOLE, 0, 4)  # who hashes a large file holds up no delta, and the reverse
