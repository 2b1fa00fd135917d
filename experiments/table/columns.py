"""What a table of runs shows, orders and groups by, in the words of its address.

state   key:lr   last:val_loss   best:val_loss   min:val_loss   max:val_loss
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from experiments.metrics import better
from experiments.models import Column, Project
from experiments.models.cell import Kind, stored_name
from experiments.table.fields import FIELDS

#: A field of FIELDS; a config key; of a metric the last, best, lowest or highest value.
FIELD, KEY, LAST, BEST, MIN, MAX = "field", "key", "last", "best", "min", "max"
SIDES = (LAST, BEST, MIN, MAX)
MOST_COLUMNS = 40

#: (kind, name): the columns of that name, of all projects that are asked.
Known = Mapping[tuple[str, str], list[int]]


@dataclass(frozen=True)
class Source:
    """Where the database has a value: rows of Cell, and which of their numbers."""

    ids: tuple[int, ...]
    attribute: str = "number"
    has_text: bool = False


@dataclass(frozen=True)
class Ref:
    """One column of a table."""

    kind: str
    name: str

    @property
    def word(self) -> str:
        return self.name if self.kind == FIELD else f"{self.kind}:{self.name}"

    @property
    def label(self) -> str:
        """As it stands above the column, in the reader's language."""
        if self.kind == FIELD:
            return str(FIELDS[self.name].label)
        sides = {BEST: _("best"), MIN: _("lowest"), MAX: _("highest")}
        return f"{self.name} ({sides[self.kind]})" if self.kind in sides else self.name

    @property
    def full_label(self) -> str:
        """Where a config key and a metric of one name stand side by side."""
        return f"{self.name} ({_('last')})" if self.kind == LAST else self.label

    @property
    def is_metric(self) -> bool:
        return self.kind in SIDES

    @property
    def attribute(self) -> str:
        """Which number of a cell it shows."""
        side = better(self.name) if self.kind == BEST else self.kind
        return {MIN: "low", MAX: "high"}.get(side, "number")

    def source(self, known: Known) -> Source:
        kind = Kind.METRIC if self.is_metric else Kind.KEY
        ids = tuple(known.get((kind, self.name), ()))
        return Source(ids, self.attribute, has_text=not self.is_metric)


def ref_of(word: str) -> Ref | None:
    """None: it means nothing."""
    if word in FIELDS:
        return Ref(FIELD, word)
    kind, colon, name = word.partition(":")
    name = stored_name(name)
    return Ref(kind, name) if colon and name and kind in (KEY, *SIDES) else None


def refs_of(words: Iterable[str]) -> list[Ref]:
    """Those that mean something, each once."""
    found = dict.fromkeys(ref for word in words if (ref := ref_of(str(word))))
    return list(found)[:MOST_COLUMNS]


def known_columns(names: Iterable[str], user: Any, project: Project | None) -> Known:
    """The columns of these names that the user may see. One query, or none."""
    wanted = set(names)
    found: dict[tuple[str, str], list[int]] = {}
    if not wanted:
        return found
    columns = Column.objects.visible_to(user).filter(name__in=wanted)
    if project is not None:
        columns = columns.filter(project=project)
    for pk, kind, name in columns.values_list("pk", "kind", "name"):
        found.setdefault((kind, name), []).append(pk)
    return found


_PREFIXES = {"config.": Kind.KEY, "metric.": Kind.METRIC}


def meanings(name: str) -> list[tuple[Kind, str, str]]:
    """What a query's name may mean besides a field, the likeliest first: kind, name, side."""
    found = [(Kind.KEY, name, LAST), (Kind.METRIC, name, LAST)]
    stem, _dot, side = name.rpartition(".")
    if stem and side in SIDES:
        found.append((Kind.METRIC, stem, side))
    for prefix, kind in _PREFIXES.items():
        rest = name.removeprefix(prefix)
        if rest and rest != name:
            found += [one for one in meanings(rest) if one[0] == kind]
    return found


def sources_of(name: str, known: Known) -> list[Source]:
    """A run is judged by the first of these that it has: a config key before a metric.

    Empty: no run has anything of that name.
    """
    found = []
    for kind, column, side in meanings(name):
        ids = known.get((kind, column))
        if ids and (column == name or not found):
            attribute = Ref(side, column).attribute
            found.append(Source(tuple(ids), attribute, has_text=kind == Kind.KEY))
    return found
