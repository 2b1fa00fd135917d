"""Numbers, times and values, as they are shown and typed."""

from datetime import UTC, datetime

import pytest

from agent.cli import words
from agent.cli.errors import CliError


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.1", 0.1), ("1e-3", 1e-3), ("7", 7), ("-2", -2), ("007", "007"), ("true", True),
     ("null", None), ("adam", "adam"), ("[1, 2]", [1, 2]), ('"0.1"', "0.1"), ("", ""),
     ("nan", "nan"), ("1_000", "1_000"), ("한글", "한글")],
)  # fmt: skip
def test_a_value_is_read_as_a_config_means_it(text, value):
    assert words.value(text) == value
    assert type(words.value(text)) is type(value)


def test_a_list_that_is_not_closed_is_told():
    with pytest.raises(CliError, match="is not JSON"):
        words.value("[1, 2")


@pytest.mark.parametrize(
    ("text", "parts"),
    [("0.1,0.01", ["0.1", "0.01"]), ("a", ["a"]), ("[1,2],[3]", ["[1,2]", "[3]"]),
     ('"a,b",c', ['"a,b"', "c"]), ("1,", ["1", ""])],
)  # fmt: skip
def test_values_are_divided_at_the_commas_between_them(text, parts):
    assert words.several(text) == parts


@pytest.mark.parametrize("text", ["lr", "=0.1", " =1", ""])
def test_what_is_no_assignment_says_how_to_write_one(text):
    with pytest.raises(CliError, match="write a name and a value, as in --set"):
        words.assignment(text, "--set")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (61, "1m 1s"), (3600, "1h"), (90_061, "1d 1h"), (-5, "0s")],
)
def test_a_span_has_its_two_largest_units(seconds, text):
    assert words.span(seconds) == text


def test_what_the_server_wrote_as_no_time_is_shown_as_nothing():
    now = datetime(2026, 11, 30, 12, tzinfo=UTC)

    assert words.ago("2026-11-30T11:58:00Z", now) == "2m ago"
    assert words.ago("soon", now) == words.ago(None, now) == words.took(None, None) == ""


def test_sizes_have_units():
    assert [words.size(n) for n in (None, 0, 1023, 2048, 3 * 2**30, 2**50)] == [
        "", "0 B", "1023 B", "2.0 KiB", "3.0 GiB", "1024.0 TiB",
    ]  # fmt: skip
