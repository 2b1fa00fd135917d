"""What a table of runs shows, orders and groups by, in the words of its address.

state   key:lr   last:val_loss   best:val_loss   min:val_loss   max:val_loss
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _

from experiments.models import Cell, Column, Project
from experiments.models.cell import Kind, stored_name
from experiments.table.fields import FIELDS

#: A field of FIELDS; a config key; of a metric the last, best, lowest or highest value.
FIELD, KEY, LAST, BEST, MIN, MAX = "field", "key", "last", "best", "min", "max"
SIDES = (LAST, BEST, MIN, MAX)
MOST_COLUMNS = 40

#: (kind, name): the columns of that name, of all projects that are asked; with each, which way of
#: it is better there ("max", "min", or empty).
Known = Mapping[tuple[str, str], Mapping[int, str]]


@dataclass(frozen=True)
class Source:
    """Where the database has a value: rows of Cell, and which of their numbers."""

    ids: tuple[int, ...]
    attribute: str = "number"
    has_text: bool = False

    def numbers(self) -> QuerySet:
        """(number, the job's key) of all that have one."""
        cells = Cell.objects.filter(column__in=self.ids).exclude(**{self.attribute: None})
        return cells.values_list(self.attribute, "job_id")


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

    def ids(self, known: Known) -> list[int]:
        """Of the columns that it shows."""
        return list(known.get((Kind.METRIC if self.is_metric else Kind.KEY, self.name), ()))

    def sources(self, known: Known) -> list[Source]:
        """A run has a value in one of these at most."""
        kind = Kind.METRIC if self.is_metric else Kind.KEY
        return _sources(known.get((kind, self.name), {}), kind, self.kind)


def _sources(columns: Mapping[int, str], kind: Kind, side: str) -> list[Source]:
    """One for each number that is meant: of projects whose main metric bears one name, some may
    want much of it and others little."""
    ids: dict[str, list[int]] = {}
    for pk, goal in columns.items():
        wanted = goal if side == BEST else side
        ids.setdefault({MIN: "low", MAX: "high"}.get(wanted, "number"), []).append(pk)
    has_text = kind == Kind.KEY
    return [Source(tuple(some), attribute, has_text) for attribute, some in ids.items()]


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
    found: dict[tuple[str, str], dict[int, str]] = {}
    if not wanted:
        return found
    columns = Column.objects.visible_to(user).filter(name__in=wanted)
    if project is not None:
        columns = columns.filter(project=project)
    of_project = ("project__main_metric", "project__main_metric_goal")
    for column in columns.select_related("project").only("kind", "name", *of_project):
        goal = column.project.better(column.name)
        found.setdefault((column.kind, column.name), {})[column.pk] = goal
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
    found: list[Source] = []
    for kind, column, side in meanings(name):
        columns = known.get((kind, column))
        if columns and (column == name or not found):
            found += _sources(columns, kind, side)
    return found
