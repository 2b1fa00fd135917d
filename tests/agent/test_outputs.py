"""What a job leaves in its working directory: which files are its own, and which are not."""

import os
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.files import outputs as module
from agent.files.globs import Globs
from agent.files.outputs import Outputs
from agent.files.runfiles import RunFiles
from agent.wire import LeftOut, WhyLeftOut
from tests.agent.filehost import UID

PATTERNS = ["lightning_logs/**", "runs/**", "wandb/**"]


@dataclass
class Desk:
    """A working directory, and the attempts that work in it."""

    folder: Path  # for everything
    ignore: list[str] = field(default_factory=list)
    patterns: list[str] = field(default_factory=lambda: list(PATTERNS))

    @property
    def code(self) -> Path:
        return self.folder / "code"

    def write(self, path: str, content: str = "x") -> Path:
        made = self.code / path
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(content)
        return made

    def attempt(self, number: int = 1) -> RunFiles:
        """One that has just started, or its agent has."""
        run_dir, notes = self.folder / "logs", self.folder / f"attempt-{number}"
        for folder in (self.code, run_dir, notes):
            folder.mkdir(exist_ok=True)
        ignore = Globs(self.ignore, everywhere=True)
        found = Outputs(self.code, Globs(self.patterns), ignore, notes)
        found.note_before()
        return RunFiles(
            "a1", UID, "digits", f"run_{number:03d}", 1, run_dir, ignore=ignore, outputs=found
        )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def names(run: RunFiles) -> list[str]:
    return sorted(run.look())


def content(run: RunFiles, name: str) -> bytes:
    with closing(run.open(name)) as file:
        return file.read()


def test_what_is_written_since_the_start_is_an_artifact_of_the_run(desk: Desk) -> None:
    run = desk.attempt()
    desk.write("lightning_logs/version_0/metrics.csv", "epoch\n")
    desk.write("lightning_logs/version_0/checkpoints/epoch=5-step=10.ckpt", "weights")
    desk.write("runs/Nov24/events.out.tfevents.1.host.2.0")
    desk.write("train.py")
    desk.write("data/image.png")

    assert names(run) == [
        "run_001/lightning_logs/version_0/checkpoints/epoch=5-step=10.ckpt",
        "run_001/lightning_logs/version_0/metrics.csv",
        "run_001/runs/Nov24/events.out.tfevents.1.host.2.0",
    ]
    assert content(run, names(run)[0]) == b"weights"


def test_what_was_there_before_is_the_runs_only_when_it_changes(desk: Desk) -> None:
    old = desk.write("lightning_logs/version_0/metrics.csv", "epoch\n1\n")
    desk.write("lightning_logs/version_0/hparams.yaml")
    run = desk.attempt()
    before = names(run)
    with old.open("a") as file:
        file.write("2\n")

    assert before == []
    assert names(run) == ["run_001/lightning_logs/version_0/metrics.csv"]


def test_a_file_with_an_older_date_that_came_since_is_the_runs(desk: Desk) -> None:
    run = desk.attempt()
    os.utime(desk.write("runs/unpacked.bin"), (1e9, 1e9))

    assert names(run) == ["run_001/runs/unpacked.bin"]


def test_no_clock_is_asked_which_files_are_new(desk: Desk) -> None:
    os.utime(desk.write("runs/of_the_future"), (4e9, 4e9))
    run = desk.attempt()

    assert names(run) == []


def test_another_agent_of_the_same_attempt_goes_on(desk: Desk) -> None:
    desk.attempt()
    desk.write("runs/a")

    assert names(desk.attempt()) == ["run_001/runs/a"]


def test_what_comes_after_the_end_is_anothers(desk: Desk) -> None:
    run = desk.attempt()
    desk.write("runs/mine")
    run.exited = True
    at_the_end = names(run)
    desk.write("runs/of_the_next_job")

    assert at_the_end == names(run) == ["run_001/runs/mine"]
    again = desk.attempt()  # the agent was restarted meanwhile
    again.exited = True
    assert names(again) == ["run_001/runs/mine"]


def test_what_is_ignored_is_not_even_looked_into(desk: Desk) -> None:
    desk.ignore = ["*.tmp", "wandb/**/media", "/images"]
    run = desk.attempt()
    desk.write("wandb/run-1/files/media/1.png")
    desk.write("wandb/run-1/logs/debug.log")
    desk.write("runs/a.tmp")
    artifacts = run.run_dir / "run_001" / "images"
    artifacts.mkdir(parents=True)
    (artifacts / "1.png").write_text("x")

    assert names(run) == ["run_001/wandb/run-1/logs/debug.log"]


def test_names_beginning_with_a_dot_come_only_where_a_glob_names_them(desk: Desk) -> None:
    desk.patterns = ["runs/**", ".hydra/**"]
    run = desk.attempt()
    desk.write("runs/.cache/x")
    desk.write(".hydra/config.yaml")

    assert names(run) == ["run_001/.hydra/config.yaml"]


def test_no_link_leads_out_of_the_working_directory(desk: Desk) -> None:
    secret = desk.folder / "token"
    secret.write_text("secret")
    run = desk.attempt()
    desk.write("runs/best.ckpt", "weights")
    (desk.code / "runs" / "last.ckpt").symlink_to("best.ckpt")
    (desk.code / "runs" / "token").symlink_to(secret)
    (desk.code / "runs" / "up").symlink_to(desk.folder, target_is_directory=True)

    assert names(run) == ["run_001/runs/best.ckpt", "run_001/runs/last.ckpt"]
    assert run.left_out == [LeftOut("run_001/runs/token", WhyLeftOut.LINK)]
    assert content(run, "run_001/runs/last.ckpt") == b"weights"


def test_a_folder_that_becomes_a_link_takes_its_files_away(desk: Desk) -> None:
    elsewhere = desk.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a").write_text("secret")
    run = desk.attempt()
    desk.write("runs/v/a", "mine")
    before = names(run)
    (desk.code / "runs" / "v").rename(desk.code / "was")
    (desk.code / "runs" / "v").symlink_to(elsewhere)

    with pytest.raises(FileNotFoundError):
        run.open("run_001/runs/v/a")
    assert before == ["run_001/runs/v/a"]
    assert names(run) == []


def test_of_a_huge_folder_a_part_is_looked_at_and_that_is_said(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 50)
    run = desk.attempt()
    for number in range(200):
        desk.write(f"runs/{number}")

    assert len(names(run)) < 50
    assert LeftOut(str(desk.code), WhyLeftOut.TOO_MANY) in run.left_out


def test_where_too_much_was_there_before_what_was_not_noted_counts_by_its_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 50)
    for number in range(200):
        desk.write(f"runs/{number}")
    run = desk.attempt()
    note = desk.folder / "attempt-1" / module.BEFORE
    later = note.stat().st_mtime + 60
    os.utime(note, (later, later))
    monkeypatch.setattr(module, "MAX_ENTRIES", 500)
    os.utime(desk.write("runs/new"), (later + 1, later + 1))

    assert names(run) == ["run_001/runs/new"]


def test_a_folder_is_searched_a_little_at_each_look(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILES_A_LOOK", 10)
    run = desk.attempt()
    for number in range(35):
        desk.write(f"runs/{number}")

    assert [len(run.look()) for _ in range(4)] == [10, 20, 30, 35]


def test_the_agents_own_folder_is_no_output(desk: Desk) -> None:
    desk.patterns = ["**"]
    run = desk.attempt()
    assert run.outputs is not None
    run.outputs.leave = desk.code / "logs_lab"
    desk.write("logs_lab/digits/run_007.csv")
    desk.write("plot.png")

    assert names(run) == ["run_001/plot.png"]


def test_two_forms_of_one_name_are_one_file(desk: Desk) -> None:
    run = desk.attempt()
    desk.write("runs/\uac00.png", "composed")
    desk.write("runs/\u1100\u1161.png", "decomposed")

    assert names(run) == ["run_001/runs/\uac00.png"]
    assert [one.reason for one in run.left_out] == [WhyLeftOut.NAME]


@pytest.mark.parametrize(("own", "output"), [("ckpt", "ckpt/w.bin"), ("ckpt/w.bin", "ckpt")])
def test_an_output_that_cannot_be_beside_a_file_of_the_run_is_left_out(
    desk: Desk, own: str, output: str
) -> None:
    desk.patterns = ["ckpt", "ckpt/**"]
    run = desk.attempt()
    path = run.run_dir / "run_001" / own
    path.parent.mkdir(parents=True)
    path.write_text("x")
    desk.write(output)

    assert names(run) == [f"run_001/{own}"]
    assert run.left_out == [LeftOut(f"run_001/{output}", WhyLeftOut.NAME)]


def test_names_of_any_bytes_are_told_of_and_not_sent(desk: Desk) -> None:
    run = desk.attempt()
    desk.write("runs/a")
    (desk.code / "runs" / os.fsdecode(b"\xff\xfe")).write_text("x")

    assert names(run) == ["run_001/runs/a"]
    assert run.left_out == [LeftOut("run_001/runs/\ufffd\ufffd", WhyLeftOut.NAME)]
