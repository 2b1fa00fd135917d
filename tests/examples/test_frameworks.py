"""Scripts as labs have them, run for real and unchanged: what they computed is what is shown.

Each is a process of its own, from frameworks/, which prints what it computes; a real agent sends
its files to the real endpoints while it runs.
"""

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.cli import labrun
from sync.curves import kept, shown
from tests import make
from tests.sync.conftest import TOKEN, Run
from tests.sync.curves import Points, Seen
from tests.sync.test_with_agent import Side, wait_for

pytestmark = pytest.mark.django_db(transaction=True)

SCRIPTS = Path(__file__).parent / "frameworks"
TIMEOUT_SECONDS = 240


@pytest.fixture
def side(live_server, settings, tmp_path) -> Side:
    settings.LAB_LOGS_DIR = tmp_path / "logs"
    kept.shelf.clear()
    device = make.device(token=TOKEN, host_id="gpu-01")
    run = Run(make.attempt(make.job(command=["x"]), device, started=True))
    folder = tmp_path / "work" / "digits"
    (folder / "run_001").mkdir(parents=True)
    return Side(live_server.url, run, folder)


@dataclass
class Script:
    """What a script printed that it computed."""

    rows: list[dict[str, float]]

    def curve(self, name: str, over: str = "step") -> Points:
        return [(row[over], row[name]) for row in self.rows if name in row and over in row]


def run_script(side: Side, name: str) -> Script:
    """Run it in the run's folder, with an agent beside it, until its files of metrics are here."""
    folder = side.folder / "run_001"
    with side.agent():
        done = subprocess.run(
            [sys.executable, SCRIPTS / name],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        for path in metrics_in(folder):
            side.arrives(path.relative_to(side.folder).as_posix(), path.read_bytes())
    return told(done.stdout)


def environment() -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(labrun.__file__).parent),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }


def told(printed: str) -> Script:
    lines = [line for line in printed.splitlines() if line.startswith("truth ")]
    return Script([ast.literal_eval(line.removeprefix("truth ")) for line in lines])


def metrics_in(folder: Path) -> list[Path]:
    patterns = ("*.csv", "events.out.tfevents.*", "trainer_state.json")
    return [path for pattern in patterns for path in folder.rglob(pattern)]


def seen(side: Side) -> Seen:
    answer = shown.of(side.attempt.job)
    assert not answer["more"]
    return Seen(answer)


def without(side: Side, *names: str) -> Seen:
    """What is shown of a run that has not these files."""
    for name in names:
        side.attempt.job.files.filter(name__contains=name).delete()
    return seen(side)


def near(points: Points) -> Points:
    """TensorBoard holds single precision."""
    return pytest.approx([value for point in points for value in point], rel=1e-6, nan_ok=True)


def flat(points: Points) -> list[float | None]:
    return [value for point in points for value in point]


def test_plain_csv(side):
    script = run_script(side, "plain_csv.py")

    assert seen(side).by("epoch") == {
        name: script.curve(name, "epoch") for name in ("loss", "accuracy")
    }


def test_labrun_with_a_column_that_comes_up_later(side):
    script = run_script(side, "labrun_log.py")

    assert seen(side).by("step") == {
        name: script.curve(name) for name in ("train/loss", "val/loss")
    }


def test_pandas_that_writes_the_whole_file_each_epoch(side):
    pytest.importorskip("pandas")

    script = run_script(side, "pandas_rewrites.py")

    assert seen(side).by("epoch") == {
        name: script.curve(name, "epoch") for name in ("train_loss", "val_loss")
    }


def test_summary_writer_with_a_restart(side):
    pytest.importorskip("tensorboard")

    script = run_script(side, "summary_writer.py")

    found = seen(side).by("step")
    assert found.keys() == {
        "train/loss", "train/acc", "double", "both", "both (runs/one/both_val)", "hparam/best"
    }  # fmt: skip
    for name in ("train/loss", "train/acc"):
        latest = sorted(dict(script.curve(name)).items())
        assert [step for step, _ in found[name]] == list(range(9))
        assert flat(found[name]) == near(latest)
    assert found["double"] == [(step, step / 3) for step in range(9)]
    assert [seconds for seconds, _ in seen(side).by("time")["double"]] != list(range(9))


def test_summary_writer_that_never_rests_is_drawn_while_it_writes(side):
    pytest.importorskip("tensorboard")
    folder = side.folder / "run_001"

    def points() -> int:
        return len(seen(side).series.get("train/loss", []))

    with side.agent() as sync:
        script = subprocess.Popen(
            [sys.executable, SCRIPTS / "summary_writer_busy.py"],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            for least in (1, 10, 20):
                wait_for(lambda: points() >= least, "the curve grows", TIMEOUT_SECONDS)  # noqa: B023
                assert script.poll() is None
            (folder / "enough").touch()
            printed = script.communicate(timeout=TIMEOUT_SECONDS)[0]
        finally:
            script.kill()
            script.wait()
        (folder / "enough").unlink()
        side.ends(sync)

    expected = told(printed).curve("train/loss")
    assert flat(seen(side).by("step")["train/loss"]) == near(expected)
    (events,) = metrics_in(folder)
    assert side.generation(events.relative_to(side.folder).as_posix()) == 1


def test_lightning_with_both_loggers(side):
    pytest.importorskip("pytorch_lightning")
    pytest.importorskip("tensorboard")

    script = run_script(side, "lightning_fit.py")

    both = seen(side)
    assert both.series.keys() == {"train/loss", "val/loss"}
    for found in (both, without(side, "metrics.csv")):
        for name in ("train/loss", "val/loss"):
            assert flat(found.by("step")[name]) == near(script.curve(name))
    assert [epoch for epoch, _ in found.by("epoch")["train/loss"]] == [0] * 4 + [1] * 4 + [2] * 4


def test_hugging_face_trainer(side):
    pytest.importorskip("accelerate")
    pytest.importorskip("transformers")
    pytest.importorskip("tensorboard")

    script = run_script(side, "hf_trainer.py")

    for found in (seen(side), without(side, "tfevents")):
        assert flat(found.by("step")["train/loss"]) == near(script.curve("loss"))
        assert flat(found.by("step")["eval/loss"]) == near(script.curve("eval_loss"))
        assert "loss" not in found.series
    assert found.by("epoch")["eval/loss"] == script.curve("eval_loss", "epoch")
