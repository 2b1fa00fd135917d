"""Curves from a CSV as scripts write it: ragged, half-written, full of NaN, and long."""

import pytest

from sync import curves

pytestmark = pytest.mark.django_db


def test_columns_and_values(run):
    run.delta(b"epoch, loss \n1,0.5\n2,0.25\n")

    read = curves.read(run.attempt.job)

    assert read.columns == ["epoch", "loss"]
    assert read.values == [[1, 2], [0.5, 0.25]]
    assert read.next == 26


def test_what_is_no_finite_number_is_a_gap(run):
    run.delta(b"a,b\nnan,inf\n,x\n1,2\n")

    assert curves.read(run.attempt.job).values == [[None, None, 1], [None, None, 2]]


def test_ragged_and_half_written_lines_are_left_out(run):
    run.delta(b"a,b\n1,2\n3\n4,5,6\n7,8\n9,1")

    assert curves.read(run.attempt.job).values == [[1, 7], [2, 8]]


def test_a_new_row_costs_a_new_row(run):
    run.delta(b"a,b\n1,2\n", generation=1, offset=0)
    first = curves.read(run.attempt.job)
    run.delta(b"3,4\n", generation=1, offset=8)

    more = curves.read(run.attempt.job, first.next, first.generation)

    assert (more.rows, more.start, more.values) == (1, 8, [[3], [4]])


def test_a_new_generation_is_read_from_its_start(run):
    run.delta(b"a\n1\n", generation=1, offset=0)
    first = curves.read(run.attempt.job)
    run.delta(b"a,b\n1,2\n", generation=2, offset=0)

    again = curves.read(run.attempt.job, first.next, first.generation)

    assert (again.start, again.columns) == (0, ["a", "b"])


def test_a_long_curve_is_thinned_and_keeps_its_spikes(run):
    values = [0.0] * 100_000
    values[33_333], values[77_777] = 99.0, -99.0
    text = "loss\n" + "\n".join(map(str, values)) + "\n"
    run.delta(text.encode())

    [loss] = curves.read(run.attempt.job).values

    assert len(loss) <= curves.MAX_POINTS + 2
    assert (max(loss), min(loss)) == (99.0, -99.0)


def test_a_run_without_metrics_has_no_curves(run):
    assert curves.read(run.attempt.job) == curves.NONE
