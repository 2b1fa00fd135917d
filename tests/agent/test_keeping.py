"""What is deleted on a host, and above all what is not."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import shim
from agent.files.filejournal import FileJournal, Sent
from agent.files.globs import Globs
from agent.files.keeping import DAY_SECONDS, Keeping
from agent.files.outputs import Outputs
from agent.files.regular import Mark
from agent.files.runfiles import RunFiles
from agent.files.tracked import Tracked
from agent.files.upload import Whole
from agent.store import Store
from tests.agent.filehost import UID

NAMES = ("run_001.csv", "run_001.pt", "run_001/images/1.png")


class Ended:
    """A run that has ended, and its files as the server confirmed them."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "digits"
        self.store = Store(Path(":memory:"))
        self.journal = FileJournal(self.store)
        self.keeping = Keeping(self.store, days=7)
        self.run = RunFiles("a1", UID, "digits", "run_001", 1, self.run_dir, exited=True)
        for name in NAMES:
            self.write(name)

    def write(self, name: str, content: str = "x") -> Path:
        path = self.run_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def note(self, **unlike: Sent) -> None:
        self.keeping.note(self.run, list(self._files(unlike)))

    def _files(self, unlike: dict[str, Sent]) -> Iterator[Tracked]:
        for name, mark in self.run.look().items():
            file = Whole(self.run, name, self.journal, threading.Event())
            file.see(mark, shim.now())
            suffix = name.rpartition(".")[2]
            file.sent = unlike.get(suffix, Sent(1, complete=True, mark=str(mark)))
            yield file

    def left(self) -> list[str]:
        paths = [path for path in self.run_dir.rglob("*") if path.is_file()]
        return sorted(str(path.relative_to(self.run_dir)) for path in paths)


@pytest.fixture
def ended(tmp_path: Path) -> Ended:
    return Ended(tmp_path)


def test_files_go_when_the_days_are_over_and_not_before(ended: Ended) -> None:
    ended.note()
    ended.keeping.look(6.9 * DAY_SECONDS)
    before = ended.left()
    ended.keeping.look(0.2 * DAY_SECONDS)

    assert before == sorted(NAMES)
    assert ended.left() == []
    assert ended.run_dir.is_dir()
    assert not (ended.run_dir / "run_001").exists()


def test_what_was_not_confirmed_stays(ended: Ended) -> None:
    mark = str(Mark.of((ended.run_dir / "run_001.csv").stat()))
    ended.note(pt=Sent(1), csv=Sent(1, complete=True, deleted=True, mark=mark))
    ended.keeping.look(8 * DAY_SECONDS)

    assert ended.left() == ["run_001.csv", "run_001.pt"]


def test_a_torn_checkpoint_stays_although_the_one_before_it_was_confirmed(ended: Ended) -> None:
    ended.write("run_001.pt", "PK\3\4 and no more")

    ended.note(pt=Sent(1, complete=True, mark="1:2:3"))
    ended.keeping.look(8 * DAY_SECONDS)

    assert ended.left() == ["run_001.pt"]


def test_what_has_changed_since_stays(ended: Ended) -> None:
    ended.note()
    ended.write("run_001.pt", "trained on by hand")
    ended.keeping.look(8 * DAY_SECONDS)

    assert ended.left() == ["run_001.pt"]


def test_what_another_attempt_wrote_under_that_name_stays(ended: Ended) -> None:
    ended.note()
    aside = ended.run_dir / ".old" / "a"
    aside.mkdir(parents=True)
    for name in ("run_001.csv", "run_001.pt", "run_001"):
        (ended.run_dir / name).rename(aside / name)
    ended.keeping.moved("a1", aside)
    ended.write("run_001.csv", "of the next try")
    ended.keeping.look(8 * DAY_SECONDS)

    assert ended.left() == ["run_001.csv"]
    assert not aside.exists()


def test_a_link_in_a_files_place_leads_nowhere(ended: Ended, tmp_path: Path) -> None:
    ended.note()
    target = tmp_path / "target"
    os.link(ended.run_dir / "run_001.pt", target)
    (ended.run_dir / "run_001.pt").unlink()
    (ended.run_dir / "run_001.pt").symlink_to(target)
    ended.keeping.look(8 * DAY_SECONDS)

    assert target.exists()
    assert (ended.run_dir / "run_001.pt").is_symlink()


def test_outputs_in_the_working_directory_stay(ended: Ended, tmp_path: Path) -> None:
    code, notes = tmp_path / "code", tmp_path / "notes"
    for folder in (code / "runs", notes):
        folder.mkdir(parents=True)
    ended.run.outputs = Outputs(code, Globs(["runs"]), Globs(()), notes)
    ended.run.outputs.note_before()
    (code / "runs" / "events").write_text("x")
    assert "run_001/runs/events" in ended.run.look()
    ended.note()
    ended.keeping.look(8 * DAY_SECONDS)

    assert (code / "runs" / "events").exists()
    assert ended.left() == []


def test_a_file_of_the_same_content_that_was_laid_there_since_stays(ended: Ended) -> None:
    path = ended.run_dir / "run_001.csv"
    mark = Mark.of(path.stat())
    ended.note()
    content = path.read_text()
    path.unlink()
    (ended.run_dir / "other").write_text("holds the inode")
    path.write_text(content)
    os.utime(path, ns=(mark.mtime_ns + 1, mark.mtime_ns + 1))
    ended.keeping.look(8 * DAY_SECONDS)

    assert "run_001.csv" in ended.left()
