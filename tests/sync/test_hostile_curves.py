"""What is in a file of metrics never breaks its reader, nor takes memory without end."""

import json
import struct
import tracemalloc

import pytest
from django.test import Client
from django.urls import reverse
from hypothesis import example, given
from hypothesis import strategies as st

from sync.curves import kept, shown
from sync.curves.events import HEADER, Events, masked_crc32c
from sync.curves.lines import CSV, JSONL
from sync.curves.table import MAX_COLUMNS, MAX_NAME_LENGTH, Table
from sync.curves.trainer import MAX_BYTES, TrainerState
from tests import make
from tests.sync.curves import Seen

MB = 1024 * 1024
READERS = [CSV, JSONL, TrainerState, Events]
#: Pieces that mean something to one reader or another.
PIECES = [
    b"\n", b"\r\n", b",", b'"', b"nan", b"-inf", b"1e999", b"0.5", b" ", b"\t", b"\0", b"\xff",
    b"\xef\xbb\xbf", b"loss,acc\n", b"1,2\n", b'{"log_history": [', b'{"loss": 1, "step": 2}',
    b"]}", b"{", b"[", b":", b"}\n", b'{"a": {"b": NaN}}\n', b"\x08\x01", b"\x12\x10",
    b"\x2a\x06\x0a\x04\x0a\x02ab", b"9" * 5000,
]  # fmt: skip
JUNK = st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=40).map(b"".join)


def record(event: bytes) -> bytes:
    """As a TFRecord; its own checksum is never looked at."""
    length = struct.pack("<Q", len(event))
    return HEADER.pack(len(event), masked_crc32c(length)) + event + b"\0\0\0\0"


def field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def event(value: bytes, step: int = 1, seconds: float = 5.0) -> bytes:
    summary = field(5, field(1, value))
    return record(b"\x09" + struct.pack("<d", seconds) + bytes([0x10, step]) + summary)


def scalar(tag: bytes, value: float) -> bytes:
    return field(1, tag) + b"\x15" + struct.pack("<f", value)


def read(reader_class, data: bytes, block: int = 4 * MB) -> Table:
    """Read it as it is read from a disk."""
    reader = reader_class(Table())
    at = 0
    while at < len(data) and not reader.table.is_refused:
        used = reader.take(data[at : at + block])
        assert used >= 0
        at += used
        if not used:
            break
    check_table(reader.table)
    return reader.table


def check_table(table: Table) -> None:
    assert len(table.columns) <= MAX_COLUMNS
    for name, column in table.columns.items():
        assert len(name) <= MAX_NAME_LENGTH
        assert len(column.rows) == len(column.values) <= table.rows
        assert all(0 <= row < table.rows for row in column.rows)
    assert isinstance(table.note, str)


def shape(table: Table) -> dict[str, list[int]]:
    return {name: column.rows.tolist() for name, column in table.columns.items() if len(column)}


@pytest.mark.parametrize("reader", READERS)
@given(data=JUNK)
def test_no_bytes_break_a_reader(reader, data):
    assert read(reader, data).rows <= max(1, len(data))


@given(data=JUNK, cuts=st.lists(st.integers(1, 50), min_size=1, max_size=20))
@example(data=b'\n\n"a"\n1\n', cuts=[1, 1])
def test_a_csv_read_in_pieces_is_the_csv_read_at_once(data, cuts):
    whole, pieces = read(CSV, data), CSV(Table())
    at, end = 0, 0
    for cut in [*cuts, len(data)]:
        end = min(len(data), end + cut)
        at += pieces.take(data[at:end])

    assert at == data.rfind(b"\n") + 1 or whole.is_refused
    assert pieces.table.rows == whole.rows
    assert shape(pieces.table) == shape(whole)


@given(junk=JUNK)
def test_no_event_breaks_the_reader(junk):
    good = event(scalar(b"loss", 0.5))

    table = read(Events, good + record(junk) + event(field(1, b"x") + field(8, junk[:100])) + good)

    assert table.rows >= 1
    assert table.columns["loss"].low == 0.5


@given(at=st.integers(0, 200), flip=st.integers(1, 255))
def test_an_event_file_with_a_wrong_byte_is_read_or_told(at, flip):
    data = bytearray(event(scalar(b"loss", 0.5)) * 5)
    data[at % len(data)] ^= flip

    table = read(Events, bytes(data))

    assert table.is_refused or table.rows <= 5


@given(values=st.lists(st.floats(width=32), max_size=20), block=st.integers(64, 300))
def test_records_cut_by_blocks_are_read_whole(values, block):
    data = b"".join(event(scalar(b"loss", value), step) for step, value in enumerate(values))

    assert read(Events, data, block).rows == len(values)


def test_a_length_without_end_is_neither_read_nor_held():
    bomb = HEADER.pack(2**60, masked_crc32c(struct.pack("<Q", 2**60)))
    tracemalloc.start()

    table = read(Events, event(scalar(b"loss", 1.0)) + bomb + b"x" * 100)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (table.rows, table.note) == (1, "")
    assert peak < MB


def test_a_large_record_is_passed_over():
    graph = record(field(5, b"") + b"\0" * MB)

    table = read(Events, graph + event(scalar(b"loss", 1.0)), block=300_000)

    assert table.columns["loss"].last == 1.0


def test_a_file_that_is_no_event_file_is_told():
    assert read(Events, b"PK\x03\x04" * 100).note == "It is not readable from byte 0 on."


def test_tags_without_end_are_bounded():
    data = b"".join(event(scalar(b"tag%d" % number, 1.0)) for number in range(2 * MAX_COLUMNS))

    assert len(read(Events, data).columns) == MAX_COLUMNS


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"log_history": ' + b'[{"a":' * 50_000,
        b'{"log_history": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"log_history": 5}',
        b'{"log_history": [5, null, {"loss": "x"}, [1]]}',
        b"[]",
        b"null",
        b"",
        b"\xff\xfe",
        b"1" * (MAX_BYTES + 1),
        b"[" + b"[]," * 600_000 + b"0]",
    ],
    ids=range(11),
)
def test_a_trainer_state_that_is_none_has_no_curves(data):
    assert {name: column.last for name, column in read(TrainerState, data).columns.items()} == {}


def test_json_as_deep_as_it_likes_is_no_row():
    deep = b'{"a":' * 50_000 + b"1" + b"}" * 50_000

    assert read(JSONL, deep + b'\n{"loss": 1}\n').rows == 1


@pytest.mark.parametrize("line", [b"\n", b'"\0\n', b"\r\n"])
def test_lines_of_nothing_are_passed_over(line):
    assert read(CSV, line * 200_000).columns.keys() <= {"", "\0"}


def test_a_hundred_thousand_columns_cost_no_memory_to_speak_of():
    line = b",".join(b"%d" % number for number in range(100_000)) + b"\n"
    tracemalloc.start()

    table = read(CSV, line * 5)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert table.is_refused
    assert peak < 32 * MB


HOSTILE = {
    "run_001/events.out.tfevents.1.host": b"\xff" * 5000,
    "run_001/a/events.out.tfevents.2.host": HEADER.pack(2**63, 0) * 9,
    "run_001/trainer_state.json": b"[" * 100_000,
    "run_001/checkpoint-5/trainer_state.json": b'{"log_history": [{"loss": 1e999}]}',
    "run_001/wide.csv": b"," * 200_000 + b"\n",
    "run_001/long.csv": b"1" * 2 * MB,
    "run_001/binary.csv": bytes(range(256)) * 400,
    "run_001/names.csv": b'</script><b>,\xed\xa0\x80,__proto__,"a\n1,2,3,4\n',
    "run_001/deep.jsonl": b"[" * 100_000 + b"\n" + b'{"__proto__": 1, "\\ud800": 2}\n',
}


@pytest.mark.django_db
def test_a_run_full_of_hostile_files_is_answered_with_its_curve_and_what_is_wrong(run):
    kept.shelf.clear()
    client = Client()
    client.force_login(make.user())
    run.delta(b"step,loss\n1,0.5\n")
    for name, data in HOSTILE.items():
        send = run.delta if name.endswith((".csv", ".jsonl")) else run.full
        send(data, name)

    response = client.get(reverse("run-curve", args=[run.uid]))

    assert response.status_code == 200
    seen = Seen(json.loads(response.content, parse_constant=pytest.fail))
    assert seen.series["loss"] == [0.5]
    assert seen.notes.keys() >= {
        "events.out.tfevents.", "a", "trainer_state.json", "wide.csv", "long.csv"
    }  # fmt: skip
    assert shown.of(run.attempt.job, seen.have)["more"] is False
