"""A log as a terminal would show it, a window at a time."""

import pytest

from labsite.pages import terminal
from labsite.pages.terminal import line_html, window


@pytest.fixture
def log(tmp_path):
    return tmp_path / "run_001.log"


def test_a_missing_log_is_empty(log):
    assert (window(log, None, None).html, window(log, None, None).size) == ("", 0)


def test_colours_become_classes_and_other_sequences_vanish():
    html = line_html(b"\x1b[31mred\x1b[0m \x1b[1;32mbold\x1b[22m\x1b[2K\x1b]0;title\x07 end\n")

    assert html == (
        '<span class="a-r">red</span> <span class="a-g a-1">bold</span>'
        '<span class="a-g"> end</span>'
    )


def test_a_progress_bar_is_folded_to_its_last_state():
    html = line_html(b"\r 1/3\r 2/3\r 3/3\n")

    assert html.endswith(" 3/3")
    assert "3 updates folded" in html


def test_windows_line_ends_are_not_progress_bars():
    assert line_html(b"plain\r\n") == "plain"


def test_markup_is_escaped_and_direction_marks_are_taken_out():
    assert line_html("<b>\u202e&\x00\n".encode()) == "&lt;b&gt;&amp;"


def test_the_last_line_comes_again_when_it_has_grown(log):
    log.write_bytes(b"one\ntw")
    first = window(log, None, None)
    log.write_bytes(b"one\ntwo\nthree\n")

    second = window(log, first.next, first.next_line)

    assert (first.next, first.next_line, first.open) == (4, 2, True)
    assert second.html == (
        '<span class="l" data-n="2">two</span><span class="l" data-n="3">three</span>'
    )
    assert (second.next, second.open, second.more) == (14, False, False)


def test_a_log_that_became_shorter_is_shown_anew(log):
    log.write_bytes(b"new\n")

    again = window(log, 4000, 100)

    assert again.reset
    assert again.html == '<span class="l" data-n="1">new</span>'


def test_a_long_log_is_shown_from_its_end_with_the_right_numbers(log, monkeypatch):
    monkeypatch.setattr(terminal, "WINDOW_BYTES", 100)
    log.write_bytes(b"".join(b"line %04d\n" % n for n in range(1, 101)))

    last = window(log, None, None)
    earlier = terminal.before(log, last.start)

    assert last.html.startswith('<span class="l" data-n="91">line 0091')
    assert earlier.html.startswith('<span class="l" data-n="81">line 0081')
    assert earlier.html.endswith('<span class="l" data-n="90">line 0090</span>')


def test_a_line_without_end_is_read_on(log, monkeypatch):
    monkeypatch.setattr(terminal, "WINDOW_BYTES", 100)
    log.write_bytes(b"x" * 150)

    first = window(log, 0, 1)

    assert first.next == 100
    assert window(log, first.next, first.next_line).next in (100, 150)


def test_a_failed_run_opens_with_its_last_traceback(log):
    log.write_bytes(b"a\nTraceback (most recent call last):\n  old\nb\n" * 3 + b"Error: x\n")

    assert terminal.tail(log, 2).count("Traceback") == 1
