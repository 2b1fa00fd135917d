"""The kill matrix in short: every part of the lab, killed once at every moment of a job's life.

All of it, with outages of minutes: `make kills KILLS=2000`.
"""

import time
from pathlib import Path

import pytest

from tests.faults.matrix import CELLS, SHORT_DOWNTIMES, Matrix, report
from tests.faults.victims import draw

SEED = 1
STACKS = 3
HALVES = 2  # so that they run side by side
BEGUN_WITHIN_SECONDS = 300.0


@pytest.mark.parametrize("half", range(HALVES))
def test_nothing_is_lost_whatever_is_killed_whenever(tmp_path: Path, half: int):
    numbers = range(half, len(CELLS), HALVES)
    kills = [draw(SEED, number, CELLS, SHORT_DOWNTIMES) for number in numbers]
    matrix = Matrix(tmp_path, kills, STACKS, time.monotonic() + BEGUN_WITHIN_SECONDS)

    results = list(matrix.results())

    assert len(results) == len(kills), "the machine was too slow for all of them"
    assert [result for result in results if result["faults"]] == [], report(results)
