"""Curves from a CSV as scripts write it: ragged, half-written, full of NaN, and long."""

import io

from sync import curves
from sync.curves import Curves


def read(text: str, after: int | None = None) -> Curves:
    data = text.encode()
    return curves.read(io.BytesIO(data), len(data), after)


def test_columns_and_values():
    found = read("epoch, loss \n1,0.5\n2,0.25\n")

    assert found.columns == ["epoch", "loss"]
    assert found.data == [[1, 2], [0.5, 0.25]]
    assert found.next == 26


def test_what_is_no_finite_number_is_a_gap():
    assert read("a,b\nnan,inf\n,x\n1,2\n").data == [[None, None, 1], [None, None, 2]]


def test_ragged_and_half_written_lines_are_left_out():
    assert read("a,b\n1,2\n3\n4,5,6\n7,8\n9,1").data == [[1, 7], [2, 8]]


def test_what_was_not_acknowledged_is_left_out():
    data = b"a\n1\n2\n"

    assert curves.read(io.BytesIO(data), 4).data == [[1]]


def test_a_new_row_costs_a_new_row():
    first = read("a,b\n1,2\n")

    more = read("a,b\n1,2\n3,4\n", first.next)

    assert (more.rows, more.start, more.data) == (1, 8, [[3], [4]])


def test_an_offset_of_another_file_is_no_offset():
    assert read("a\n1\n", after=999).data == [[1]]


def test_a_long_curve_is_thinned_and_keeps_its_spikes():
    values = [0.0] * 100_000
    values[33_333], values[77_777] = 99.0, -99.0

    [loss] = read("loss\n" + "\n".join(map(str, values)) + "\n").data

    assert len(loss) <= curves.MAX_POINTS + 2
    assert (max(loss), min(loss)) == (99.0, -99.0)


def test_a_file_without_a_whole_line_has_no_curves():
    assert read("") == read("epoch,lo") == curves.NONE


def test_a_header_alone_has_columns_and_no_values():
    assert (read("a,b\n").columns, read("a,b\n").data) == (["a", "b"], [[], []])
