"""The example as a lab would run it: a real process, its files, an interruption."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("torch", reason="the example's packages are not installed")

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
TIMEOUT_SECONDS = 120


class Run:
    """One run's folder, and the ways to start the example in it."""

    def __init__(self, folder: Path, **changed: object) -> None:
        folder.mkdir()
        self.metrics = folder / "run_001.csv"
        self.checkpoint = folder / "run_001.pt"
        self._config = folder / "config.yaml"
        given = yaml.safe_load((EXAMPLE / "digits.yaml").read_text())
        self._config.write_text(yaml.safe_dump(given | changed))

    def start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, EXAMPLE / "train.py", "--config", self._config],
            env={
                "PATH": os.environ["PATH"],
                "CUDA_VISIBLE_DEVICES": "",
                "LAB_METRICS_CSV": str(self.metrics),
                "LAB_CHECKPOINT": str(self.checkpoint),
                "LAB_RUN_DIR": str(self.metrics.parent),
                **environment,
            },
            stdout=subprocess.PIPE,
            text=True,
        )

    def finish(self, **environment: str) -> str:
        process = self.start(**environment)
        output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 0
        return output

    def rows(self) -> list[dict[str, str]]:
        with self.metrics.open(newline="") as file:
            return list(csv.DictReader(file))

    def curve(self) -> list[dict[str, str]]:
        """The rows without the one column that no two runs share."""
        return [{k: v for k, v in row.items() if k != "seconds"} for row in self.rows()]

    def wait_for_rows(self, count: int) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not self.metrics.exists() or len(self.rows()) < count:
            assert time.monotonic() < deadline, "the example writes no rows"
            time.sleep(0.02)


def test_it_learns_the_digits(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", epochs=20)

    output = run.finish()

    assert [int(row["epoch"]) for row in run.rows()] == list(range(1, 21))
    assert float(run.rows()[-1]["test_accuracy"]) > 0.97
    assert "Accuracy on the held-out images" in output
    assert run.checkpoint.stat().st_size > 100_000


def test_a_killed_run_that_resumes_ends_with_the_same_curve(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole", epochs=6)
    whole.finish()
    broken = Run(tmp_path / "broken", epochs=6, epoch_seconds=0.3)
    process = broken.start()
    broken.wait_for_rows(3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with broken.metrics.open("a") as file:
        file.write("6,0.5,0.5,0.1,0.1,0.1\n7,0.5,0.")  # past the checkpoint, and a torn row

    output = broken.finish(LAB_RESUME_FROM=str(broken.checkpoint))

    assert "Going on after epoch" in output
    assert broken.curve() == whole.curve()


def test_without_the_lab_it_writes_into_its_own_folder(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", epochs=1)

    run.finish(LAB_METRICS_CSV="", LAB_CHECKPOINT="", LAB_RUN_DIR=str(tmp_path / "mine"))

    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == [
        "checkpoint.pt",
        "metrics.csv",
    ]
