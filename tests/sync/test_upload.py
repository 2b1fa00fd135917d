"""The whole file: in its place at once, or not at all."""

import io
from contextlib import contextmanager, suppress

import pytest
from django.conf import settings

from experiments.errors import LostRace
from experiments.models import Job, Project
from experiments.states import Outcome
from labsite import wake
from labsite.clock import database_now
from labsite.errors import BadRequest
from sync import storage, upload
from sync.errors import ChecksumDiffers, FileBusy, StaleGeneration
from sync.intake import note_derived
from tests import make
from tests.sync.conftest import sha256

pytestmark = pytest.mark.django_db


def test_a_whole_file_is_stored_hashed_and_complete(run):
    stored = run.full(b"weights", sha256=sha256(b"weights"), source_mtime=5)

    row = run.row("run_001.pt")
    assert run.stored("run_001.pt") == b"weights"
    assert (row.complete, row.sha256, row.source_mtime) == (True, sha256(b"weights"), 5)
    assert stored.acked == 7


def test_the_same_again_writes_nothing(run):
    run.full(b"weights")
    before = run.target("run_001.pt").place.path.stat()

    again = run.full(b"weights")

    after = run.target("run_001.pt").place.path.stat()
    assert again.duplicate
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_newer_version_replaces_and_a_late_older_one_does_not(run):
    run.full(b"one", generation=1)
    run.full(b"three", generation=3)

    with pytest.raises(StaleGeneration):
        run.full(b"two", generation=2)

    assert run.stored("run_001.pt") == b"three"


def test_a_reader_of_the_old_version_reads_it_to_its_end(run):
    run.full(b"old version", generation=1)
    with open(run.target("run_001.pt").place.path, "rb") as reader:
        assert reader.read(4) == b"old "
        run.full(b"new", generation=2)

        assert reader.read() == b"version"


def test_a_body_that_is_not_what_was_said_changes_nothing(run):
    run.full(b"good")

    with pytest.raises(ChecksumDiffers):
        run.full(b"goOd", generation=2, sha256=sha256(b"good!"))
    with pytest.raises(BadRequest):
        run.full(b"cut sho", generation=2, length=10)

    assert run.stored("run_001.pt") == b"good"
    assert [path.name for path in (settings.LAB_LOGS_DIR / "digits").iterdir()] == ["run_001.pt"]


def test_a_csv_that_only_grew_goes_on_in_its_generation(run):
    run.delta(b"a\n1\n", generation=4, offset=0)

    stored = run.full(b"a\n1\n2\n", name="run_001.csv")

    assert (stored.row.generation, run.stored()) == (4, b"a\n1\n2\n")
    run.delta(b"3\n", generation=4, offset=6)
    assert run.stored() == b"a\n1\n2\n3\n"


def test_a_csv_with_other_bytes_is_a_new_generation(run):
    run.delta(b"a\n1\n", generation=4, offset=0)

    stored = run.full(b"a,b\n1,2\n", name="run_001.csv")

    assert stored.row.generation == 5
    kept = run.target().place.path.with_name("run_001.csv.g4")
    assert kept.read_bytes() == b"a\n1\n"


EVENTS = "run_001/events.out.tfevents.1709287200.gpu-01.4711.0"


@pytest.mark.parametrize("name", ["run_001.csv", "run_001/train.txt", EVENTS])
def test_of_what_only_grew_an_earlier_agents_versions_are_not_laid_aside(run, name):
    """It sends each version whole, under a generation of its own."""
    for generation, size in enumerate((10, 20, 30), 1):
        stored = run.full(b"0123456789" * (size // 10), name=name, generation=generation)

    assert (stored.row.generation, stored.row.size, stored.row.complete) == (3, 30, True)
    folder = run.target(name).place.path.parent
    assert [path.name for path in folder.iterdir()] == [name.rpartition("/")[2]]
    assert Project.objects.get().used_bytes == 30

    run.delta(b"and on", name=name, generation=3, offset=30)  # it was upgraded
    assert run.stored(name) == b"0123456789" * 3 + b"and on"


@pytest.mark.parametrize("name", ["run_001/train.txt", EVENTS])
def test_an_earlier_agents_rewritten_text_is_laid_aside_and_so_is_one_that_became_shorter(
    run, name
):
    for generation, content in enumerate((b"first", b"second, and longer", b"second"), 1):
        run.full(content, name=name, generation=generation)

    place = run.target(name).place.path
    assert run.stored(name) == b"second"
    assert place.with_name(f"{place.name}.g1").read_bytes() == b"first"
    assert place.with_name(f"{place.name}.g2").read_bytes() == b"second, and longer"
    assert run.row(name).aside_bytes == len(b"first" + b"second, and longer")


def test_a_version_that_only_grew_and_was_cut_off_is_stored_when_it_comes_again(run, monkeypatch):
    """The server dies between the rename and the row."""
    run.full(b"first", name=EVENTS, generation=1)

    def die(*_args, **_fields):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(upload, "change", die)
        run.full(b"first, second", name=EVENTS, generation=2)
    run.full(b"first, second", name=EVENTS, generation=2)

    row = run.row(EVENTS)
    assert (run.stored(EVENTS), row.generation) == (b"first, second", 2)
    asides = run.target(EVENTS).place.path.parent.glob("*.g[0-9]")
    assert row.aside_bytes == sum(path.stat().st_size for path in asides)


def test_a_rewritten_csv_that_was_cut_off_keeps_what_was_acknowledged(run, monkeypatch):
    """The server dies between the rename and the row; the agent sends the same once more."""
    run.delta(b"a\n1\n", generation=1, offset=0)

    def die(*_args, **_fields):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(upload, "change", die)
        run.full(b"a,b\n1,2\n", name="run_001.csv", generation=2)
    run.full(b"a,b\n1,2\n", name="run_001.csv", generation=2)

    kept = run.target().place.path.with_name("run_001.csv.g1")
    assert kept.read_bytes() == b"a\n1\n"
    assert run.stored() == b"a,b\n1,2\n"
    assert run.row().aside_bytes == len(b"a\n1\n")


@pytest.mark.parametrize("name", ["run_001.pt", "run_001.csv"])
def test_an_empty_file_that_was_cut_off_is_stored_when_it_comes_again(run, monkeypatch, name):
    """The server dies between the row and the rename."""

    def die(*_args, **_fields):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(storage.Incoming, "put", die)
        run.full(b"", name=name, generation=1)
    assert run.row(name).size == 0
    run.full(b"", name=name, generation=1)

    assert run.row(name).complete
    assert run.target(name).place.path.read_bytes() == b""


@contextmanager
def killed_after_the_rename(monkeypatch):
    """The server, before it has moved the row of what took its place."""
    rename = storage.Incoming.put

    def die(part):
        rename(part)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(storage.Incoming, "put", die)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_a_crash_on_the_way_of_another_csv_leaves_no_version_that_is_gone_on_with(
    run, monkeypatch
):
    """A delta of the version before would else follow other bytes than it was cut from."""
    run.delta(b"a,b\n1,2\n", generation=1, offset=0)
    with killed_after_the_rename(monkeypatch):
        run.full(b"x,y\n9,9\n8,8\n", name="run_001.csv")

    with pytest.raises(StaleGeneration):
        run.delta(b"3,4\n", generation=1, offset=8)
    assert run.row().size == 0
    run.delta(b"a,b\n1,2\n3,4\n", generation=run.row().generation + 1, offset=0)
    assert run.stored() == b"a,b\n1,2\n3,4\n"


def test_a_crash_on_the_way_of_another_checkpoint_leaves_none_that_is_said_to_be_whole(
    run, monkeypatch
):
    run.full(b"first", generation=1)
    with killed_after_the_rename(monkeypatch):
        run.full(b"other", generation=2)

    row = run.row("run_001.pt")
    assert (row.complete, row.sha256, run.stored("run_001.pt")) == (False, "", b"other")
    run.full(b"other", generation=2)
    assert run.row("run_001.pt").complete


@pytest.mark.parametrize(("length", "outdated"), [(6, True), (4, False)])
def test_rows_that_a_person_adds_to_a_whole_csv_are_not_its_agents(run, length, outdated):
    """Unlike what is brought over of a run that its agent has not sent to its end."""
    run.attempt.advertise({"run_001.csv": {}}, database_now())
    csv = b"a\n1\n2\n3\n"
    confirmed = {"file_sha256": sha256(csv[:length])} if outdated else {}
    run.delta(csv[:length], generation=1, offset=0, **confirmed)

    run.full(csv, name="run_001.csv")

    assert (run.row().outdated, run.row().complete, run.stored()) == (outdated, True, csv)


def test_another_whole_file_by_hand_is_another_version(run):
    run.full(b"first", generation=1)

    run.full(b"first")
    assert (run.row("run_001.pt").generation, run.stored("run_001.pt")) == (1, b"first")
    run.full(b"other")

    assert (run.row("run_001.pt").generation, run.stored("run_001.pt")) == (2, b"other")


def test_a_whole_checkpoint_says_where_to_resume(run):
    run.delta(b"epoch\n1\n", generation=1, offset=0)
    run.full(b"weights")
    note_derived(run.target("run_001.pt"), run.full(b"weights2", generation=2))

    resume = Job.objects.get().resume_point["resume"]
    assert resume["checkpoint"] == "run_001.pt"
    assert [(f["file_name"], f["sha256"]) for f in resume["files"]] == [
        ("run_001.pt", sha256(b"weights2")),
        ("run_001.csv", None),
    ]


def test_what_a_killed_server_had_begun_to_receive_is_taken_away(run):
    folder = run.target("run_001.pt").place.path.parent
    folder.mkdir(parents=True)
    (folder / ".run_001.pt.0123456789ab.part").write_bytes(b"half")
    (folder / ".run_001.yaml.0123456789ab.part").write_bytes(b"another file's")

    run.full(b"weights")

    assert {path.name for path in folder.iterdir()} == {
        "run_001.pt",
        ".run_001.yaml.0123456789ab.part",
    }


def test_what_another_process_is_receiving_is_left_alone(run):
    place = run.target("run_001.pt").place

    with storage.incoming(place) as first:
        first.take(io.BytesIO(b"first"))
        run.full(b"second")
        first.put()

    assert place.path.read_bytes() == b"first"


def test_an_attempt_that_is_given_up_while_its_file_comes_in_changes_no_result(run, monkeypatch):
    run.full(b"weights", generation=1)
    take = storage.Incoming.take

    def given_up_meanwhile(part, source):
        take(part, source)
        run.attempt.end(Outcome.HOST_REBOOTED, database_now())
        make.attempt(Job.objects.get(), run.attempt.device)

    monkeypatch.setattr(storage.Incoming, "take", given_up_meanwhile)

    with pytest.raises(LostRace):
        run.full(b"newer weights", generation=2)
    monkeypatch.undo()
    settled = upload.store(
        run.target("run_001.pt", number=1), io.BytesIO(b"newer weights"), upload.Whole()
    )

    assert run.row("run_001.pt").sha256 == sha256(b"weights")
    assert settled.row.shelf == 1


def test_it_takes_its_place_only_while_nobody_else_writes_the_file(run, monkeypatch):
    monkeypatch.setattr(storage, "LOCK_SECONDS", 0.05)
    run.full(b"first", generation=1)

    with storage.locked(run.target("run_001.pt").place), pytest.raises(FileBusy):
        run.full(b"second", generation=2)

    assert run.stored("run_001.pt") == b"first"


def test_whoever_looked_before_the_values_were_taken_in_is_told_again(run, monkeypatch):
    stored = run.delta(b"epoch\n1\n", generation=1, offset=0)
    told = []
    monkeypatch.setattr(wake, "publish_on_commit", lambda *what: told.append(what))

    note_derived(run.target("run_001.csv"), stored)
    note_derived(run.target("run_001.csv"), stored)

    assert told == [("file", stored.row.pk, 8)]
    assert Job.objects.get().summary["last"] == {"epoch": 1}
