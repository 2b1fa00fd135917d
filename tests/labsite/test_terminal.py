"""A log as a terminal would show it, a window at a time."""

from io import BytesIO

import pytest

from labsite.pages import terminal
from labsite.pages.ansi import line_html, nearest, plain


def onward(data, offset=0, line=1):
    return terminal.onward(BytesIO(data), len(data), offset, line)


def numbers_in(data):
    return lambda offset: data.count(b"\n", 0, offset) + 1


def test_an_empty_log_has_no_lines():
    assert (onward(b"").html, onward(b"").next) == ("", 0)


def test_colours_become_classes_and_other_sequences_vanish():
    html = line_html(b"\x1b[31mred\x1b[0m \x1b[1;32mbold\x1b[22m\x1b[2K\x1b]0;title\x07 end\n")

    assert html == (
        '<span class="a-r">red</span> <span class="a-g a-1">bold</span>'
        '<span class="a-g"> end</span>'
    )


@pytest.mark.parametrize(
    ("codes", "classes"),
    [
        ("38;5;196", "a-r"),
        ("38;5;46;1", "a-g a-1"),
        ("38;5;244", "a-dim"),
        ("38;2;30;100;255", "a-b"),
        ("38:2:255:165:0", "a-y"),
        ("48;5;21;97", "b-b"),
        ("4;7;41", "a-u a-inv b-r"),
        ("3;9;23", "a-x"),
    ],
)
def test_every_colour_becomes_one_of_the_themes(codes, classes):
    assert line_html(f"\x1b[{codes}mx".encode()) == f'<span class="{classes}">x</span>'


@pytest.mark.parametrize(
    "codes", ["38", "38;5", "38;2;1", "38;5;999999999", "999", ";;;", "48;2;9999;0;0", "0"]
)
def test_a_colour_that_is_none_breaks_nothing(codes):
    assert "x" in line_html(f"\x1b[{codes}mx\x1b[0m".encode())


def test_black_and_white_are_read_on_any_ground():
    assert (nearest(0, 0, 0), nearest(255, 255, 255), nearest(128, 128, 128)) == ("", "", "dim")


def test_a_progress_bar_is_folded_to_its_last_state():
    html = line_html(b"\r 1/3\r 2/3\r 3/3\n")

    assert html.endswith(" 3/3")
    assert "3 updates folded" in html


def test_windows_line_ends_are_not_progress_bars():
    assert line_html(b"plain\r\n") == "plain"


def test_markup_is_escaped_and_direction_marks_are_taken_out():
    assert line_html("<b>\u202e&\x00\n".encode()) == "&lt;b&gt;&amp;"


def test_bytes_that_are_no_text_are_shown_as_such():
    assert line_html(b"\xff\xfe ok") == "\ufffd\ufffd ok"


def test_only_addresses_of_the_web_are_links():
    html = line_html(b'see https://wandb.ai/x?a=1&b="<i>, javascript:alert(1) ftp://x file:///y')

    assert 'href="https://wandb.ai/x?a=1&amp;b="' in html
    assert html.count("<a ") == 1
    assert "<i>" not in html
    assert 'rel="noopener noreferrer nofollow"' in html


def test_an_escape_cannot_leave_its_class():
    assert "onclick" not in line_html(b'\x1b[31" onclick="x\x1b[0m').split(">")[0]


def test_a_hit_is_told_on_one_line_without_colours():
    assert plain("a\rb\x1b[31mc\x00\u202ed") == "a bcd"


def test_the_last_line_comes_again_when_it_has_grown():
    first = onward(b"one\ntw")

    second = onward(b"one\ntwo\nthree\n", first.next, first.next_line)

    assert (first.next, first.next_line, first.open) == (4, 2, True)
    assert second.html == (
        '<span class="l" data-n="2">two</span><span class="l" data-n="3">three</span>'
    )
    assert (second.next, second.open, second.more) == (14, False, False)


def test_windows_one_after_the_other_are_the_whole_log(monkeypatch):
    monkeypatch.setattr(terminal, "WINDOW_BYTES", 100)
    monkeypatch.setattr(terminal, "WINDOW_LINES", 7)
    log = b"".join(b"line %04d%s\n" % (n, b"!" * (n % 90)) for n in range(1, 101))
    shown, offset, line = "", 0, 1

    while offset < len(log):
        window = onward(log, offset, line)
        assert window.html.count("data-n") <= 7
        shown += window.html
        offset, line = window.next, window.next_line

    assert [int(part.split('"')[0]) for part in shown.split('data-n="')[1:]] == [*range(1, 101)]
    assert "line 0100" in shown


def test_a_long_log_is_shown_from_its_end_with_the_right_numbers(monkeypatch):
    monkeypatch.setattr(terminal, "WINDOW_BYTES", 100)
    log = b"".join(b"line %04d\n" % n for n in range(1, 101))

    last = terminal.latest(BytesIO(log), len(log), numbers_in(log))
    earlier = terminal.before(BytesIO(log), last.start, numbers_in(log))

    assert last.html.startswith('<span class="l" data-n="91">line 0091')
    assert earlier.html.startswith('<span class="l" data-n="81">line 0081')
    assert earlier.html.endswith('<span class="l" data-n="90">line 0090</span>')
    assert (earlier.start, earlier.first) == (800, 81)


def test_a_window_of_short_lines_is_bounded_too():
    log = b"\n" * 100_000

    last = terminal.latest(BytesIO(log), len(log), numbers_in(log))

    assert last.html.count("data-n") == terminal.LINES_BEFORE


def test_the_lines_around_a_place_begin_before_it():
    log = b"".join(b"line %04d\n" % n for n in range(1, 1001))

    window = terminal.around(BytesIO(log), len(log), 5000, numbers_in(log))

    assert (window.first, window.start) == (301, 3000)
    assert 'data-n="501">line 0501' in window.html


def test_a_line_without_end_is_read_on(monkeypatch):
    monkeypatch.setattr(terminal, "WINDOW_BYTES", 100)

    first = onward(b"x" * 150, 0, 1)
    second = onward(b"x" * 150, first.next, first.next_line)

    assert (first.next, first.next_line, first.more) == (100, 1, True)
    assert (second.start, second.open, second.next) == (100, True, 100)


def test_bytes_beyond_what_was_acknowledged_are_not_shown():
    shown = terminal.onward(BytesIO(b"one\ntwo\n"), 4, 0, 1)

    assert "two" not in shown.html
