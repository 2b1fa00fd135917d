"""Which files of a run are sent, and how they are opened."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.files.globs import Globs
from agent.files.regular import Mark
from agent.files.runfiles import RunFiles
from agent.wire import WhyLeftOut
from tests.agent.filehost import UID


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "digits"
    made.mkdir()
    return made


@pytest.fixture
def run(folder: Path) -> RunFiles:
    return RunFiles("a1", UID, "digits", "run_001", 1, folder)


def test_a_run_has_its_own_files_and_those_beneath_its_name(run: RunFiles, folder: Path) -> None:
    (folder / "run_001" / "images").mkdir(parents=True)
    for name in ("run_001.csv", "run_001.best.pt", "run_001/a.txt", "run_001/images/1.png"):
        (folder / name).write_text("x")
    for name in ("run_0011.csv", "run_002.csv", "20260101_a1b2_config.yaml"):
        (folder / name).write_text("another's")

    assert sorted(run.look()) == [
        "run_001.best.pt",
        "run_001.csv",
        "run_001/a.txt",
        "run_001/images/1.png",
    ]


def test_what_is_still_written_under_another_name_is_left_alone(
    run: RunFiles, folder: Path
) -> None:
    (folder / "run_001").mkdir()
    for name in ("run_001.pt.tmp", "run_001.pt~", "run_001/.a.png.part", "run_001/.nfs0001"):
        (folder / name).write_text("half")

    (folder / "run_001" / "ckpt.tmp").mkdir()
    (folder / "run_001" / "ckpt.tmp" / "model.pt").write_text("half")

    assert run.look() == {}
    assert run.left_out == []


def test_after_the_end_that_is_what_the_job_left_and_is_sent(run: RunFiles, folder: Path) -> None:
    hidden = folder / "run_001" / ".hydra"
    hidden.mkdir(parents=True)
    names = ("run_001.pt.tmp", "run_001/left.part", "run_001/.hidden", "run_001/.hydra/a.yaml")
    refused = ("run_001.yaml~", "run_001/.a.png.part")
    for name in (*names, *refused, "run_001/notes~"):
        (folder / name).write_text("left")
    run.exited = True

    assert sorted(run.look()) == sorted([*names, "run_001/notes~"])
    assert sorted((one.name, one.reason) for one in run.left_out) == [
        (name, WhyLeftOut.NAME) for name in sorted(refused)
    ]


@pytest.mark.parametrize(
    "name",
    [
        ".nfs000000a1",
        ".fuse_hidden0001",
        ".notes.txt.swp",
        ".git",
        ".ipynb_checkpoints",
        ".cache",
        ".venv",
        "__pycache__",
    ],
)
def test_what_editors_and_file_systems_keep_beside_it_is_no_result(
    run: RunFiles, folder: Path, name: str
) -> None:
    (folder / "run_001" / name).mkdir(parents=True)
    (folder / "run_001" / name / "x").write_text("x")
    (folder / "run_001" / "below").mkdir()
    (folder / "run_001" / "below" / name).write_text("x")
    run.exited = True

    assert run.look() == {}
    assert run.left_out == []


def test_what_is_hidden_may_be_ignored_too(run: RunFiles, folder: Path) -> None:
    (folder / "run_001" / ".scratch").mkdir(parents=True)
    (folder / "run_001" / ".scratch" / "model").write_text("x")
    (folder / "run_001" / "left.tmp").write_text("x")
    run.ignore = Globs([".scratch", "*.tmp"], everywhere=True)
    run.exited = True

    assert run.look() == {}


def test_a_name_that_the_server_would_refuse_is_told_once(
    run: RunFiles, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "run_001").mkdir()
    (folder / "run_001" / "-rf").write_text("x")
    (folder / "run_001.csv.g3").write_text("x")

    assert run.look() == run.look() == {}
    assert len(caplog.records) == 2
    assert "-rf" in caplog.text
    assert sorted(one.name for one in run.left_out) == ["run_001.csv.g3", "run_001/-rf"]


def test_a_name_in_decomposed_form_is_sent_in_the_composed_one(
    run: RunFiles, folder: Path
) -> None:
    (folder / "run_001").mkdir()
    (folder / "run_001" / "\u1100\u1161.png").write_text("x")

    assert list(run.look()) == ["run_001/\uac00.png"]
    with run.open("run_001/\uac00.png") as file:
        assert file.read() == b"x"


def test_a_link_leads_to_files_of_the_folder_only(
    run: RunFiles, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret")
    (folder / "run_001").mkdir()
    (folder / "run_001" / "epoch-5.ckpt").write_text("weights")
    (folder / "run_001.pt").symlink_to(folder / "run_001" / "epoch-5.ckpt")
    (folder / "run_001.csv").symlink_to(tmp_path / "token")
    (folder / "run_001" / "up").symlink_to(tmp_path, target_is_directory=True)

    assert sorted(run.look()) == ["run_001.pt", "run_001/epoch-5.ckpt"]
    with run.open("run_001.pt") as file:
        assert file.read() == b"weights"
    for name in ("run_001.csv", "run_001/up/token"):
        with pytest.raises(FileNotFoundError):
            run.open(name)


def test_what_is_no_file_is_not_opened(run: RunFiles, folder: Path) -> None:
    os.mkfifo(folder / "run_001.log")

    assert run.look() == {}
    with pytest.raises(FileNotFoundError):
        run.open("run_001.log")


def test_folders_deeper_than_a_path_may_be_keep_nothing_from_being_sent(
    run: RunFiles, folder: Path
) -> None:
    (folder / "run_001.csv").write_text("x")
    at = os.open(folder, os.O_RDONLY)
    for name in ["run_001", *["x" * 250] * 17]:
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)

    assert list(run.look()) == ["run_001.csv"]
    assert [one.reason for one in run.left_out] == [WhyLeftOut.NAME]
    assert not run.closed


class Counting(dict[str, Mark]):
    iterations = 0

    def __iter__(self) -> Iterator[str]:
        self.iterations += 1
        return super().__iter__()


def test_what_was_found_is_not_gone_through_for_each_file(run: RunFiles) -> None:
    """Of 20 000 files that would take seconds at each look."""
    found = Counting({"run_001/images": Mark(1, 1, 1)})

    assert run._sent_as("run_001/labels/1.txt", found) == "run_001/labels/1.txt"
    assert run._sent_as("run_001/images/1.png", found) is None
    assert found.iterations == 0


def test_a_folder_that_is_gone_has_no_files(run: RunFiles, folder: Path) -> None:
    folder.rmdir()

    assert run.look() == {}
