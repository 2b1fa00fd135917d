"""The language in which one asks for runs: what is read, and what is refused at which place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.errors import QueryWrong
from experiments.table.query import MAX_CHARACTERS, MAX_TERMS, Comparison, Word, parse, quoted


def told(term):
    if isinstance(term, Word):
        return ("-" if term.negated else "") + term.text.text
    values = ",".join(value.text for value in term.values)
    return ("-" if term.negated else "") + f"{term.name.text} {term.operator} {values}"


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        ("  ", []),
        ("resnet kim", ["resnet", "kim"]),
        ("lr<0.01", ["lr < 0.01"]),
        ("lr < 0.01 x", ["lr < 0.01", "x"]),
        ("val_loss<=0.3 a!=b a>=1", ["val_loss <= 0.3", "a != b", "a >= 1"]),
        ("state:failed,cancelled", ["state : failed,cancelled"]),
        ("a=(1,2)", ["a = (1,2)"]),
        ('-word -tag:old "two words"', ["-word", "-tag : old", "two words"]),
        ('"my key":"a \\"b\\" c"', ['my key : a "b" c']),
        ("train/loss<-3 det-aerial", ["train/loss < -3", "det-aerial"]),
        ("모델~레스넷 opt.betas[0]=0.9", ["모델 ~ 레스넷", "opt.betas[0] = 0.9"]),
        ("wow! 100%", ["wow!", "100%"]),
        ("x=http://a:1/?b=c", ["x = http://a:1/?b=c"]),
    ],
)
def test_a_query_is_read(text, terms):
    assert [told(term) for term in parse(text)] == terms


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("lr<", "lr<"),
        ("ok lr< ", "lr< "),
        (" <3", "<"),
        ('a "b', '"b'),
        ("-", "-"),
        ("state:failed,", "state:failed,"),
        ('lr<"0.1', '"0.1'),
        ("x " * (MAX_TERMS + 1), "x "),
    ],
)
def test_a_query_that_cannot_be_read_says_where(text, place):
    with pytest.raises(QueryWrong) as refused:
        parse(text)

    assert text[refused.value.position : refused.value.end] == place


def test_a_query_has_an_end():
    with pytest.raises(QueryWrong):
        parse("x" * (MAX_CHARACTERS + 1))


@given(st.text(max_size=60))
def test_nothing_that_is_typed_breaks_it(text):
    try:
        terms = parse(text)
    except QueryWrong as wrong:
        terms, position = [], wrong.position
    else:
        position = 0

    assert 0 <= position <= len(text)
    for term in terms:
        place = term.name if isinstance(term, Comparison) else term.text
        assert text[place.position : place.position + place.length]


@given(st.text(max_size=30))
def test_a_quoted_text_is_read_as_it_was(text):
    [term] = parse(f"x={quoted(text)}")

    assert [value.text for value in term.values] == [text]
