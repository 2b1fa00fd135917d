"""A log as lines: their numbers and places, and what is found in them."""

import random
import time
from io import BytesIO

import pytest

from sync.logs import lines as counting
from sync.logs import search as searching
from sync.logs.lines import Lines, lines_of
from sync.logs.search import Query, WrongPattern, search

LONG = float("inf")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(counting, "BLOCK_BYTES", 64)
    monkeypatch.setattr(counting, "WORTH_BYTES", 64)
    monkeypatch.setattr(searching, "BLOCK_BYTES", 128)
    monkeypatch.setattr(searching, "PATTERN_BLOCK_BYTES", 96)


def a_log(seed: int) -> bytes:
    dice = random.Random(seed)
    return b"".join(
        bytes(dice.choices(b"ab\r\x1b[31m \xff", k=dice.choice([0, 3, 40, 55]))) + b"\n"
        for _ in range(60)
    ) + b"x" * (seed % 3)


def find(log: bytes, text: str, *, limit: int = 1000, **how):
    """All of it, request after request, each of which looks at one stretch."""
    hits, lines, at, number, rounds = [], 0, 0, 1, 0
    while at < len(log):
        found = search(
            BytesIO(log), len(log), Query(text, **how), at, number,
            limit=limit - len(hits), deadline=0,
        )  # fmt: skip
        assert found.next > at
        hits += found.hits
        lines += found.lines
        at, number, rounds = found.next, found.next_number, rounds + 1
    return hits, lines


# --- lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_every_line_is_found_where_it_begins_however_much_was_counted(seed):
    log = a_log(seed)
    starts = [0] + [at + 1 for at, byte in enumerate(log) if byte == 10 and at + 1 < len(log)]
    lines = Lines((1, 1))

    assert lines.count(BytesIO(log), len(log), LONG)

    for number, start in enumerate(starts, start=1):
        assert lines.offset_of(BytesIO(log), number, len(log)) == start
        assert lines.number_at(BytesIO(log), start) == number
    assert lines.offset_of(BytesIO(log), 10**9, len(log)) == starts[-1]


def test_without_time_nothing_is_counted_and_no_number_is_guessed():
    log = b"line\n" * 100
    lines = Lines((1, 1))

    assert not lines.count(BytesIO(log), len(log), time.monotonic() - 1)

    assert lines.number_at(BytesIO(log), 300) is None
    assert lines.offset_of(BytesIO(log), 90, len(log)) is None
    assert lines.offset_of(BytesIO(log), 1, len(log)) == 0


def test_what_was_counted_is_kept_for_this_version_of_the_file_only(run):
    run.delta(b"line\n" * 100, "run_001.log")
    row = run.row("run_001.log")
    lines = lines_of(row)
    lines.count(BytesIO(b"line\n" * 100), row.size, LONG)
    lines.keep(row.pk)

    assert lines_of(row).counted_bytes == 448
    row.size = 130  # it became shorter
    assert lines_of(row).counted_bytes == 128
    row.generation += 1
    assert lines_of(row).counted_bytes == 0


@pytest.mark.parametrize(
    "harm", [lambda d: d[:-1], lambda d: d[:40] + b"?" + d[41:], lambda d: b"x"]
)
def test_what_is_not_whole_is_counted_anew(run, harm):
    run.delta(b"line\n" * 100, "run_001.log")
    row = run.row("run_001.log")
    lines = lines_of(row)
    lines.count(BytesIO(b"line\n" * 100), row.size, LONG)
    lines.keep(row.pk)
    kept = counting._place(row.pk).path
    kept.write_bytes(harm(kept.read_bytes()))

    assert lines_of(row).counted_bytes == 0


def test_what_belongs_to_no_file_goes(run):
    run.delta(b"line\n" * 100, "run_001.log")
    row = run.row("run_001.log")
    for key in (row.pk, row.pk + 1):
        lines = lines_of(row)
        lines.count(BytesIO(b"line\n" * 100), row.size, LONG)
        lines.keep(key)

    counting.tidy()

    assert counting._place(row.pk).path.exists()
    assert not counting._place(row.pk + 1).path.exists()


# --- search --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_each_line_is_found_once_with_its_place_and_number(seed):
    log = a_log(seed)
    plain = [searching._ESCAPE.sub(b"", line) for line in log.split(b"\n")]
    expected = [n for n, line in enumerate(plain, start=1) if b"ab" in line.lower()]

    hits, lines = find(log, "AB")

    assert [hit.number for hit in hits] == expected
    assert lines == len(expected)
    for hit in hits:
        assert log[: hit.offset].count(b"\n") + 1 == hit.number


def test_colours_are_no_part_of_a_line():
    log = b"\x1b[32mtrain\x1b[0m/loss \x1b[1m0.5\x1b[0m\r\nnext\n"

    [hit], _ = find(log, "train/loss 0.5")

    assert (hit.number, hit.offset, hit.match) == (1, 0, "train/loss 0.5")


@pytest.mark.parametrize(
    ("text", "how", "numbers"),
    [
        ("error", {}, [1, 2, 4]),
        ("error", {"is_exact": True}, [2]),
        ("^error", {"is_pattern": True}, [1, 2]),
        ("r$", {"is_pattern": True, "is_exact": True}, [2, 4]),
        ("e.*r", {"is_pattern": True, "is_exact": True}, [2]),
        ("a|^$", {"is_pattern": True}, [3, 4]),
        ("에러", {}, [5]),
        ("ÉTÉ", {}, [6]),
        ("ÉTÉ", {"is_exact": True}, []),
        ("(", {}, []),
    ],
)
def test_texts_and_patterns(text, how, numbers):
    log = "ERROR one\nerror\r\n\na Er ror Error\n에러 났다\nun été\n".encode()

    hits, lines = find(log, text, **how)

    assert [hit.number for hit in hits] == numbers
    assert lines == len(numbers)


def test_beyond_the_limit_lines_are_counted_only():
    hits, lines = find(b"hit\n" * 200, "hit", limit=7)

    assert (len(hits), lines) == (7, 200)


def test_a_search_that_is_late_goes_on_within_its_stretch(monkeypatch):
    monkeypatch.setattr(searching, "_CHECKS", 3)

    hits, lines = find(b"hit\n" * 200, "hit")

    assert [hit.number for hit in hits] == list(range(1, 201))
    assert lines == 200


def test_a_file_that_became_shorter_ends_a_search_and_the_counting():
    file, lines = BytesIO(b"hit\n" * 20), Lines((1, 1))

    found = search(file, 10**6, Query("hit"), 0, 1, limit=9, deadline=LONG)

    assert (found.lines, found.next) == (20, 10**6)
    assert lines.count(file, 10**6, LONG)
    assert lines.number_at(file, 10**6) is None


def test_what_is_told_of_a_line_is_short():
    [hit], _ = find(b"x" * 100 + b"needle" + b"y" * 10, "needle")

    assert (len(hit.before), hit.match, hit.after) == (80, "needle", "y" * 10)


@pytest.mark.parametrize(
    "text", ["", "(", "[", "a{2000}", "(.{0,30}a){30}", "x" * 501, "a\nb", r"(?P<n", r"\1"]
)
def test_what_is_no_pattern_is_refused_by_a_sentence(text):
    with pytest.raises(WrongPattern, match=r"\w+ .*\w+"):
        find(b"some\n", text, is_pattern=True)


@pytest.mark.parametrize("text", [r"(x+x+)+y", r"(a|a)*b", r"(.*)*=", r"([a-z]+)*\d"])
def test_a_pattern_that_takes_others_for_ever_takes_no_time(monkeypatch, text):
    monkeypatch.setattr(searching, "PATTERN_BLOCK_BYTES", 1 << 17)
    log = (b"x" * 5000 + b"\n") * 50
    begun = time.process_time()

    find(log, text, is_pattern=True)

    assert time.process_time() - begun < 2
