"""What is deleted: gone at once for everybody, restorable for a while, then gone for good."""

import io
import time
from datetime import timedelta

import pytest
from django.conf import settings

from experiments import submission
from experiments.errors import IllegalTransition, LostRace, NotSubmitted
from experiments.models import Job, JobEvent, Project
from experiments.states import Outcome
from labsite.clock import database_now
from sync import (
    append,
    freeing,
    ownership,
    resume,
    retention,
    status,
    storage,
    tasks,
    trash,
    upload,
)
from sync.errors import Deleted, NotInTrash, PlanChanged
from sync.freeing import Rule
from sync.models import SyncFile, Trash, TrashState, What
from sync.status import SyncState
from tests import make
from tests.sync.conftest import Run, sha256

pytestmark = pytest.mark.django_db
ROWS, NEWER = b"epoch,loss\n0,0.5\n", b"epoch,loss,acc\n0,0.5,0.9\n"


@pytest.fixture
def done(run: Run) -> Run:
    """A run that has ended and has arrived: two versions of a CSV, three checkpoints."""
    run.delta(ROWS, generation=1, offset=0)
    run.delta(NEWER, generation=2, offset=0, file_sha256=sha256(NEWER))
    run.full(b"newest")
    run.full(b"old", name="run_001/epoch1.pt", source_mtime=1)
    run.full(b"last", name="run_001/epoch9.ckpt", source_mtime=9)
    run.full(b"good", name="run_001/best_model.pt", source_mtime=2)
    run.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    return run


def taken() -> int:
    """What the project takes, which must be what its files say."""
    project = Project.objects.get()
    before = project.used_bytes
    assert retention.recount(project) == before
    return before


def on_disk() -> dict[str, bytes]:
    """Every file of a run below the logs folder, wherever it lies."""
    root = settings.LAB_LOGS_DIR
    paths = (path for path in root.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def rewind(**fields: timedelta) -> None:
    Trash.objects.update(**{name: database_now() - ago for name, ago in fields.items()})


# --- a run ---------------------------------------------------------------------------------------


def test_a_deleted_run_is_refused_at_once_and_its_bytes_follow(done: Run):
    job, before = done.attempt.job, on_disk()
    ann = make.user("ann")

    job.delete_run(database_now(), by=ann)

    with pytest.raises(Deleted):
        done.target()
    tasks.tidy()
    assert not [path for path in on_disk() if path.startswith("digits/")]
    assert sorted(on_disk().values()) == sorted(before.values())
    gone = Trash.objects.get()
    assert (gone.what, gone.state, gone.by, gone.runs) == (What.RUN, TrashState.KEPT, ann, 1)
    assert (gone.file_count, gone.size) == (5, sum(map(len, before.values())))
    assert taken() == 0


def test_a_restored_run_has_the_same_bytes_in_the_same_places(done: Run):
    job, before, used = done.attempt.job, on_disk(), taken()
    rows = list(SyncFile.objects.order_by("pk").values())
    job.delete_run(database_now())
    tasks.tidy()

    Trash.objects.get().restore(database_now())
    tasks.tidy()

    assert on_disk() == before
    assert list(SyncFile.objects.order_by("pk").values()) == rows
    job.refresh_from_db()
    assert job.deleted_at is None
    assert Trash.objects.get().state == TrashState.RESTORED
    assert taken() == used
    kinds = JobEvent.objects.filter(job=job).values_list("kind", flat=True)
    assert list(kinds)[-2:] == ["deleted", "restored"]


def test_after_thirty_days_it_is_gone_for_good_and_its_number_is_not_given_again(done: Run):
    done.attempt.job.delete_run(database_now())
    tasks.tidy()
    rewind(made_at=timedelta(days=29))
    tasks.tidy()
    assert on_disk()

    rewind(made_at=timedelta(days=31))
    tasks.tidy()

    assert on_disk() == {}
    assert Trash.objects.get().state == TrashState.EMPTIED
    with pytest.raises(NotInTrash):
        Trash.objects.get().restore(database_now())
    with pytest.raises(Deleted):
        done.target()
    assert make.job().run_name == "run_002"
    tasks.tidy()
    assert Trash.objects.count() == 1


def test_what_is_deleted_again_after_it_was_restored_goes_again(done: Run):
    job = done.attempt.job
    for _ in range(2):
        job.delete_run(database_now())
        tasks.tidy()
        Trash.objects.first().restore(database_now())
        tasks.tidy()
        job.refresh_from_db()

    assert [one.state for one in Trash.objects.all()] == [TrashState.RESTORED] * 2
    assert done.stored() == NEWER


def test_a_run_that_another_is_to_go_on_from_is_not_deleted(done: Run):
    done.full(b"resumable")
    job = Job.objects.get()
    resume.note_files(job)
    child = Job.objects.submit(_spec(job), project="digits", parent=job, resume=True)

    with pytest.raises(IllegalTransition):
        job.delete_run(database_now())
    found = freeing.plan(job.project, Rule(What.ALL), database_now())
    assert found.is_empty

    child.cancel()
    seen_before = Job.objects.get(pk=job.pk)
    job.delete_run(database_now())
    with pytest.raises(NotSubmitted):
        Job.objects.submit(_spec(job), project="digits", parent=seen_before, resume=True)
    with pytest.raises(NotSubmitted):
        child.handed_on(3)  # from a checkpoint of a run that is deleted


def _spec(job: Job):
    return submission.read("", {"project": job.project.name, "command": ["x"]})


# --- crashes, and what happens at the same time --------------------------------------------------


def test_what_was_cut_off_at_any_file_is_brought_to_its_end(done: Run, monkeypatch):
    before = on_disk()
    real = storage.lay_away
    done.attempt.job.delete_run(database_now())

    for stop_after in range(5):
        moves = iter(range(stop_after))

        def cut(place, number, *, versions, moves=moves):
            if next(moves, None) is None:
                raise KeyboardInterrupt
            real(place, number, versions=versions)

        monkeypatch.setattr(storage, "lay_away", cut)
        with pytest.raises(KeyboardInterrupt):
            tasks.tidy()
    monkeypatch.setattr(storage, "lay_away", real)
    tasks.tidy()

    assert Trash.objects.get().state == TrashState.KEPT
    assert sorted(on_disk().values()) == sorted(before.values())
    assert all(path.startswith(storage.TRASH) for path in on_disk())


def test_moving_is_done_in_slices_that_go_on_where_they_were(done: Run, monkeypatch):
    done.attempt.job.delete_run(database_now())
    trash.collect(database_now())
    moved = []
    real = storage.lay_away
    monkeypatch.setattr(
        storage,
        "lay_away",
        lambda place, *more, **also: moved.append(place) or real(place, *more, **also),
    )
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))

    assert not trash.tidy(database_now(), 2.0)
    first = len(moved)
    monkeypatch.undo()
    assert trash.tidy(database_now(), time.monotonic() + 60)

    assert 0 < first < 5
    assert Trash.objects.get().moved_upto == SyncFile.objects.order_by("pk").last().pk


def test_a_wish_to_restore_overtakes_the_moving(done: Run):
    before = on_disk()
    done.attempt.job.delete_run(database_now())
    trash.collect(database_now())
    stale = Trash.objects.select_related("project").get()
    Trash.objects.get().restore(database_now())

    trash.settle(stale, time.monotonic() + 60)
    tasks.tidy()

    assert on_disk() == before


def test_a_file_that_waits_to_be_moved_while_it_is_restored_stays(done: Run, monkeypatch):
    before, used = on_disk(), taken()
    done.attempt.job.delete_run(database_now())
    trash.collect(database_now())
    real, overtaken = storage.locked, []

    def overtaking(place, **more):
        if not overtaken:
            overtaken.append(place)
            Trash.objects.get().restore(database_now())
            tasks.tidy()
        return real(place, **more)

    monkeypatch.setattr(storage, "locked", overtaking)
    trash.settle(Trash.objects.select_related("project").get(), time.monotonic() + 60)

    assert on_disk() == before
    assert taken() == used


def test_a_file_that_comes_in_while_its_run_is_deleted_is_not_kept(done: Run):
    target = done.target("run_001/late.png")
    done.attempt.job.delete_run(database_now())

    with pytest.raises(Deleted):
        append.append(target, append.Delta(b"x"))

    assert not SyncFile.objects.filter(name="run_001/late.png").exists()


def test_a_file_that_came_in_at_that_very_moment_is_laid_away_as_well(done: Run, monkeypatch):
    target = done.target("run_001/late.png")
    done.attempt.job.delete_run(database_now())
    tasks.tidy()
    monkeypatch.setattr(append, "check_still", lambda target: None)
    append.append(target, append.Delta(b"x"))

    tasks.tidy()

    assert all(path.startswith(storage.TRASH) for path in on_disk())
    assert taken() == 0
    Trash.objects.last().restore(database_now())  # the other files
    tasks.tidy()
    assert done.stored() == NEWER


def test_what_is_half_restored_is_not_taken_for_something_that_came_late(done: Run, monkeypatch):
    before = on_disk()
    done.attempt.job.delete_run(database_now())
    tasks.tidy()
    Trash.objects.get().restore(database_now())
    moves, real = iter(range(2)), storage.put_back

    def cut(place, number):
        if next(moves, None) is None:
            raise KeyboardInterrupt
        real(place, number)

    monkeypatch.setattr(storage, "put_back", cut)
    with pytest.raises(KeyboardInterrupt):
        tasks.tidy()
    monkeypatch.setattr(storage, "put_back", real)
    tasks.tidy()

    assert on_disk() == before
    assert Trash.objects.count() == 1


def test_a_checkpoint_that_is_not_known_to_be_whole_is_left(run: Run):
    for epoch in range(3):
        run.full(b"x", name=f"run_001/epoch{epoch}.pt", source_mtime=epoch)
    SyncFile.objects.filter(name="run_001/epoch0.pt").update(complete=False)
    run.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)

    assert [row.name for row in planned(What.CHECKPOINTS).files] == ["run_001/epoch1.pt"]


def test_a_chunk_that_waits_for_its_file_while_it_is_deleted_is_not_kept(done: Run):
    row = done.row()
    project = row.job.project
    seen = append.current(done.target())
    trash.put_away(project, What.CHECKPOINTS, [row], [], database_now())

    with pytest.raises(LostRace):
        append.change(seen, size=seen.size + 5)

    row.refresh_from_db()
    assert row.size == len(NEWER)


def test_removing_now_works_before_anything_was_moved(done: Run):
    done.attempt.job.delete_run(database_now())
    trash.collect(database_now())

    Trash.objects.get().empty(database_now())
    tasks.tidy()

    assert on_disk() == {}
    assert Trash.objects.get().state == TrashState.EMPTIED


# --- freeing by a rule ---------------------------------------------------------------------------


def planned(what: What, days: int = 0) -> freeing.Plan:
    return freeing.plan(Project.objects.get(), Rule(what, days), database_now())


def freed(what: What, days: int = 0) -> Trash:
    found = planned(what, days)
    made = freeing.free(Project.objects.get(), found.rule, found.digest, database_now())
    tasks.tidy()
    return made


def test_checkpoints_go_but_the_newest_the_best_and_the_one_to_resume_from(done: Run):
    found = planned(What.CHECKPOINTS)
    assert [row.name for row in found.files] == ["run_001/epoch1.pt"]
    assert (found.runs, found.size, found.jobs) == (1, 3, [])
    used = taken()

    freed(What.CHECKPOINTS)

    assert taken() == used - 3
    names = set(SyncFile.objects.results().values_list("name", flat=True))
    assert names == {"run_001.csv", "run_001.pt", "run_001/epoch9.ckpt", "run_001/best_model.pt"}
    assert not done.attempt.job.deleted_at


def test_a_folder_that_is_resumed_from_keeps_all_its_files(done: Run):
    job = done.attempt.job
    folder = {f"run_001/checkpoint-8/{name}" for name in ("optimizer.pt", "model.safetensors")}
    for name in folder:
        done.full(name.encode(), name, source_mtime=1)
    resume = {"files": [{"experiment_uid": job.uid, "file_name": name} for name in folder]}
    job.note_resume_point({"resume": resume})

    assert [row.name for row in planned(What.CHECKPOINTS).files] == ["run_001/epoch1.pt"]


def test_an_agent_that_sends_a_deleted_file_again_is_told_that_it_is_settled(done: Run):
    freed(What.CHECKPOINTS)

    for send in (done.full, done.delta):
        with pytest.raises(Deleted) as refused:
            send(b"old", name="run_001/epoch1.pt")
        assert (refused.value.status, refused.value.code) == (410, "deleted")
    with pytest.raises(Deleted):
        done.chunk(b"old", 0, 3, name="run_001/epoch1.pt")
    files = {"run_001/epoch1.pt": {"generation": 1, "size_bytes": 3, "acked_bytes": 3}}
    done.attempt.advertise(files, database_now())
    found = status.of(Job.objects.get(), database_now())
    assert (found.state, found.behind_bytes) == (SyncState.SYNCED, 0)

    Trash.objects.get().restore(database_now())
    tasks.tidy()
    assert done.stored("run_001/epoch1.pt") == b"old"
    assert done.full(b"old", name="run_001/epoch1.pt").duplicate


def test_nothing_goes_of_a_run_that_has_not_ended(run: Run):
    run.full(b"old", name="run_001/epoch1.pt", source_mtime=1)
    run.full(b"new", name="run_001/epoch2.pt", source_mtime=2)

    assert all(planned(what).is_empty for what in freeing.RULES)


@pytest.mark.parametrize("behind", ["a file", "a name", "a word"])
def test_a_run_that_has_not_arrived_whole_goes_only_when_all_is_asked_for(run: Run, behind):
    run.delta(ROWS)
    if behind == "a name":
        run.delta(b"", generation=1, offset=len(ROWS), file_sha256=sha256(ROWS))
        files = {"run_001.log": {"generation": 1, "size_bytes": 9, "acked_bytes": 0}}
        run.attempt.advertise(files, database_now())
    if behind == "a word":
        run.delta(b"", generation=1, offset=len(ROWS), file_sha256=sha256(ROWS))
        run.attempt.advertise({}, database_now(), to_come=True)
    run.attempt.end(Outcome.FAILED, database_now(), exit_code=1)

    for what in (What.FAILED, What.RUNS):
        assert (planned(what).is_empty, planned(what).unsure) == (True, 1)
    freed(What.ALL)

    assert Job.objects.get().deleted_at
    assert taken() == 0


def test_a_run_whose_checkpoints_were_freed_counts_as_arrived(done: Run):
    files = {"run_001/epoch1.pt": {"generation": 1, "size_bytes": 3, "acked_bytes": 3}}
    done.attempt.advertise(files, database_now())
    freed(What.CHECKPOINTS)

    found = planned(What.RUNS)

    assert (found.runs, found.unsure, len(found.files)) == (1, 0, 4)


def test_only_what_ended_so_long_ago_goes(done: Run):
    assert planned(What.RUNS, days=7).is_empty
    Job.objects.update(finished_at=database_now() - timedelta(days=8))

    assert planned(What.RUNS, days=7).runs == 1
    assert planned(What.FAILED, days=7).is_empty


def test_what_was_not_shown_does_not_go(done: Run):
    shown = planned(What.CHECKPOINTS)
    done.full(b"older", name="run_001/epoch0.pt", source_mtime=0)

    with pytest.raises(PlanChanged) as refused:
        freeing.free(Project.objects.get(), shown.rule, shown.digest, database_now())

    assert refused.value.facts["files"] == 2
    assert not Trash.objects.exists()
    freed(What.CHECKPOINTS)
    with pytest.raises(PlanChanged):
        freed(What.CHECKPOINTS)  # nothing is left


def test_a_file_that_is_sent_anew_between_the_look_and_the_deed_stays(done: Run):
    old = SyncFile.objects.get(name="run_001/epoch1.pt")
    SyncFile.objects.filter(pk=old.pk).update(complete=False)

    with pytest.raises(PlanChanged):
        trash.put_away(old.job.project, What.CHECKPOINTS, [old], [], database_now())

    assert not Trash.objects.exists()


# --- in slices -----------------------------------------------------------------------------------


@pytest.fixture
def many(done: Run, monkeypatch) -> Run:
    """Two runs of twelve files, of which two are marked at a time, and a run at a time."""
    second = make.attempt(make.job(), make.device(gpus=1, host_id="gpu-02"), started=True)
    for number in range(7):
        upload.store(
            ownership.target(second.device, second.job.uid, f"run_002/{number}.png", 1),
            io.BytesIO(b"x"),
            upload.Whole(),
        )
    second.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    monkeypatch.setattr(trash, "FILES_AT_ONCE", 2)
    monkeypatch.setattr(trash, "JOBS_AT_ONCE", 1)
    return done


def dies_after(monkeypatch, slices: int) -> None:
    """The process ends before the next transaction that marks."""
    left, real = iter(range(slices)), trash._mark_some

    def mark(made: Trash) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(made)

    monkeypatch.setattr(trash, "_mark_some", mark)


def test_no_transaction_marks_more_than_a_slice(many: Run, monkeypatch):
    sizes, real = [], trash._marked
    monkeypatch.setattr(
        trash, "_marked", lambda made, files: sizes.append(len(files)) or real(made, files)
    )

    made = freed(What.ALL)

    assert sizes == [0, 2, 2, 2, 2, 2, 2]
    made.refresh_from_db()
    assert (made.state, made.file_count, made.runs) == (TrashState.KEPT, 12, 2)
    assert taken() == 0
    assert made.size == sum(SyncFile.objects.values_list("size", flat=True)) + len(ROWS)


#: How far apart SQLite's busy handler looks before it has waited for an eighth of a second.
LOOKS_APART_SECONDS = 0.025


def said_in_turn(monkeypatch) -> list[str | float]:
    """Fills up: each transaction that marks or restores, and each pause, as they come."""
    said: list[str | float] = []

    def tells(real):
        return lambda *args, **more: said.append("write") or real(*args, **more)

    monkeypatch.setattr(trash.time, "sleep", said.append)
    monkeypatch.setattr(trash, "_mark_some", tells(trash._mark_some))
    monkeypatch.setattr(Job, "restore_run", tells(Job.restore_run))
    return said


def test_between_two_slices_others_find_the_writers_place_free(many: Run, monkeypatch):
    said = said_in_turn(monkeypatch)

    made = freed(What.ALL)

    writes, pauses = said[0::2], said[1::2]
    assert writes == ["write"] * 7
    assert len(pauses) == 6
    assert min(pauses) > LOOKS_APART_SECONDS

    made.refresh_from_db()
    made.restore(database_now())
    said.clear()
    tasks.tidy()
    assert said[0::2] == ["write"] * 2
    assert min(said[1::2]) > LOOKS_APART_SECONDS


@pytest.mark.parametrize("slices", [1, 2, 4])
def test_a_deletion_that_was_cut_off_is_carried_out_whole(many: Run, monkeypatch, slices):
    found = planned(What.ALL)
    with monkeypatch.context() as patch:
        dies_after(patch, slices)
        with pytest.raises(KeyboardInterrupt):
            freeing.free(Project.objects.get(), found.rule, found.digest, database_now())
    assert Trash.objects.get().state == TrashState.GATHERING
    with pytest.raises(NotInTrash):
        Trash.objects.get().restore(database_now())

    tasks.tidy()

    gone = Trash.objects.get()
    assert (gone.state, gone.file_count, gone.slices.count()) == (TrashState.KEPT, 12, 0)
    assert set(gone.jobs.values_list("pk", flat=True)) == {job.pk for job in found.jobs}
    assert all(path.startswith(storage.TRASH) for path in on_disk())
    assert taken() == 0


def test_what_changed_while_it_was_marked_brings_all_of_it_back(many: Run, monkeypatch):
    before, used, found = on_disk(), taken(), planned(What.ALL)
    real, marked = trash._mark_some, []

    def mark(made: Trash) -> None:
        if len(marked) == 3:
            SyncFile.objects.filter(name="run_002/6.png").delete()
        marked.append(real(made))

    monkeypatch.setattr(trash, "_mark_some", mark)

    with pytest.raises(PlanChanged):
        freeing.free(Project.objects.get(), found.rule, found.digest, database_now())
    tasks.tidy()

    assert Trash.objects.get().state == TrashState.RESTORED
    assert not Job.objects.exclude(deleted_at=None).exists()
    assert on_disk() == before
    assert Project.objects.get().used_bytes == used


def test_a_run_that_is_needed_by_then_brings_all_of_it_back(many: Run, monkeypatch):
    found = planned(What.ALL)
    last = found.jobs[-1]
    resume = {"files": [{"experiment_uid": last.uid, "file_name": "run_002/1.png"}]}

    def needed(made: Trash) -> None:
        real(made)
        if not Job.objects.unended().exists():
            make.job().note_resume_point({"resume": resume})

    real = trash._mark_some
    monkeypatch.setattr(trash, "_mark_some", needed)

    with pytest.raises(PlanChanged):
        freeing.free(Project.objects.get(), found.rule, found.digest, database_now())
    tasks.tidy()

    assert not Job.objects.exclude(deleted_at=None).exists()


def test_a_large_run_that_is_deleted_is_marked_by_tidy_in_its_time(many: Run, monkeypatch):
    Job.objects.get(run_number=2).delete_run(database_now())

    trash.tidy(database_now(), time.monotonic() - 1)
    assert (Trash.objects.get().state, Trash.objects.get().file_count) == ("gathering", 2)
    trash.tidy(database_now(), time.monotonic() + 60)

    assert (Trash.objects.get().state, Trash.objects.get().file_count) == ("kept", 7)


# --- what attempts that were given up have left --------------------------------------------------


@pytest.fixture
def given_up(run: Run) -> Run:
    """A run whose first try was given up, and goes on sending; a second one has succeeded."""
    run.attempt.job.requeue()
    run.attempt.end(Outcome.PREEMPTED, database_now())
    second = make.attempt(Job.objects.get(), started=True)
    run.delta(ROWS, generation=1, offset=0)
    run.delta(NEWER, generation=2, offset=0, file_sha256=sha256(NEWER))
    second.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    return run


def test_evidence_counts_and_can_be_freed(given_up: Run):
    assert len(on_disk()) == 2  # with its earlier version
    assert taken() == len(ROWS) + len(NEWER)

    freed(What.GIVEN_UP)

    assert taken() == 0
    assert all(path.startswith(storage.TRASH) for path in on_disk())


def test_evidence_is_let_go_of_in_time(given_up: Run, settings):
    tasks.tidy()
    assert len(on_disk()) == 2

    SyncFile.objects.update(synced_at=database_now() - timedelta(days=91))
    tasks.tidy()

    assert on_disk() == {}
    assert taken() == 0
    assert not SyncFile.objects.exists()


def test_evidence_that_still_comes_in_is_kept(given_up: Run, monkeypatch):
    SyncFile.objects.update(synced_at=database_now() - timedelta(days=91))
    before, real = on_disk(), storage.locked

    def overtaking(place, **more):
        SyncFile.objects.update(synced_at=database_now())
        return real(place, **more)

    monkeypatch.setattr(storage, "locked", overtaking)
    tasks.tidy()

    assert on_disk() == before


@pytest.mark.parametrize("kept", [0, 2])
def test_so_many_earlier_versions_are_kept(run: Run, settings, kept):
    settings.LAB_KEEP_VERSIONS = kept
    for generation in range(1, 5):
        run.delta(b"%d" % generation, generation=generation, offset=0)

    names = sorted(path.rpartition("/")[2] for path in on_disk())
    assert names == ["run_001.csv", *[f"run_001.csv.g{n}" for n in range(4 - kept, 4)]]
    assert taken() == 1 + kept


def test_what_a_project_takes_is_right_however_it_came(run: Run):
    run.chunk(b"0123456789", 0, 4)
    assert taken() == 0  # on its way
    run.chunk(b"0123456789", 4, 6)
    run.full(b"01234", generation=2)
    run.delta(b"epoch\n", name="run_001.log")
    run.full(b"epoch\n1\n", name="run_001.log")  # fast forward

    assert taken() == 5 + 8
