"""The check of the workload finds each way in which bytes go wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import workload

LINES = [workload.row(number) for number in range(1, 6)]


def csv(*lines: bytes) -> bytes:
    return b"".join(line + b"\n" for line in (workload.HEADER, *lines))


def test_whole_rows_in_order_are_right():
    assert workload.faults_of(csv(*LINES), 5) == []


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        (csv(*LINES[:2], *LINES[3:]), ["3 is lost"]),
        (csv(*LINES[:3], LINES[2], *LINES[3:]), ["3 is there twice"]),
        (csv(*LINES[:4]), ["5 is lost"]),
        (csv(*LINES) + workload.row(6), ["the last line is torn"]),
        (csv(*LINES, workload.row(6)), ["there are 6, and 5 were written"]),
        (b"n,crc", ["the header is missing or torn"]),
    ],
)
def test_each_fault_is_named(content, faults):
    assert workload.faults_of(content, 5) == faults


def test_a_changed_byte_and_a_wrong_order_are_seen():
    torn = csv(*LINES).replace(LINES[2], LINES[2][:-1])
    turned = csv(LINES[0], LINES[2], LINES[1], *LINES[3:])

    assert any("torn line" in fault for fault in workload.faults_of(torn, 5))
    assert workload.faults_of(turned, 5) == ["2 is lost", "2 comes late, after 3"]


def test_a_mixture_of_two_checkpoints_is_not_whole():
    old, new = workload.checkpoint(100), workload.checkpoint(200)

    assert workload.is_whole(new)
    assert not workload.is_whole(new[:50_000] + old[50_000:])


def test_what_the_script_writes_is_right(tmp_path: Path):
    truth, metrics = tmp_path / "truth", tmp_path / "run.csv"
    places = {"LAB_METRICS_CSV": str(metrics), "LAB_CHECKPOINT": str(tmp_path / "run.pt")}

    command = [sys.executable, workload.__file__, "--truth", str(truth), "--seconds", "0.3"]
    command += ["--rows-per-second", "400", "--rows-per-checkpoint", "10"]

    done = subprocess.run(command, env={**os.environ, **places}, capture_output=True, check=True)

    written = workload.written_rows(truth)
    assert written >= 10
    assert workload.faults_of(metrics.read_bytes(), written) == []
    assert workload.faults_of_log(done.stdout, written) == []
    assert workload.is_whole((tmp_path / "run.pt").read_bytes())
