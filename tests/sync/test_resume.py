"""What a next attempt is given to go on from, out of whatever checkpoints a script writes."""

import pytest

from sync import intake
from tests.sync.conftest import Run

pytestmark = pytest.mark.django_db


def full(run: Run, data: bytes, name: str, **said: int) -> None:
    intake.note_derived(run.target(name), run.full(data, name, **said))


def checkpoint(run: Run) -> str | None:
    run.attempt.job.refresh_from_db()
    resume = run.attempt.job.resume_point.get("resume")
    return resume and resume["checkpoint"]


def test_of_several_checkpoints_the_one_that_was_written_last_counts(run: Run):
    for epoch in (9, 10, 8):  # as they arrive: the newest is sent first
        full(run, b"%d" % epoch, f"run_001/ckpt_epoch{epoch}.pt", source_mtime=1000 + epoch // 9)

    assert checkpoint(run) == "run_001/ckpt_epoch10.pt"  # 9 and 10 were written in one second


def test_the_place_that_the_lab_names_counts_before_others(run: Run):
    full(run, b"all to go on from", "run_001.pt", source_mtime=1000)
    full(run, b"weights only", "run_001/best.pt", source_mtime=1001)

    assert checkpoint(run) == "run_001.pt"


def test_of_an_upload_that_was_cut_the_checkpoint_before_it_is_used(run: Run):
    full(run, b"whole", "run_001/ckpt_epoch1.pt", source_mtime=1000)
    run.chunk(b"cut in the middle", 0, 5, name="run_001/ckpt_epoch2.pt")

    assert checkpoint(run) == "run_001/ckpt_epoch1.pt"


ASIDE = ("run_001/.tmp_7/best.pt", "run_001/ckpt.tmp/model.pt", "run_001/.x/checkpoint-500")


@pytest.mark.parametrize("name", ASIDE)
def test_one_in_a_hidden_or_temporary_folder_counts_where_there_is_no_other(run: Run, name: str):
    files = [name] if name.endswith(".pt") else [f"{name}/{file}" for file in TRAINER]
    for file in files:
        full(run, file.encode(), file, source_mtime=2000)
    alone = checkpoint(run)

    full(run, b"meant", "run_001/epoch1.pt", source_mtime=1000)

    assert (alone, checkpoint(run)) == (name, "run_001/epoch1.pt")


TRAINER = ("model.safetensors", "optimizer.pt", "trainer_state.json", "scheduler.pt")
WEIGHTS = [
    ["model.safetensors"],
    ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_folder_of_the_trainer_is_a_checkpoint_once_all_of_it_is_there(run: Run, weights):
    folder = "run_001/out/checkpoint-500"
    full(run, b"older", "run_001/ckpt_epoch1.pt", source_mtime=1000)
    for file in [*weights, "optimizer.pt", "trainer_state.json", "config.json"]:
        full(run, file.encode(), f"{folder}/{file}", source_mtime=1001)
        assert checkpoint(run) == "run_001/ckpt_epoch1.pt"

    full(run, b"last", f"{folder}/scheduler.pt", source_mtime=1001)

    assert checkpoint(run) == folder
    named = {file["lay_as"] for file in run.attempt.job.resume_point["resume"]["files"]}
    assert named >= {f"{folder}/{file}" for file in [*weights, "config.json", "scheduler.pt"]}


@pytest.mark.parametrize(
    "name",
    [
        "run_001/checkpoint-500/optimizer.pt",
        "run_001/images/1.png",
        "run_001.yaml",
        "run_001/.best.pt",
        "run_001.pt.tmp",
    ],
)
def test_what_is_no_checkpoint_by_itself_is_none(run: Run, name: str):
    full(run, b"x", name)

    assert checkpoint(run) is None
