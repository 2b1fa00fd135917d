"""Which files a job wishes to have at the server."""

import threading
from pathlib import Path

import pytest

from agent import shim
from agent.files import wishes
from agent.files.filejournal import FileJournal
from agent.files.regular import Mark
from agent.files.runfiles import RunFiles
from agent.files.tracked import Tracked
from agent.files.upload import Whole
from agent.store import Store
from agent.wire import Checkpoints, SyncPolicy, WhyLeftOut
from tests.agent.filehost import UID

STILL = 10.0


@pytest.fixture
def run(tmp_path: Path) -> RunFiles:
    return RunFiles("a1", UID, "digits", "run_001", 1, tmp_path)


@pytest.fixture
def journal() -> FileJournal:
    return FileJournal(Store(Path(":memory:")))


def seen(
    run: RunFiles, journal: FileJournal, ages: dict[str, float], still_seconds: float = STILL
) -> list[Tracked]:
    """Files by how long ago, in seconds, they were written."""
    made = []
    for name, age in ages.items():
        file = Whole(run, name, journal, threading.Event())
        file.see(Mark(1, 100, int((1e6 - age) * 1e9)), shim.now() - still_seconds)
        made.append(file)
    return made


def kept(files: list[Tracked], checkpoints: Checkpoints) -> set[str]:
    out = wishes.left_out(files, SyncPolicy(checkpoints=checkpoints))
    assert set(out.values()) <= {WhyLeftOut.NOT_WISHED}
    return set(out)


AGES = {
    "run_001/a.ckpt": 30,
    "run_001/b.pth": 20,
    "run_001/c.safetensors": 25,
    "run_001/d.png": 40,
}


def test_all_means_all(run: RunFiles, journal: FileJournal) -> None:
    assert kept(seen(run, journal, AGES), Checkpoints.ALL) == set()


def test_none_means_no_checkpoint_and_all_else(run: RunFiles, journal: FileJournal) -> None:
    files = seen(run, journal, {**AGES, "run_001.pt": 1})

    assert kept(files, Checkpoints.NONE) == {*AGES, "run_001.pt"} - {"run_001/d.png"}


def test_last_means_the_one_that_changed_last(run: RunFiles, journal: FileJournal) -> None:
    files = seen(run, journal, AGES)

    assert kept(files, Checkpoints.LAST) == {"run_001/a.ckpt", "run_001/c.safetensors"}


def test_what_a_next_attempt_resumes_from_is_always_sent(
    run: RunFiles, journal: FileJournal
) -> None:
    files = seen(run, journal, {**AGES, "run_001.pt": 99})

    assert "run_001.pt" not in kept(files, Checkpoints.LAST)


def test_one_that_is_still_written_does_not_take_the_place_of_the_last(
    run: RunFiles, journal: FileJournal
) -> None:
    files = seen(run, journal, {"run_001/1.pt": 20, "run_001/2.pt": 10})
    files += seen(run, journal, {"run_001/3.pt": 0}, still_seconds=0)

    assert kept(files, Checkpoints.LAST) == {"run_001/1.pt"}


def test_one_that_was_cut_off_does_not_take_the_place_of_the_last(
    run: RunFiles, journal: FileJournal
) -> None:
    files = seen(run, journal, {"run_001/1.pt": 20, "run_001/2.pt": 10})
    (run.run_dir / "run_001").mkdir()
    torn = run.run_dir / "run_001" / "3.pt"
    torn.write_bytes(b"PK\3\4weights")
    [last] = seen(run, journal, {"run_001/3.pt": 0})
    last.see(Mark.of(torn.stat()), shim.now() - STILL)
    last.look_inside(last.seen)

    assert last.is_torn
    assert kept([*files, last], Checkpoints.LAST) == {"run_001/1.pt"}


def test_one_that_never_got_its_name_is_not_the_last_and_not_sent_where_few_are_wished(
    run: RunFiles, journal: FileJournal
) -> None:
    unfinished = {"run_001/3.pt.tmp": 0, "run_001/.4.ckpt": 0}
    files = seen(run, journal, {"run_001/1.pt": 20, "run_001/2.pt": 10, **unfinished})

    assert kept(files, Checkpoints.LAST) == {"run_001/1.pt", *unfinished}
    assert kept(files, Checkpoints.NONE) == {"run_001/1.pt", "run_001/2.pt", *unfinished}
    assert kept(files, Checkpoints.ALL) == set()
    assert kept(files[2:], Checkpoints.LAST) == set(unfinished)


ASIDE = {"run_001/.tmp_7/best.pt": 5, "run_001/ckpt.tmp/model.pt": 6}


@pytest.mark.parametrize("other", ["run_001/1.pt", "run_001.pt"])
def test_one_in_a_hidden_or_temporary_folder_is_the_last_where_there_is_no_other(
    run: RunFiles, journal: FileJournal, other: str
) -> None:
    aside = seen(run, journal, ASIDE)
    [written] = seen(run, journal, {other: 0}, still_seconds=0)
    [still] = seen(run, journal, {other: 20})

    assert kept(aside, Checkpoints.LAST) == {"run_001/ckpt.tmp/model.pt"}
    assert kept([*aside, written], Checkpoints.LAST) == {"run_001/ckpt.tmp/model.pt"}
    assert kept([*aside, still], Checkpoints.LAST) == set(ASIDE)


def test_after_the_end_all_are_still(run: RunFiles, journal: FileJournal) -> None:
    run.exited = True
    files = seen(run, journal, {"run_001/1.pt": 20, "run_001/2.pt": 0}, still_seconds=0)

    assert kept(files, Checkpoints.LAST) == {"run_001/1.pt"}


def test_the_files_of_a_checkpoints_folder_are_one_checkpoint(
    run: RunFiles, journal: FileJournal
) -> None:
    ages = {
        f"run_001/out/checkpoint-{step}/{name}": age - number
        for step, age in ((500, 100), (1000, 50))
        for number, name in enumerate(("model.safetensors", "optimizer.pt", "rng_state.pth"))
    }
    files = seen(run, journal, ages)

    assert kept(files, Checkpoints.LAST) == {name for name in ages if "checkpoint-500" in name}


def test_a_last_one_that_is_too_large_gives_its_place_to_the_one_before(
    run: RunFiles, journal: FileJournal
) -> None:
    files = seen(run, journal, {"run_001/1.pt": 30, "run_001/2.pt": 20})
    large = Whole(run, "run_001/3.pt", journal, threading.Event())
    large.see(Mark(1, 101, int(1e15)), shim.now() - STILL)

    out = wishes.left_out([*files, large], SyncPolicy(Checkpoints.LAST, max_file_bytes=100))

    assert out == {
        "run_001/1.pt": WhyLeftOut.NOT_WISHED,
        "run_001/3.pt": WhyLeftOut.TOO_LARGE,
    }


def test_what_had_arrived_before_it_was_overtaken_counts_as_sent(
    run: RunFiles, journal: FileJournal
) -> None:
    [file] = seen(run, journal, {"run_001/1.pt": 30})
    file.left_out = WhyLeftOut.NOT_WISHED

    assert file.settled
    assert not file.confirmed
    file.queued = True  # a worker is in the middle of it
    assert not file.settled
