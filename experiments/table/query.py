"""The language in which one asks for runs.

    lr<0.01 state:failed tag:baseline user:kim project:digits device:gpu1 name~resnet
    optimizer=adam val_loss<=0.3 -word "two words" state:failed,cancelled

Words stand for project, run, name, person or identifier. `name op value` compares what every run
has, a config key, or a metric: `:` and `=` are the same, `~` is "contains", commas after `:` mean
"any of", `-` in front turns it round, quotation marks take anything in. All has to hold.
"""

import re
from dataclasses import dataclass

from django.utils.translation import gettext as _

from experiments.errors import QueryWrong

MAX_CHARACTERS = 2000
MAX_TERMS = 40
MAX_CHOICES = 100

OPERATORS = ("!=", "<=", ">=", ":", "=", "<", ">", "~")
_BLANK = re.compile(r"\s*")
_OPERATOR = re.compile(r"\s*(!=|<=|>=|[:=<>~])\s*")
_NAME = re.compile(r"(?:(?!!=)[^\s:=<>~\"])+")
_VALUE = re.compile(r"[^\s\"]+")
_CHOICE = re.compile(r"[^\s\",]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True)
class Text:
    """A piece of the query, and where it stands in it."""

    text: str
    position: int
    length: int


@dataclass(frozen=True)
class Word:
    """A free word."""

    text: Text
    negated: bool = False


@dataclass(frozen=True)
class Comparison:
    name: Text
    operator: str  # one of OPERATORS
    values: tuple[Text, ...]  # one; of ":" perhaps several: any of them
    negated: bool = False


Term = Word | Comparison


def parse(text: str) -> list[Term]:
    """What has to hold, all of it. Empty: everything does.

    Raises:
        QueryWrong: with the place.
    """
    if len(text) > MAX_CHARACTERS:
        words = _("The query has more than %(n)d characters.")
        raise QueryWrong(words % {"n": MAX_CHARACTERS}, MAX_CHARACTERS, 1)
    reader = _Reader(text)
    terms: list[Term] = []
    while not reader.is_at_end():
        start = reader.position
        terms.append(reader.term())
        if len(terms) > MAX_TERMS:
            words = _("A query has at most %(n)d parts.")
            raise QueryWrong(words % {"n": MAX_TERMS}, start, len(text) - start)
    return terms


def quoted(text: str) -> str:
    """`text` as a query writes it: bare where it can be."""
    if text and not text.startswith("-") and _NAME.fullmatch(text) and "," not in text:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self.position = 0

    def is_at_end(self) -> bool:
        self._take(_BLANK)
        return self.position >= len(self._text)

    def term(self) -> Term:
        start = self.position
        negated = self._text.startswith("-", start)
        if negated:
            self.position += 1
        name = self._name(start)
        operator = self._take(_OPERATOR)
        if operator is None:
            return Word(name, negated)
        return Comparison(name, operator[1], self._values(name, operator), negated)

    def _name(self, start: int) -> Text:
        if self._text.startswith('"', self.position):
            return self._quoted()
        found = self._take(_NAME)
        if found is not None:
            return Text(found[0], found.start(), len(found[0]))
        operator = self._take(_OPERATOR)
        if operator is None:
            raise QueryWrong(_("After “-” there has to be a word or a comparison."), start)
        words = _("Before “%(operator)s” there has to be a name, as in lr<0.01.")
        raise QueryWrong(words % {"operator": operator[1]}, operator.start(1), len(operator[1]))

    def _values(self, name: Text, operator: re.Match[str]) -> tuple[Text, ...]:
        values = [self._value(name, operator)]
        while operator[1] == ":" and self._text.startswith(",", self.position):
            self.position += 1
            values.append(self._value(name, operator))
            if len(values) > MAX_CHOICES:
                words = _("At most %(n)d values may be named at once.")
                raise QueryWrong(words % {"n": MAX_CHOICES}, name.position, name.length)
        return tuple(values)

    def _value(self, name: Text, operator: re.Match[str]) -> Text:
        if self._text.startswith('"', self.position):
            return self._quoted()
        found = self._take(_CHOICE if operator[1] == ":" else _VALUE)
        if found is None:
            words = _("After “%(name)s%(operator)s” there has to be a value.")
            about = {"name": name.text, "operator": operator[1]}
            end = max(self.position, operator.end()) - name.position
            raise QueryWrong(words % about, name.position, end)
        return Text(found[0], found.start(), len(found[0]))

    def _quoted(self) -> Text:
        start = self.position
        found = self._take(_QUOTED)
        if found is None:
            words = _("This quotation mark is not closed.")
            raise QueryWrong(words, start, len(self._text) - start)
        return Text(_ESCAPED.sub(r"\1", found[1]), start, len(found[0]))

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self.position)
        if found is not None:
            self.position = found.end()
        return found
