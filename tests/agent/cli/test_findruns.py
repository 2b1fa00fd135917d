"""Which runs lie in a folder, whose files are whose, what they are called, and when they were."""

import os
import struct
from pathlib import Path

import pytest

from agent.cli import eventfiles, findruns, importing
from agent.cli.errors import CliError
from agent.cli.findruns import LocalRun, find, project_of, title_of
from agent.cli.marks import marks_of
from experiments.options import MAX_NAME_CHARACTERS
from tests.labsite.payloads import PAYLOADS

EVENTS = "events.out.tfevents.1709287200.gpu-01.4711.0"
OTHERS = "events.out.tfevents.1709290000.gpu-01.9999.0"


def lay(folder: Path, *names: str, data: bytes = b"x") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def found(folder: Path) -> dict[str, set[str]]:
    """{run: what its files are called behind its name}"""
    return {run.name: {file.tail for file in run.files} for run in find(folder)}


def one(folder: Path) -> LocalRun:
    [run] = find(folder)
    return run


def record(seconds: float, data: bytes = b"") -> bytes:
    body = b"\x09" + struct.pack("<d", seconds) + data
    return struct.pack("<QI", len(body), 0) + body + b"\0" * 4


# --- whose files ----------------------------------------------------------------------------


def test_what_shares_a_name_is_one_run(tmp_path):
    lay(tmp_path, "digits/run_001.csv", "digits/run_001.yaml", "digits/run_001.best.pt",
        "digits/run_001/images/1.png", "digits/run_010.csv", "digits/notes.txt")  # fmt: skip

    assert found(tmp_path) == {
        "run_001": {".csv", ".yaml", ".best.pt", "/images/1.png"},
        "run_010": {".csv"},
    }


def test_a_table_with_a_config_or_a_checkpoint_beside_it_is_a_run_and_alone_it_is_none(tmp_path):
    lay(tmp_path, "baseline.csv", "baseline.yaml", "train_labels.csv")

    assert found(tmp_path) == {"baseline": {".csv", ".yaml"}}


@pytest.mark.parametrize(
    "names",
    [
        ("version_0/hparams.yaml", "version_0/metrics.csv", "version_0/checkpoints/a=1.ckpt"),
        (f"version_0/{EVENTS}", "version_0/hparams.yaml"),
        ("version_0/trainer_state.json", f"version_0/runs/Mar01_gpu/{EVENTS}"),
        ("version_0/checkpoint-500/trainer_state.json", "version_0/model.safetensors"),
        (f"version_0/train/{EVENTS}", f"version_0/validation/{OTHERS}"),
        ("version_0/progress.csv", "version_0/.hydra/config.yaml"),
    ],
)
def test_a_folder_that_a_logger_wrote_into_is_one_run_with_all_beneath(tmp_path, names):
    lay(tmp_path / "lightning_logs", *names)

    assert found(tmp_path) == {"version_0": {name.removeprefix("version_0") for name in names}}


def test_a_run_below_another_is_its_own_unless_the_same_process_wrote_both(tmp_path):
    lay(tmp_path / "runs", EVENTS, f"loss_train/{EVENTS}.v2", f"exp2/{OTHERS}", f"exp2/a/{OTHERS}")

    assert found(tmp_path / "runs") == {
        "runs": {f"/{EVENTS}", f"/loss_train/{EVENTS}.v2"},
        "exp2": {f"/{OTHERS}", f"/a/{OTHERS}"},
    }


def test_a_table_over_many_runs_is_no_run(tmp_path):
    lay(tmp_path / "runs", "results.csv", f"exp1/{EVENTS}", f"exp2/{OTHERS}")

    assert found(tmp_path) == {"exp1": {f"/{EVENTS}"}, "exp2": {f"/{OTHERS}"}}


def test_what_is_hidden_installed_or_linked_is_left(tmp_path):
    lay(tmp_path, f".trash/{EVENTS}", f"wandb/{EVENTS}", "exp/wandb/x", f"exp/{EVENTS}",
        "exp/last.ckpt", "exp/.lock")  # fmt: skip
    (tmp_path / "exp" / "best.ckpt").symlink_to("/etc/passwd")
    (tmp_path / "exp" / "more").symlink_to("/etc")

    run = one(tmp_path)

    assert {file.tail for file in run.files} == {f"/{EVENTS}", "/last.ckpt"}
    assert sorted(run.left_out) == [
        ("/best.ckpt", "link"), ("/more", "link"), ("/wandb/", "skipped"),
    ]  # fmt: skip


def test_no_name_of_a_file_is_taken_that_the_server_would_refuse(tmp_path):
    lay(tmp_path, f"exp/{EVENTS}")
    for text in PAYLOADS:
        name = text.replace("/", "")[:80]
        try:
            lay(tmp_path / "exp", name)
        except (OSError, UnicodeEncodeError, ValueError):
            continue  # no file system has it either

    run = one(tmp_path)

    assert len(run.files) > 100
    assert {why for _tail, why in run.left_out} == {"name"}


def test_what_is_no_folder_or_too_much_says_so(tmp_path, monkeypatch):
    lay(tmp_path, "a", "b", "c")
    monkeypatch.setattr(findruns, "MAX_ENTRIES", 2)

    with pytest.raises(CliError, match="is no folder"):
        find(tmp_path / "a")
    with pytest.raises(CliError, match="more than 2 files"):
        find(tmp_path)


def test_of_very_many_files_those_beyond_the_limit_are_told(tmp_path, monkeypatch):
    lay(tmp_path, f"exp/{EVENTS}", *(f"exp/z{n}.png" for n in range(3)))
    monkeypatch.setattr(findruns, "MAX_FILES", 2)

    run = one(tmp_path)

    assert len(run.files) == 2
    assert {why for _tail, why in run.left_out} == {"too_many"}


# --- what it is called ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "project", "title"),
    [
        ("logs/digits/run_001.csv", "digits", ""),
        ("logs_lab-server/digits/run_001.csv", "digits", ""),
        (f"digits/runs/exp1/{EVENTS}", "digits", "exp1"),
        ("digits/lightning_logs/version_0/hparams.yaml", "digits", "version_0"),
        (f"my code (2)/tb_logs/a b/{EVENTS}", "my-code-2", "a b"),
        (f"digits/outputs/2024-03-01/12-00-00/{EVENTS}", "digits", "2024-03-01/12-00-00"),
        (f"digits/multirun/2024-03-01/12-00-00/0/{EVENTS}", "digits", "2024-03-01/12-00-00/0"),
    ],
)
def test_its_project_is_the_nearest_folder_that_says_something(tmp_path, path, project, title):
    lay(tmp_path, path)

    run = one(tmp_path)

    assert (project_of(run), title_of(run)) == (project, title)


def test_a_name_made_of_overrides_is_cut_to_what_the_server_takes(tmp_path):
    overrides = ",".join(f"model.layer{n}.rate=0.{n}" for n in range(9))
    lay(tmp_path, f"digits/multirun/{overrides}/{EVENTS}")

    assert title_of(one(tmp_path)) == overrides[:MAX_NAME_CHARACTERS]


def test_nothing_above_the_home_folder_names_a_project(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    lay(tmp_path, f"runs/exp1/{EVENTS}")

    assert project_of(one(tmp_path)) is None


@pytest.mark.parametrize(
    ("names", "config"),
    [
        (("run_001.csv", "run_001.yaml", "run_001/config.yaml"), ".yaml"),
        ((f"exp/{EVENTS}", "exp/hparams.yaml", "exp/config.yaml"), "/config.yaml"),
        ((f"exp/{EVENTS}", "exp/.hydra/config.yaml", "exp/hparams.yaml"), "/.hydra/config.yaml"),
        ((f"exp/{EVENTS}", "exp/model/config.json"), None),
    ],
)
def test_its_config_is_the_most_telling_file(tmp_path, names, config):
    lay(tmp_path, *names)

    found = one(tmp_path).config

    assert (found.tail if found else None) == config


# --- when it was ----------------------------------------------------------------------------


def test_event_files_tell_when_it_was_and_a_copys_times_do_not(tmp_path):
    lay(tmp_path, f"exp/{EVENTS}", data=record(1709287201.5) + record(1709290000.5) + b"cut")
    lay(tmp_path, "exp/hparams.yaml")

    began, ended = importing._times(one(tmp_path))

    assert (began.timestamp(), ended.timestamp()) == (1709287200, 1709290000.5)


@pytest.mark.parametrize("name", [EVENTS, "events.out.tfevents.999999999999.gpu-01.1.0"])
def test_a_time_beyond_all_calendars_is_one_that_can_be_written(tmp_path, name):
    lay(tmp_path, f"exp/{name}", data=record(2.0**39))

    assert importing._times(one(tmp_path))[1].year == 2242


def test_of_other_files_their_times_tell(tmp_path):
    lay(tmp_path, "run_001.yaml", "run_001.csv")
    os.utime(tmp_path / "run_001.yaml", (1000 * 86400, 1000 * 86400))
    os.utime(tmp_path / "run_001.csv", (1001 * 86400, 1001 * 86400))

    began, ended = importing._times(one(tmp_path))

    assert (ended - began).days == 1


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 11, b"\xff" * 100, struct.pack("<QI", 2**63, 0) + b"x" * 50, record(-1.0)],
)
def test_a_damaged_event_file_tells_nothing(tmp_path, data):
    lay(tmp_path, EVENTS, data=data)

    assert eventfiles.last_time(tmp_path / EVENTS) is None
    assert isinstance(eventfiles.first_record(tmp_path / EVENTS), bytes)


# --- by what it is known again --------------------------------------------------------------

ROWS = b"epoch,loss\n0,2.5\n1,1.25\n2,0.5\n"


def marks(folder: Path) -> list[str]:
    return marks_of(one(folder))


def test_a_table_that_grew_has_the_mark_of_before_among_its_marks(tmp_path):
    lay(tmp_path, "run_001.csv", data=ROWS[:24] + b"2,0")  # a line is not whole yet
    before = marks(tmp_path)
    lay(tmp_path, "run_001.csv", data=ROWS)

    assert before[-1] in marks(tmp_path)
    assert before[-1] != marks(tmp_path)[-1]


def test_where_it_lies_is_no_mark_and_its_name_is(tmp_path):
    lay(tmp_path / "a", "run_001.csv", data=ROWS)
    lay(tmp_path / "b" / "logs", "run_001.csv", data=ROWS)
    lay(tmp_path / "c", "run_002.csv", data=ROWS)

    here, there, other = (marks(tmp_path / name) for name in "abc")

    assert here == there
    assert not set(here) & set(other)


def test_a_head_alone_is_no_mark_as_other_runs_have_it_too(tmp_path):
    lay(tmp_path / "a", "version_0/metrics.csv", data=b"epoch,loss\n0,2.5\n")
    lay(tmp_path / "b", "version_0/metrics.csv", data=b"epoch,loss\n0,2.4\n")

    assert not set(marks(tmp_path / "a")) & set(marks(tmp_path / "b"))


@pytest.mark.parametrize("data", [b"epoch,loss\n", b"epoch", b"x" * 100_000 + b"\n1\n2\n"])
def test_a_run_that_has_nothing_but_a_head_is_known_by_all_of_it(tmp_path, data):
    lay(tmp_path / "a", "run_001.csv", data=data)
    lay(tmp_path / "b", "run_001.csv", data=b"e" + data)

    assert len(marks(tmp_path / "a")) == 1
    assert marks(tmp_path / "a") != marks(tmp_path / "b")


def test_another_run_in_the_same_folder_is_another(tmp_path):
    lay(tmp_path, f"exp/{EVENTS}", data=record(1.5))
    before = marks(tmp_path)
    lay(tmp_path, f"exp/{EVENTS}", data=record(2.5))

    assert not set(before) & set(marks(tmp_path))


def test_event_files_that_came_later_change_no_mark(tmp_path):
    lay(tmp_path, f"exp/{EVENTS}", data=record(1.5))
    before = marks(tmp_path)
    lay(tmp_path, f"exp/{EVENTS}", data=record(1.5) + record(9.5))
    lay(tmp_path, f"exp/{OTHERS}", data=record(5.5))

    assert marks(tmp_path)[-1] == before[-1]


def test_a_run_without_curves_has_a_mark_too(tmp_path):
    lay(tmp_path, "run_001.yaml", "run_001.pt")

    assert len(marks(tmp_path)) == 2


def test_the_metadata_of_an_agent_names_the_run_that_ran(tmp_path):
    lay(tmp_path, "run_001.yaml", data=b"experiment_uid: 20261130_1a2b\nproject: digits\n")

    assert importing._uid_in(one(tmp_path)) == "20261130_1a2b"
