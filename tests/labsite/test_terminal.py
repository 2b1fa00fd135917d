"""A log as a terminal would show it, a window at a time."""

from io import BytesIO

from labsite.pages import terminal
from labsite.pages.terminal import line_html


def window(data, offset=None, line=None):
    return terminal.window(BytesIO(data), len(data), offset, line)


def test_an_empty_log_has_no_lines():
    assert (window(b"").html, window(b"").next) == ("", 0)


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


def test_the_last_line_comes_again_when_it_has_grown():
    first = window(b"one\ntw")

    second = window(b"one\ntwo\nthree\n", first.next, first.next_line)

    assert (first.next, first.next_line, first.open) == (4, 2, True)
    assert second.html == (
        '<span class="l" data-n="2">two</span><span class="l" data-n="3">three</span>'
    )
    assert (second.next, second.open, second.more) == (14, False, False)


def test_a_log_that_became_shorter_is_shown_anew():
    again = window(b"new\n", 4000, 100)

    assert again.reset
    assert again.html == '<span class="l" data-n="1">new</span>'


def test_a_long_log_is_shown_from_its_end_with_the_right_numbers(monkeypatch):
    monkeypatch.setattr(terminal, "WINDOW_BYTES", 100)
    log = b"".join(b"line %04d\n" % n for n in range(1, 101))

    last = window(log)
    earlier = terminal.before(BytesIO(log), last.start)

    assert last.html.startswith('<span class="l" data-n="91">line 0091')
    assert earlier.html.startswith('<span class="l" data-n="81">line 0081')
    assert earlier.html.endswith('<span class="l" data-n="90">line 0090</span>')


def test_a_line_without_end_is_read_on(monkeypatch):
    monkeypatch.setattr(terminal, "WINDOW_BYTES", 100)

    first = window(b"x" * 150, 0, 1)

    assert first.next == 100
    assert first.next_line == 1


def test_bytes_beyond_what_was_acknowledged_are_not_shown():
    shown = terminal.window(BytesIO(b"one\ntwo\n"), 4, None, None)

    assert "two" not in shown.html


def test_a_failed_run_opens_with_its_last_traceback():
    log = b"a\nTraceback (most recent call last):\n  old\nb\n" * 3 + b"Error: x\n"

    assert terminal.tail(BytesIO(log), len(log), 2).count("Traceback") == 1
