"""Storms over a job's files in short, each kind once: `make storms` has hundreds of them."""

import time
from pathlib import Path

import pytest

from tests.faults.matrix import Matrix
from tests.faults.storms import KINDS, draw, play, report

SEED = 1
STACKS = 2
HALVES = 2  # so that they run side by side
BEGUN_WITHIN_SECONDS = 300.0


@pytest.mark.parametrize("half", range(HALVES))
def test_no_row_is_lost_doubled_or_torn_in_any_weather(tmp_path: Path, half: int):
    storms = [draw(SEED, number) for number in range(half, len(KINDS), HALVES)]
    end = time.monotonic() + BEGUN_WITHIN_SECONDS

    results = list(Matrix(tmp_path, storms, STACKS, end, play, by_proxy=True).results())

    assert len(results) == len(storms), "the machine was too slow for all of them"
    assert [result for result in results if result["faults"]] == [], report(results)
