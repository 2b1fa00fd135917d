"""Tables for terminals of any width, for pipes, and for Korean."""

import io
from contextlib import redirect_stdout

import pytest

from agent.cli import show
from agent.cli.show import Column, Out

COLUMNS = [
    Column("RUN"),
    Column("STATE", is_state=True),
    Column("NAME", spare=1),
    Column("N", right=True),
]
ROWS = [
    ["digits/run_001", "running", "기준 실험", "3"],
    ["p/run_002", "failed", "b\x1b[2Jx\n", "12"],
]


def test_columns_stand_below_each_other_also_in_korean():
    lines = list(show.plain_table(COLUMNS, [[show.clean(c) for c in row] for row in ROWS]))

    assert lines == [
        "RUN             STATE    NAME        N",
        "digits/run_001  running  기준 실험   3",
        "p/run_002       failed   b\N{REPLACEMENT CHARACTER}[2Jx     12",
    ]


def test_nothing_a_terminal_obeys_is_in_a_name():
    assert show.clean("a\x1b]0;x\x07b\u202ec\td") == "a\ufffd]0;x\ufffdb\ufffdc d"


def test_a_narrow_terminal_loses_what_can_be_spared_first():
    columns, rows = show.narrowed(COLUMNS, ROWS, 32)

    assert [column.head for column in columns] == ["RUN", "STATE", "N"]
    assert rows[0] == ["digits/run_001", "running", "3"]


def test_what_cannot_be_spared_stays_on_the_narrowest():
    columns, _rows = show.narrowed(COLUMNS, ROWS, 5)

    assert [column.head for column in columns] == ["RUN", "STATE", "N"]


def test_a_column_without_a_value_is_not_shown():
    columns, _rows = show.narrowed(COLUMNS, [["a", "b", "", "1"]], 80)

    assert "NAME" not in [column.head for column in columns]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def drawn(monkeypatch):
    """The table as a terminal gets it."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def draw() -> str:
        with redirect_stdout(Terminal()) as screen:
            Out().table(COLUMNS, ROWS)
        return screen.getvalue()

    return draw


def test_a_terminal_has_colours(drawn):
    assert "\x1b[34mrunning" in drawn()


def test_no_color_is_obeyed(drawn, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")

    text = drawn()

    assert "\x1b[3" not in text
    assert "running" in text


def test_without_rich_the_table_is_plain(drawn, monkeypatch):
    monkeypatch.setattr(show, "_has_rich", lambda: False)

    text = drawn()

    assert "\x1b" not in text
    assert "digits/run_001" in text


def test_a_pipe_has_neither_colours_nor_cut_cells():
    with redirect_stdout(io.StringIO()) as pipe:
        Out().table([Column("NAME")], [["x" * 150]])

    assert pipe.getvalue() == f"NAME\n{'x' * 150}\n"
