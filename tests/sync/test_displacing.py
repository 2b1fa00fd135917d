"""A file where a folder was, and the reverse: the newer takes the place, the rest is kept."""

import io
import os
from contextlib import suppress

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from experiments.errors import LostRace
from experiments.models import Job, Project
from experiments.states import JobState, Outcome
from labsite.clock import database_now
from sync import append, displacing, status, storage, tasks, upload
from sync.errors import (
    ChecksumDiffers,
    Deleted,
    FileBusy,
    NameTaken,
    OffsetMismatch,
    PlaceTaken,
    QuotaFull,
    StaleGeneration,
    WrongName,
)  # fmt: skip
from sync.intake import note_derived
from sync.models import SyncFile, Trash, TrashState, What
from sync.retention import recount
from tests import make
from tests.faults.disk import Died, Disk
from tests.sync.conftest import Run, sha256

pytestmark = pytest.mark.django_db

FILE, BENEATH, OTHER = "run_001/ckpt", "run_001/ckpt/w.bin", "run_001/ckpt/deep/b.bin"


def names() -> list[str]:
    return sorted(SyncFile.objects.results().values_list("name", flat=True))


def trashed(row: SyncFile) -> bytes:
    name = row.name.rpartition("/")[2]
    return (settings.LAB_LOGS_DIR / ".trash" / str(row.pk) / name).read_bytes()


def check_counted() -> None:
    project = Project.objects.get()
    counted = project.used_bytes
    assert recount(project) == counted


def test_a_folder_takes_the_place_of_a_file(run: Run):
    run.full(b"old", FILE, generation=1)
    was = run.row(FILE)

    run.full(b"weights", BENEATH, generation=2, sha256=sha256(b"weights"))

    assert (names(), run.stored(BENEATH)) == ([BENEATH], b"weights")
    was.refresh_from_db()
    assert (was.trash.what, was.trash.state, was.trash.size) == ("replaced", "kept", 3)
    assert trashed(was) == b"old"
    assert Project.objects.get().used_bytes == len(b"weights")
    check_counted()


def test_a_file_takes_the_place_of_a_folder_and_of_all_that_is_in_it(run: Run):
    run.full(b"one", BENEATH, generation=1)
    run.full(b"two", OTHER, generation=3)

    run.full(b"now a file", FILE, generation=4)

    assert (names(), run.stored(FILE)) == ([FILE], b"now a file")
    assert sorted(trashed(row) for row in Trash.objects.get().files.all()) == [b"one", b"two"]
    check_counted()


def test_a_name_that_only_begins_alike_is_in_nobodys_way(run: Run):
    for name in ("run_001/ckpt2/a.bin", "run_001/CKPT/a.bin", "run_001/ckp", "run_001/ckpt.bin"):
        run.full(b"x", name, generation=7)

    run.full(b"y", FILE, generation=1)

    assert len(names()) == 5
    assert not Trash.objects.exists()


@pytest.mark.parametrize(("before", "after"), [(FILE, BENEATH), (BENEATH, FILE)])
def test_a_delta_takes_the_place_as_well(run: Run, before: str, after: str):
    run.delta(b"abc", before, generation=1, offset=0)

    run.delta(b"def", after, generation=2, offset=0)
    run.delta(b"ghi", after, generation=2, offset=3)

    assert (names(), run.stored(after)) == ([after], b"defghi")


@pytest.mark.parametrize(("before", "after"), [(FILE, BENEATH), (BENEATH, FILE)])
def test_a_file_in_chunks_takes_the_place_with_its_last(run: Run, before: str, after: str):
    run.full(b"old", before, generation=1)

    run.chunk(b"weights", 0, 4, name=after, generation=2)
    assert run.stored(before) == b"old"
    run.chunk(b"weights", 4, 4, name=after, generation=2)

    assert (names(), run.stored(after)) == ([after], b"weights")


def test_there_and_back_again(run: Run):
    """Each takes the place of the one before; none is refused as deleted."""
    for generation in range(1, 7):
        name = (FILE, BENEATH)[generation % 2]
        run.full(b"%d" % generation, name, generation=generation)
        assert (names(), run.stored(name)) == ([name], b"%d" % generation)

    kept = [trashed(row) for row in SyncFile.objects.exclude(trash=None).order_by("pk")]
    assert kept == [b"1", b"2", b"3", b"4", b"5"]
    check_counted()


@pytest.mark.parametrize(("before", "after"), [(FILE, BENEATH), (BENEATH, FILE)])
@pytest.mark.parametrize("generation", [1, 3])
def test_a_version_that_is_not_above_what_is_in_the_way_is_stale(run, before, after, generation):
    """A late request of what was there before."""
    run.full(b"new", before, generation=3)

    for send in (
        lambda: run.full(b"late", after, generation=generation),
        lambda: run.delta(b"late", after, generation=generation, offset=0),
        lambda: run.chunk(b"late", 0, 2, name=after, generation=generation),
    ):
        with pytest.raises(StaleGeneration) as refused:
            send()
        assert refused.value.facts == {"attempt": 1, "generation": 3}

    assert (names(), run.stored(before)) == ([before], b"new")


@pytest.mark.parametrize(("before", "after"), [(FILE, BENEATH), (BENEATH, FILE)])
def test_curl_that_names_no_version_destroys_nothing(run: Run, before: str, after: str):
    run.full(b"precious", before, generation=3)

    for send in (
        lambda: run.full(b"x", after),
        lambda: run.delta(b"x", after),
        lambda: run.chunk(b"xyz", 0, 2, name=after, generation=None),
    ):
        with pytest.raises(NameTaken, match=f"{before} is a file of this run") as refused:
            send()
        assert refused.value.facts == {"file_name": before, "attempt": 1, "generation": 3}

    assert run.stored(before) == b"precious"


def test_a_next_attempt_that_saves_differently_takes_the_place(run: Run):
    run.full(b"old", FILE, generation=9)
    run.attempt.end(Outcome.HOST_REBOOTED, database_now(), then=JobState.QUEUED)
    after = Run(make.attempt(Job.objects.get(), run.attempt.device, started=True))

    after.full(b"new", BENEATH, generation=1)

    assert (names(), after.stored(BENEATH)) == ([BENEATH], b"new")


def test_what_is_left_behind_changes_no_result(run: Run):
    run.full(b"old", FILE, generation=1)
    run.attempt.end(Outcome.LOST, database_now(), then=JobState.QUEUED)

    run.full(b"evidence", BENEATH, generation=5)

    assert names() == [FILE]
    assert not Trash.objects.exists()


def test_what_is_damaged_or_does_not_fit_takes_no_place(run: Run):
    run.full(b"old", FILE, generation=1)
    with pytest.raises(ChecksumDiffers):
        run.full(b"flipped", BENEATH, generation=2, sha256=sha256(b"weights"))
    with pytest.raises(OffsetMismatch):
        run.delta(b"def", BENEATH, generation=2, offset=3)
    Project.objects.update(quota_bytes=3)

    with pytest.raises(QuotaFull):
        run.full(b"four", BENEATH, generation=2)
    assert (names(), run.stored(FILE)) == ([FILE], b"old")

    run.full(b"new", BENEATH, generation=2)
    assert run.stored(BENEATH) == b"new"
    assert os.listdir(settings.LAB_LOGS_DIR / ".uploads") == []


def test_the_status_tells_of_what_is_there(run: Run):
    run.full(b"old", FILE, generation=1)
    run.full(b"new", BENEATH, generation=2)
    said = {"generation": 3, "size_bytes": 10, "acked_bytes": 0}
    run.attempt.files_advertised = {FILE: said}
    run.attempt.files_advertised_at = database_now()
    run.attempt.save()

    now = status.of(Job.objects.get(), database_now())

    assert [file.row.name for file in now.files] == [BENEATH]
    assert now.behind_bytes == 10  # a file once more: it is wanted


def test_what_was_derived_of_it_goes(run: Run):
    run.full(b"a,b\n1,2\n", "run_001/ckpt/t.csv", generation=1)
    run.full(b"weights", "run_001/ckpt/w.pt", generation=1)

    target = run.target("run_001/ckpt/w.pt")
    note_derived(target, append.Stored(run.row(target.name), 0, 0, duplicate=False))
    target = run.target("run_001/ckpt/t.csv")
    note_derived(target, append.Stored(run.row(target.name), 0, 0, duplicate=False))
    job = Job.objects.get()
    assert job.summary["others"]["columns"]
    assert job.resume_point["resume"]

    run.full(b"x", FILE, generation=2)

    job = Job.objects.get()
    assert job.summary["others"]["columns"] == []
    assert "resume" not in job.resume_point


def test_a_crash_leaves_nothing_that_was_derived_of_it(run: Run, monkeypatch):
    for name, data in (("t.csv", b"a,b\n1,2\n"), ("w.pt", b"weights")):
        run.full(data, f"{FILE}/{name}", generation=1)
        row = run.row(f"{FILE}/{name}")
        note_derived(run.target(row.name), append.Stored(row, 0, 0, duplicate=False))
    assert Job.objects.get().resume_point["resume"]

    def dies(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(displacing, "_clear", dies)
        with pytest.raises(KeyboardInterrupt):
            run.full(b"x", FILE, generation=2)
    assert "resume" not in Job.objects.get().resume_point

    run.full(b"x", FILE, generation=2)
    assert Job.objects.get().summary["others"]["columns"] == []


def test_a_link_or_a_file_that_nobody_sent_stays_and_is_refused(run: Run):
    place = run.target(FILE).place.path
    place.parent.mkdir(parents=True)
    place.symlink_to("/etc")
    with pytest.raises(WrongName, match="a manager has to take it away"):
        run.full(b"x", BENEATH, generation=1)
    place.unlink()
    place.write_bytes(b"by hand")
    with pytest.raises(WrongName, match="a manager has to take it away"):
        run.delta(b"x", BENEATH, generation=2, offset=0)
    assert place.read_bytes() == b"by hand"

    place.unlink()
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "mine.txt").write_bytes(b"by hand")
    with pytest.raises(WrongName):
        run.full(b"x", FILE, generation=3)
    assert (place / "deep" / "mine.txt").exists()


def test_empty_folders_and_what_a_killed_server_received_are_in_nobodys_way(run: Run):
    place = run.target(FILE).place.path
    (place / "deep" / "er").mkdir(parents=True)
    (place / ".w.bin.0123456789ab.part").write_bytes(b"half")

    run.full(b"x", FILE, generation=1)

    assert run.stored(FILE) == b"x"


def test_a_file_on_its_way_into_the_folder_is_waited_for(run: Run):
    run.full(b"one", BENEATH, generation=1)
    with storage.incoming(run.target(OTHER).place), pytest.raises(FileBusy):
        run.full(b"x", FILE, generation=2)

    run.full(b"x", FILE, generation=2)
    assert run.stored(FILE) == b"x"


def test_two_that_cannot_be_beside_each_other_begin_at_one_moment(run: Run):
    """They hold different locks: whoever comes second begins anew."""
    run.full(b"x", FILE, generation=1)

    with pytest.raises(LostRace):
        displacing.new_row(run.target(BENEATH), 9)

    assert names() == [FILE]


def test_what_is_written_meanwhile_is_not_displaced_unseen(run: Run, monkeypatch):
    run.delta(b"abc", FILE, generation=1, offset=0)
    laid = storage.lay_beside

    def and_it_grows(*args, **how):
        laid(*args, **how)
        monkeypatch.setattr(storage, "lay_beside", laid)
        row = run.row(FILE)
        storage.write_at(run.target(FILE).place, 3, b"def")
        append.change(row, size=6)

    monkeypatch.setattr(storage, "lay_beside", and_it_grows)
    with pytest.raises(LostRace):
        run.full(b"new", BENEATH, generation=2)
    assert run.stored(FILE) == b"abcdef"

    run.full(b"new", BENEATH, generation=2)

    assert trashed(SyncFile.objects.exclude(trash=None).get()) == b"abcdef"


def test_what_is_replaced_meanwhile_is_kept_as_it_then_is(run: Run, monkeypatch):
    run.full(b"one", FILE, generation=1)
    check = displacing.check_still

    def and_it_is_replaced(target):
        monkeypatch.setattr(displacing, "check_still", check)
        run.full(b"two", FILE, generation=2)
        check(target)

    monkeypatch.setattr(displacing, "check_still", and_it_is_replaced)
    with pytest.raises(LostRace):
        run.full(b"new", BENEATH, generation=3)

    run.full(b"new", BENEATH, generation=3)

    assert trashed(SyncFile.objects.exclude(trash=None).get()) == b"two"


def test_a_file_that_took_the_place_meanwhile_is_not_cleared_away(run: Run):
    run.full(b"old", BENEATH, generation=1)
    run.full(b"new", FILE, generation=2)
    run.full(b"newest", BENEATH, generation=3)

    with pytest.raises(LostRace):
        displacing._take_away(run.target(FILE), BENEATH)

    assert run.stored(BENEATH) == b"newest"


def test_an_attempt_that_is_given_up_at_that_moment_displaces_nothing(run: Run):
    run.full(b"old", FILE, generation=1)
    as_it_was = run.target(BENEATH)
    run.attempt.end(Outcome.HOST_REBOOTED, database_now(), then=JobState.QUEUED)
    make.attempt(Job.objects.get(), run.attempt.device)

    with pytest.raises(LostRace):
        append.append(as_it_was, append.Delta(b"x", generation=2, offset=0))

    assert names() == [FILE]


def test_a_late_chunk_of_what_lost_its_place_changes_nothing(run: Run):
    run.delta(b"abc", "run_001/ckpt.log", generation=1, offset=0)
    run.full(b"new", "run_001/ckpt.log/w.bin", generation=2)

    with pytest.raises(StaleGeneration):
        run.delta(b"abc", "run_001/ckpt.log", generation=1, offset=0)
    with pytest.raises(OffsetMismatch):
        run.delta(b"def", "run_001/ckpt.log", generation=1, offset=3)

    assert names() == ["run_001/ckpt.log/w.bin"]


def test_earlier_versions_go_along(run: Run):
    log, beneath = "run_001/ckpt.log", "run_001/ckpt.log/w.bin"
    run.delta(b"first", log, generation=1, offset=0)
    run.delta(b"second", log, generation=2, offset=0)

    run.full(b"new", beneath, generation=3)

    row = SyncFile.objects.exclude(trash=None).get()
    kept = settings.LAB_LOGS_DIR / ".trash" / str(row.pk)
    assert sorted(path.read_bytes() for path in kept.iterdir()) == [b"first", b"second"]
    folder = settings.LAB_LOGS_DIR / "digits" / "run_001"
    assert [path.name for path in folder.iterdir()] == ["ckpt.log"]
    check_counted()


# --- the trash -----------------------------------------------------------------------------------


def test_it_is_not_restored_into_the_place_of_the_newer(run: Run):
    run.full(b"old", FILE, generation=1)
    run.full(b"new", BENEATH, generation=2)

    with pytest.raises(PlaceTaken, match=r"w\.bin"):
        Trash.objects.get().restore(database_now())

    assert Trash.objects.get().state == TrashState.KEPT


@pytest.mark.parametrize(("before", "after"), [(FILE, BENEATH), (BENEATH, FILE)])
def test_nor_is_what_a_person_deleted(run: Run, before: str, after: str):
    run.full(b"old", before, generation=1)
    thrown, _ = delete(run, before)
    tasks.tidy()
    run.full(b"new", after, generation=2)

    with pytest.raises(PlaceTaken, match=after):
        thrown.restore(database_now())
    with pytest.raises(CommandError, match=f"“{after}” has taken the place of this"):
        call_command("projects", "restore", str(thrown.pk))

    assert Trash.objects.get(pk=thrown.pk).state == TrashState.KEPT


def test_nor_what_was_replaced_where_its_name_came_again(run: Run):
    for generation in (1, 2, 3):
        run.full(b"%d" % generation, (FILE, BENEATH)[generation % 2 == 0], generation=generation)
    first = Trash.objects.order_by("pk").first()
    delete(run, FILE)  # the row that has the name by now, though its bytes go

    with pytest.raises(PlaceTaken, match=FILE):
        first.restore(database_now())


def many(run: Run, count: int) -> None:
    one = {"job": run.attempt.job, "attempt": 1, "generation": 1, "synced_at": database_now()}
    names = (f"{FILE}/{number}.png" for number in range(count))
    SyncFile.objects.bulk_create(SyncFile(name=name, **one) for name in names)


def test_a_folder_of_many_files_is_marked_and_restored_by_few_queries(run: Run, monkeypatch):
    many(run, 25)
    monkeypatch.setattr(displacing, "_AT_ONCE", 10)

    with CaptureQueriesContext(connection) as queries:
        run.full(b"now a file", FILE, generation=2)
    marked = [query for query in queries if "displaced" in query["sql"].partition("WHERE")[0]]
    assert sum(query["sql"].startswith("UPDATE") for query in marked) == 3
    trash = Trash.objects.get()
    assert trash.files.exclude(displaced=0).count() == 25

    with CaptureQueriesContext(connection) as queries, pytest.raises(PlaceTaken):
        trash.restore(database_now())
    assert len(queries) <= 4
    delete(run, FILE)
    with CaptureQueriesContext(connection) as queries:
        trash.restore(database_now())
    assert len(queries) <= 12


def test_it_is_restored_once_the_newer_is_deleted(run: Run):
    run.full(b"old", FILE, generation=1)
    run.full(b"new", BENEATH, generation=2)
    newer = run.row(BENEATH)
    thrown = Trash.objects.create(
        project=run.attempt.job.project, what=What.CHECKPOINTS, state=TrashState.FILLING,
        made_at=database_now(), changed_at=database_now(),
    )  # fmt: skip
    SyncFile.objects.filter(pk=newer.pk).update(trash=thrown)
    tasks.tidy()

    Trash.objects.get(what=What.REPLACED).restore(database_now())
    tasks.tidy()

    assert (names(), run.stored(FILE)) == ([FILE], b"old")
    assert run.row(FILE).displaced == 0

    thrown.refresh_from_db()
    thrown._turn(TrashState.RESTORING, database_now(), None)  # as if FILE had come just then
    tasks.tidy()
    tasks.tidy()
    thrown.refresh_from_db()
    assert (thrown.state, names()) == (TrashState.KEPT, [FILE])
    assert trashed(newer) == b"new"


def test_removing_it_for_good_leaves_the_newer_of_its_name(run: Run):
    for generation in (1, 2, 3):
        run.full(b"%d" % generation, (FILE, BENEATH)[generation % 2 == 0], generation=generation)

    for row in Trash.objects.all():
        row.empty(database_now())
    tasks.tidy()

    assert (names(), run.stored(FILE)) == ([FILE], b"3")
    assert not list((settings.LAB_LOGS_DIR / ".trash").iterdir())


def test_a_deleted_file_is_in_nobodys_way_and_stays_unwanted(run: Run):
    run.full(b"old", BENEATH, generation=1)
    thrown = Trash.objects.create(
        project=run.attempt.job.project, what=What.CHECKPOINTS, state=TrashState.FILLING,
        made_at=database_now(), changed_at=database_now(),
    )  # fmt: skip
    row = run.row(BENEATH)
    SyncFile.objects.filter(pk=row.pk).update(trash=thrown)

    run.full(b"a file", FILE, generation=2)  # before its bytes were moved

    assert (run.stored(FILE), trashed(row)) == (b"a file", b"old")
    with pytest.raises(Deleted):
        run.full(b"again", BENEATH, generation=3)


# --- what it takes to ask ------------------------------------------------------------------------


def asked_of_the_way(queries: CaptureQueriesContext) -> int:
    return sum("UNION ALL" in query["sql"] for query in queries)


def test_what_is_in_the_way_is_found_by_an_index(run: Run):
    files = SyncFile.objects.in_the_way_of(run.attempt.job, 0, FILE)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
        assert "sync_file_by_bytes" in files.explain()
    else:
        assert "name>? AND name<?" in files.explain()


def test_a_small_file_asks_twice_what_is_in_its_way(run: Run):
    """As its request comes, and as its row is begun; once it has one, nothing is asked."""
    target = run.target(BENEATH)
    with CaptureQueriesContext(connection) as queries:
        upload.store(target, io.BytesIO(b"x"), upload.Whole(1))
    assert (asked_of_the_way(queries), len(queries) <= 20) == (2, True)

    with CaptureQueriesContext(connection) as queries:
        run.full(b"y", BENEATH, generation=2)
        run.full(b"x", "run_001.pt", generation=1)
    assert asked_of_the_way(queries) == 0


def test_a_chunk_in_the_middle_asks_nothing_of_what_is_in_its_way(run: Run):
    Project.objects.update(quota_bytes=100)
    run.chunk(b"weights", 0, 2, name=BENEATH)
    with CaptureQueriesContext(connection) as queries:
        run.chunk(b"weights", 2, 2, name=BENEATH)
    assert (asked_of_the_way(queries), len(queries) <= 20) == (0, True)


def test_but_what_goes_for_it_makes_room_in_the_quota_for_each_chunk(run: Run):
    run.full(b"oldest!", FILE, generation=1)
    Project.objects.update(quota_bytes=7)

    run.chunk(b"weights", 0, 3, name=BENEATH, generation=2)
    run.chunk(b"weights", 3, 3, name=BENEATH, generation=2)
    run.chunk(b"weights", 6, 1, name=BENEATH, generation=2)

    assert run.stored(BENEATH) == b"weights"


def delete(run: Run, name: str) -> tuple[Trash, SyncFile]:
    """As a person does; its bytes have yet to follow."""
    thrown = Trash.objects.create(
        project=run.attempt.job.project, what=What.CHECKPOINTS, state=TrashState.FILLING,
        made_at=database_now(), changed_at=database_now(),
    )  # fmt: skip
    row = run.row(name)
    SyncFile.objects.filter(pk=row.pk).update(trash=thrown)
    return thrown, row


def test_the_folder_where_a_deleted_file_was_is_not_taken_for_that_file(run: Run):
    run.full(b"old", FILE, generation=1)
    thrown, row = delete(run, FILE)

    run.full(b"new", BENEATH, generation=2)
    tasks.tidy()

    thrown.refresh_from_db()
    assert (thrown.state, trashed(row), run.stored(BENEATH)) == (TrashState.KEPT, b"old", b"new")


def test_nor_where_that_files_bytes_were_lost(run: Run):
    run.full(b"old", FILE, generation=1)
    thrown, _ = delete(run, FILE)
    run.target(FILE).place.path.unlink()
    tasks.tidy()
    run.full(b"new", BENEATH, generation=2)

    thrown.refresh_from_db()
    thrown.empty(database_now())
    tasks.tidy()

    thrown.refresh_from_db()
    assert (thrown.state, run.stored(BENEATH)) == (TrashState.EMPTIED, b"new")


def test_a_folder_that_is_called_as_an_earlier_version_stays(run: Run):
    run.delta(b"one", "run_001/a.log", generation=2, offset=0)
    thrown, row = delete(run, "run_001/a.log")
    mine = run.target("run_001/a.log").place.path.with_name("a.log.g1") / "mine.txt"
    mine.parent.mkdir()
    mine.write_bytes(b"by hand")

    tasks.tidy()

    thrown.refresh_from_db()
    assert (thrown.state, trashed(row)) == (TrashState.KEPT, b"one")
    assert mine.read_bytes() == b"by hand"


def test_a_folder_that_nobody_sent_is_not_moved(run: Run):
    mine = run.target(FILE).place.path / "deep" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"by hand")
    with pytest.raises(WrongName):
        run.full(b"x", FILE, generation=3)

    run.full(b"new", BENEATH, generation=4)
    tasks.tidy()

    assert (mine.read_bytes(), run.stored(BENEATH)) == (b"by hand", b"new")


def test_of_what_a_run_replaces_again_and_again_the_newest_are_kept(run: Run, settings):
    settings.LAB_KEEP_VERSIONS = 2
    other = Run(make.attempt(make.job(), run.attempt.device, started=True))
    for generation, name in enumerate(("run_002/ckpt", "run_002/ckpt/w.bin"), 1):
        other.full(b"other", name, generation=generation)

    for generation in range(1, 7):
        name = (FILE, BENEATH)[generation % 2]
        run.full(b"%d" % generation, name, generation=generation)
    tasks.tidy()

    states = [one.state for one in Trash.objects.order_by("pk")]
    assert states == ["kept", "emptied", "emptied", "emptied", "kept", "kept"]
    kept = SyncFile.objects.filter(trash__state=TrashState.KEPT).order_by("pk")
    assert [trashed(row) for row in kept] == [b"other", b"4", b"5"]
    assert len(list((settings.LAB_LOGS_DIR / ".trash").iterdir())) == 3
    check_counted()


# --- crashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_at_any_point_loses_neither(run: Run, monkeypatch, power):
    disk = Disk(settings.LAB_LOGS_DIR)
    monkeypatch.setattr(storage, "os", disk)
    generation, survived = 1, 0
    for point in range(200):
        before, after = (FILE, BENEATH) if point % 2 else (BENEATH, FILE)
        SyncFile.objects.all().delete()
        disk.on_point = lambda at: None
        run.full(b"old%d" % point, before, generation=generation)
        generation += 1
        left = [point]

        def dies(at: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                disk.dead = True
                raise Died(at)

        disk.on_point = dies
        with suppress(Died):
            run.full(b"new%d" % point, after, generation=generation)
            survived += 1
        disk.dead, disk.on_point = False, lambda at: None
        if power:
            disk.lose_power(lambda: False)
        kept = SyncFile.objects.get(name=before)
        if kept.trash is None:
            assert run.stored(before) == b"old%d" % point
        else:
            assert trashed(kept) == b"old%d" % point
        run.full(b"new%d" % point, after, generation=generation)
        assert (names(), run.stored(after)) == ([after], b"new%d" % point)
        assert trashed(SyncFile.objects.get(name=before)) == b"old%d" % point
        generation += 1
        if survived > 1:
            break
    assert survived > 1
