"""Curves from what scripts write: ragged, half-written, full of NaN, long, in several files."""

import json

import numpy as np
import pytest

from sync.curves import kept, shown
from sync.curves.lines import CSV, JSONL, MAX_LINE_BYTES
from sync.curves.sources import MAX_SOURCES
from sync.curves.table import MAX_COLUMNS, Table
from tests.sync import curves
from tests.sync.conftest import Run

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nothing_kept():
    kept.shelf.clear()


def of(run: Run, have: str = "") -> curves.Seen:
    return curves.Seen(shown.of(run.attempt.job, have))


def test_columns_and_values(run):
    run.delta(b"epoch, loss \r\n1,0.5\r\n2, 0.25\r\n")

    seen = of(run)

    assert seen.series == {"loss": [0.5, 0.25]}
    assert seen.by("epoch")["loss"] == [(1, 0.5), (2, 0.25)]


def test_padded_and_quoted_headers_and_cells(run):
    run.delta(b'\xef\xbb\xbf"epoch" ,"train, loss", "acc"\n"1","0.5"," 2"\n2,0.25,3\n')

    assert of(run).series == {"train, loss": [0.5, 0.25], "acc": [2, 3]}


def test_a_line_goes_on_over_empty_cells_and_breaks_at_nan_and_infinity(run):
    run.delta(b"step,loss,val\n1,0.5,\n2,nan,\n3,inf,0.4\n4,0.2,x\n")

    assert of(run).by("step") == {
        "loss": [(1, 0.5), (2, None), (3, None), (4, 0.2)],
        "val": [(3, 0.4)],
    }


def test_ragged_and_half_written_lines_are_left_out(run):
    run.delta(b"a,b\n1,2\n3\n4,5,6\n\n7,8\n9,1")

    assert of(run).series == {"a": [1, 7], "b": [2, 8]}


def test_a_quote_that_is_never_closed_costs_its_line(run):
    run.delta(b'a,b\n1,2\n"3,4\n5,6\n')

    assert of(run).series == {"a": [1, 5], "b": [2, 6]}


def test_columns_that_are_called_alike_are_told_apart(run):
    run.delta(b"loss,loss,,loss.1\n1,2,3,4\n")

    assert of(run).series == {"loss": [1], "loss.1": [2], "": [3], "loss.1.1": [4]}


def test_several_step_columns_are_several_axes(run):
    run.delta(b"epoch,trainer/global_step,time,seconds/epoch\n0,10,99.5,3\n1,20,100.5,4\n")

    [source] = shown.of(run.attempt.job)["sources"]

    assert {axis["name"]: axis["kind"] for axis in source["axes"]} == {
        "epoch": "epoch",
        "trainer/global_step": "step",
        "time": "time",
    }
    assert [series["name"] for series in source["series"]] == ["seconds/epoch"]


def test_what_was_not_acknowledged_is_left_out(run):
    run.delta(b"a\n1\n")
    with run.target().place.path.open("ab") as file:
        file.write(b"2\n")

    assert of(run).series == {"a": [1]}


def test_a_new_row_costs_a_new_row(run):
    run.delta(b"step,loss\n1,0.5\n2,0.4\n")
    first = of(run)
    run.delta(b"3,0.3\n4,0")

    more = of(run, first.have)

    assert more.start == 2
    assert more.by("step") == {"loss": [(3, 0.3)]}
    assert of(run, more.have).series == {"loss": []}


def test_what_was_read_is_not_read_again(run, monkeypatch):
    run.delta(b"a\n1\n2\n")
    of(run)
    taken = []
    take = CSV.take
    monkeypatch.setattr(CSV, "take", lambda self, data: taken.append(data) or take(self, data))

    run.delta(b"3\n")

    assert of(run).series == {"a": [1, 2, 3]}
    assert taken == [b"3\n"]


def test_another_generation_is_read_from_its_beginning(run):
    run.delta(b"a\n1\n2\n", generation=1, offset=0)
    first = of(run)
    run.delta(b"b\n7\n8\n", generation=2, offset=0)

    seen = of(run, first.have)

    assert (seen.start, seen.series) == (0, {"b": [7, 8]})


def test_a_reader_that_knows_something_else_gets_all(run):
    run.delta(b"a\n1\n")

    for have in ("abc.1", f"{of(run).id}.99", "x.y,,.", "٣.٣"):
        assert of(run, have).start == 0
        assert of(run, have).series == {"a": [1]}


def test_a_long_curve_is_thinned_and_keeps_its_spikes(run):
    values = [0.0] * 100_000
    values[33_333], values[77_777] = 99.0, -99.0
    run.delta(("loss\n" + "\n".join(map(str, values)) + "\n").encode())

    loss = of(run).series["loss"]

    assert len(loss) <= shown.MAX_POINTS + 2
    assert (max(loss), min(loss)) == (99.0, -99.0)


def test_what_is_looked_at_closely_has_every_row(run):
    run.delta(b"step,loss\n" + b"".join(b"%d,%d\n" % (n, n % 7) for n in range(50_000)))

    part = curves.Seen(shown.closely(run.attempt.job, of(run).id, 20_000, 20_999))

    assert part.by("step")["loss"] == [(n, n % 7) for n in range(20_000, 21_000)]


@pytest.mark.parametrize(("first", "last"), [(0, 10**18), (7, 3), (10**17, 10**18)])
def test_no_stretch_that_is_looked_at_is_too_long_or_a_wrong_one(run, first, last):
    run.delta(b"step,loss\n" + b"".join(b"%d,%d\n" % (n, n % 7) for n in range(50_000)))

    part = curves.Seen(shown.closely(run.attempt.job, of(run).id, first, last))

    assert len(part.series["loss"]) <= shown.MAX_POINTS


def test_a_source_that_is_not_known_is_not_looked_at(run):
    run.delta(b"step,loss\n1,2\n")

    assert shown.closely(run.attempt.job, "ffff", 0, 9) == {"sources": []}


def test_a_gap_is_seen_in_a_thinned_curve(run):
    values = ["1"] * 50_000
    values[20_000:20_010] = ["nan"] * 10
    run.delta(("loss\n" + "\n".join(values) + "\n").encode())

    assert of(run).series["loss"].count(None) == 1


def test_two_hundred_columns_are_shown(run):
    names = [f"m{number}" for number in range(200)]
    row = ",".join(map(str, range(200)))
    run.delta(f"{','.join(names)}\n{row}\n{row}\n".encode())

    assert of(run).series == {f"m{number}": [number, number] for number in range(200)}


def test_a_file_without_a_whole_line_has_no_curves(run):
    run.delta(b"epoch,lo")

    assert of(run).series == {}


def test_a_column_without_a_number_is_no_series(run):
    run.delta(b"loss,device,remark\n1,cuda:0,\n")

    assert of(run).series == {"loss": [1]}


def test_jsonl_has_a_row_a_line_and_what_is_nested(run):
    lines = [
        '{"step": 1, "train": {"loss": 0.5}, "done": true, "name": "x"}',
        '{"step": 2, "val": {"a": {"b": {"c": 1}}, "loss": NaN}}',
        '{"step": 3, "half',
        "[1, 2]",
        '{"step": 4, "train": {"loss": 1e999}, "big": 1' + "0" * 400 + "}",
        '{"step": 5, "train": {"loss": 0.25}}',
        '{"step": 6',
    ]
    run.delta("\n".join(lines).encode(), "run_001/metrics.jsonl")

    assert of(run).by("step") == {"train/loss": [(1, 0.5), (4, None), (5, 0.25)]}


def test_a_metric_in_two_sources_is_shown_from_the_first(run):
    run.delta(b"step,loss\n1,0.5\n")
    run.delta(b"step,loss,val\n1,99,0.4\n", "run_001/lightning_logs/version_0/metrics.csv")

    assert of(run).series == {"loss": [0.5], "val": [0.4]}


def test_folds_lie_side_by_side(run):
    run.delta(b"loss\n1\n", "run_001/fold_0/metrics.csv")
    run.delta(b"loss\n2\n", "run_001/fold_1/metrics.csv")

    assert of(run).series == {"loss": [1], "loss (fold_1)": [2]}


def test_a_table_as_wide_as_data_is_told_apart_from_metrics(run):
    run.delta((b"," * 99_999) + b"\n" + (b"1," * 99_999) + b"1\n", "run_001/features.csv")
    run.delta(b"loss\n1\n")

    seen = of(run)

    assert seen.series == {"loss": [1]}
    assert "100000 columns" in seen.notes["features.csv"]


def test_of_very_many_files_the_others_are_counted(run):
    for number in range(MAX_SOURCES + 3):
        run.delta(b"loss\n1\n", f"run_001/{number}.csv")

    answer = shown.of(run.attempt.job)

    assert (len(answer["sources"]), answer["left_out"]) == (MAX_SOURCES, 3)


def test_a_file_that_takes_long_is_read_on_by_the_next_request(run, monkeypatch):
    monkeypatch.setattr(CSV, "BLOCK_BYTES", 64)
    monkeypatch.setattr(kept, "READ_SECONDS", -1.0)
    run.delta(b"a\n" + b"1\n" * 50)

    assert shown.of(run.attempt.job)["more"]
    monkeypatch.setattr(kept, "READ_SECONDS", 2.0)
    assert not shown.of(run.attempt.job)["more"]
    assert of(run).series == {"a": [1] * 50}


def test_what_was_not_looked_at_for_longest_is_forgotten_first(run, monkeypatch):
    run.delta(b"a\n1\n")
    first = of(run)
    monkeypatch.setattr(kept, "KEPT_BYTES", 0)
    of(run)

    seen = of(run, first.have)

    assert (seen.start, seen.series) == (0, {"a": [1]})


def test_of_a_table_that_outgrows_memory_the_end_is_shown(monkeypatch):
    monkeypatch.setattr("sync.curves.table.MAX_BYTES", 1000)
    table = Table()
    reader = CSV(table)

    for start in range(0, 1000, 10):
        reader.take(b"".join(b"%d\n" % value for value in range(start, start + 10)))

    column = table.columns["0"]
    assert len(column) <= 1000 / 8
    assert list(column.rows[-3:]) == [996, 997, 998]
    assert list(column.values[-3:]) == [997, 998, 999]
    assert (column.low, column.last) == (1, 999)


def test_the_quick_way_and_the_slow_way_read_the_same():
    words = [
        "1",
        " 2 ",
        "",
        "nan",
        "-inf",
        "x",
        "1e400",
        "+3",
        ".5",
        "0x1",
        "\xff",
        "1e-400",
        "\t",
    ]
    body = "".join(f"{first},{second}\n" for first in words for second in words).encode("latin1")
    quick, slow = CSV(Table()), CSV(Table())
    quick.take(b"a,b\n" + body)

    slow.take(b'"a","b"\n')
    slow.table.add(*curves.slowly(slow, body))

    assert quick.table.rows == slow.table.rows == len(words) ** 2
    for name in ("a", "b"):
        first, second = quick.table.columns[name], slow.table.columns[name]
        np.testing.assert_array_equal(first.rows, second.rows)
        np.testing.assert_array_equal(first.values, second.values)


def test_a_line_without_an_end_is_not_held_in_memory():
    for reader in (CSV(Table()), JSONL(Table())):
        assert reader.take(b"1" * (MAX_LINE_BYTES + 1)) == 0
        assert "longer than 1 MB" in reader.table.note


def test_keys_without_end_are_bounded():
    table = Table()
    lines = [json.dumps({f"k{number}": 1}) for number in range(2 * MAX_COLUMNS)]

    JSONL(table).take(("\n".join(lines) + "\n").encode())

    assert len(table.columns) == MAX_COLUMNS


def test_a_file_that_is_written_anew_between_reading_and_answering_breaks_nothing(
    run, monkeypatch
):
    run.delta(b"a\n1\n", generation=1, offset=0)
    names = shown._name

    def written_anew(found):
        names(found)
        monkeypatch.undo()
        run.delta(b"b\n2\n", generation=2, offset=0)
        assert of(run).series == {"b": [2]}

    monkeypatch.setattr(shown, "_name", written_anew)

    assert of(run).series == {"a": [1]}
    assert of(run).series == {"b": [2]}
