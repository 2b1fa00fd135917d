"""What of a log reaches a terminal."""

import pytest

from agent.cli.screen import MAX_SEQUENCE_BYTES, Screen

CLIPBOARD = b"\x1b]52;c;cm0gLXJmIH4=\x07"
TITLE = b"\x1b]0;pwned\x1b\\"


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (b"epoch 1\n\tloss\r", b"epoch 1\n\tloss\r"),
        (b"\x1b[1;32mgreen\x1b[0m", b"\x1b[1;32mgreen\x1b[0m"),
        (b"50%\r\x1b[K51%", b"50%\r\x1b[K51%"),
        ("정확도 0.9".encode(), "정확도 0.9".encode()),
        (b"a" + CLIPBOARD + b"b", b"ab"),
        (b"a" + TITLE + b"b", b"ab"),
        (b"\x1b[2J\x1b[Hgone", b"gone"),
        (b"\x1bcreset", b"reset"),
        (b"\x1b[6nanswer", b"answer"),
        (b"bell\x07back\x08\x7f", b"bellback"),
        ("csi \x9b2J".encode(), b"csi 2J"),
        (b"\xc2\x1b[6n\x9b2J \xc2\x00\x9b2J", b"\x9b2J \x9b2J"),  # of no meaning without C2
        ("±5 %".encode(), "±5 %".encode()),
    ],
)
def test_colours_stay_and_commands_do_not(printed, shown):
    assert Screen().shown(printed) == shown


@pytest.mark.parametrize("text", ["\x9b2J", "±"])
def test_a_letter_that_comes_in_two_pieces_is_told_from_a_command(text):
    screen, printed = Screen(), text.encode()

    shown = screen.shown(b"a" + printed[:1]) + screen.shown(printed[1:])

    assert shown == (b"a2J" if "J" in text else b"a" + printed)


@pytest.mark.parametrize("cut", range(1, len(CLIPBOARD)))
def test_a_sequence_that_comes_in_two_pieces_is_held_back(cut):
    screen = Screen()

    shown = screen.shown(b"a" + CLIPBOARD[:cut]) + screen.shown(CLIPBOARD[cut:] + b"b")

    assert shown == b"ab"


def test_an_escape_that_never_ends_holds_nothing_up():
    screen = Screen()

    shown = screen.shown(b"\x1b]" + b"x" * MAX_SEQUENCE_BYTES) + screen.shown(b"end")

    assert shown.endswith(b"end")
    assert b"\x1b" not in shown
