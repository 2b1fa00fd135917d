"""Values of secrets in text: all of them are found, wherever a piece of the file ends."""

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.files.masks import Masks, starred

VALUE = "hf_Ab0cdEfgh1"


def sent(masks: Masks, text: bytes, cuts: list[int]) -> bytes:
    """What leaves the host when the file grows by these pieces, and ends."""
    out, at = b"", 0
    for cut in [*sorted(cuts), len(text)]:
        piece = text[at:cut]
        may_go = starred(piece, masks.look(piece, is_end=cut == len(text)))
        out, at = out + may_go, at + len(may_go)
    return out


def test_a_value_becomes_as_many_stars() -> None:
    assert sent(Masks([VALUE]), f"token {VALUE}!\n".encode(), []) == b"token *************!\n"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_cut_lets_a_value_through(data: st.DataObject) -> None:
    alphabet = st.sampled_from("ab")
    values = data.draw(st.lists(st.text(alphabet, min_size=3, max_size=8), min_size=1, max_size=3))
    text = data.draw(st.text(st.sampled_from("ab\n"), max_size=40)).encode()
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=5))

    got = sent(Masks(values), text, cuts)

    assert len(got) == len(text)
    assert all(a == b or a == ord("*") for a, b in zip(got, text, strict=True))
    for value in values:
        assert value.encode() not in got


def test_what_urls_and_json_make_of_it_is_found_too() -> None:
    masks = Masks(['a b/c"d=e&f'])

    assert b"c" not in sent(masks, b'x=a%20b%2Fc%22d%3De%26f {"k": "a b/c\\"d=e&f"}', [])
    assert b"c" not in sent(masks, b"x=a%20b/c%22d%3De%26f y=a+b%2Fc%22d%3De%26f", [])
    korean = Masks(['비밀번호"입니다'])
    assert sent(korean, '"비밀번호\\"입니다"'.encode(), []) == b'"' + b"*" * 23 + b'"'


def test_of_values_that_reach_into_each_other_no_part_is_sent() -> None:
    masks = Masks(["abcdef", "efghij", "hijklm"])

    assert sent(masks, b"abcdefghijklm", [11]) == b"*" * 13
    assert sent(masks, b"xx efghijklm", [10]) == b"xx *********"


def test_only_what_may_become_a_value_is_held_back() -> None:
    masks = Masks([VALUE])

    assert masks.look(b"epoch 1\n", is_end=False).kept == len(b"epoch 1\n")
    assert masks.look(b"epoch 1 hf_", is_end=False).kept == len(b"epoch 1 ")
    assert masks.look(b"epoch 1 hf_", is_end=True).kept == len(b"epoch 1 hf_")
