"""A query as a condition of the database."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from typing import Any

from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from experiments.errors import QueryWrong
from experiments.models import Cell, Column, Project
from experiments.models.cell import MAX_TEXT_CHARACTERS, clean, number_of
from experiments.table.columns import Source, known_columns, meanings, sources_of
from experiments.table.fields import EQUALS, FIELDS, MAX_DIGITS, ORDERS, Reader, field_named
from experiments.table.query import Comparison, Term, Text, Word, parse

#: So many names are looked through for one that may have been meant.
LOOKED_AT = 2000


@dataclass(frozen=True)
class Match:
    condition: Q
    unknown: tuple[Text, ...]  # names that no run has: what asks for them finds nothing


def match(text: str, reader: Reader, project: Project | None = None) -> Match:
    """The condition on jobs that the query means.

    Args:
        project: whose config keys and metrics are meant; None: those of all that the reader sees.

    Raises:
        QueryWrong: it cannot be read.
    """
    terms = parse(clean(text))
    names = [term.name for term in terms if isinstance(term, Comparison)]
    asked = [name.text for name in names if field_named(name.text) is None]
    wanted = {column for name in asked for _kind, column, _side in meanings(name)}
    known = known_columns(wanted, reader.user, project)
    sources = {name: sources_of(name, known) for name in asked}
    conditions = [_condition(term, sources, reader) for term in terms]
    unknown = tuple(name for name in names if sources.get(name.text) == [])
    return Match(reduce(and_, conditions, Q()), unknown)


def unknown_words(name: str, user: Any, project: Project | None) -> str:
    """Says that no run has it, and what may have been meant."""
    if near := _near(name, user, project):
        words = _("No run has “%(name)s”: did you mean %(near)s?")
        return words % {"name": name, "near": near}
    return _("No run has a config key or a metric “%(name)s”.") % {"name": name}


def no_column_words(word: str, user: Any) -> str:
    """Says that nothing is ordered by it, and what may have been meant."""
    if near := _near(word.rpartition(":")[2], user, None):
        words = _("“%(word)s” is no column to order by: did you mean %(near)s?")
        ways = near if near in FIELDS else f"key:{near}, best:{near}"
        return words % {"word": word[:80], "near": ways}
    return _("“%(word)s” is no column to order by.") % {"word": word[:80]}


def _near(name: str, user: Any, project: Project | None) -> str | None:
    columns = Column.objects.visible_to(user)
    if project is not None:
        columns = columns.filter(project=project)
    names = [*FIELDS, *columns.values_list("name", flat=True).distinct()[:LOOKED_AT]]
    return next(iter(difflib.get_close_matches(name[:200], names, n=1)), None)


def _condition(term: Term, sources: dict[str, list[Source]], reader: Reader) -> Q:
    if isinstance(term, Word):
        condition = _word(term.text.text)
    else:
        condition = _comparison(term, sources, reader)
    return ~condition if term.negated else condition


# --- free words ---------------------------------------------------------------------------------


def _word(text: str) -> Q:
    """`digits/run_003` is two words."""
    parts = [part for part in text.replace("/", " ").split(" ") if part]
    return reduce(and_, map(_part, parts), Q())


def _part(word: str) -> Q:
    number = word.removeprefix("run_")
    found = (
        Q(project__name__icontains=word)
        | Q(name__icontains=word)
        | Q(uid__startswith=word)
        | Q(user__username__icontains=word)
    )
    if number.isascii() and number.isdigit() and len(number) <= MAX_DIGITS:
        found |= Q(run_number=int(number))
    return found


# --- comparisons --------------------------------------------------------------------------------


def _comparison(term: Comparison, sources: dict[str, list[Source]], reader: Reader) -> Q:
    field = field_named(term.name.text)
    is_unlike = term.operator == "!="
    operator = ":" if is_unlike else term.operator
    if field is not None:
        conditions = [field.condition(operator, value, reader) for value in term.values]
        condition = reduce(or_, conditions)
        return ~condition if is_unlike else condition
    cells = reduce(or_, (_cell(operator, value) for value in term.values))
    return _judged_by(sources[term.name.text], cells, is_unlike=is_unlike)


def _judged_by(sources: Sequence[Source], cells: "_Cells", *, is_unlike: bool) -> Q:
    """A run is judged by the first source that it has, and by none that it has not."""
    found, earlier = Q(pk__in=[]), Q()
    for source in sources:
        rows = Cell.objects.filter(column__in=source.ids)
        wanted = rows.exclude(cells.of(source)) if is_unlike else rows.filter(cells.of(source))
        found |= _of(wanted) & ~earlier if earlier else _of(wanted)
        earlier |= _of(rows)
    return found


def _of(cells: QuerySet) -> Q:
    return Q(pk__in=cells.values("job"))


@dataclass(frozen=True)
class _Cells:
    """Conditions on cells, any of which holds: (lookup, value) of the number and of the text."""

    numbers: tuple[tuple[str, float], ...] = ()
    texts: tuple[tuple[str, str], ...] = ()

    def __or__(self, other: "_Cells") -> "_Cells":
        return _Cells(self.numbers + other.numbers, self.texts + other.texts)

    def of(self, source: Source) -> Q:
        """A metric has no text."""
        found = [Q(**{f"{source.attribute}__{lookup}": value}) for lookup, value in self.numbers]
        if source.has_text:
            found += [Q(**{f"folded__{lookup}": value}) for lookup, value in self.texts]
        return reduce(or_, found, Q(pk__in=[]))


def _cell(operator: str, value: Text) -> _Cells:
    number = number_of(value.text)
    folded = value.text.casefold()[:MAX_TEXT_CHARACTERS]
    if operator == "~":
        return _Cells(texts=(("contains", folded),))
    if operator in EQUALS:
        numbers = () if number is None else (("exact", number),)
        return _Cells(numbers, (("exact", folded),))
    if number is None:
        words = _("“%(operator)s” compares numbers, and “%(text)s” is none.")
        about = {"operator": operator, "text": value.text}
        raise QueryWrong(words % about, value.position, value.length)
    return _Cells(((ORDERS[operator], number),))
