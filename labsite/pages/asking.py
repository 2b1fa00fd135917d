"""What somebody asks a table of runs for: an address, a saved view, or what is usual.

q        the query                  whose   "mine": only one's own
c        a column, once for each    state   a state
g        a column to group by       view    a saved view, which the others go before
sort     a column, `-` in front: downwards
archived "1": runs of archived projects too
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, QueryDict

from experiments.metrics import better
from experiments.models import Column, Project, SavedView
from experiments.models.cell import Kind
from experiments.states import JobState
from experiments.table.columns import BEST, FIELD, KEY, LAST, Ref, ref_of, refs_of
from experiments.table.groups import MOST_GROUPED_BY, may_group
from sync.curves.shown import axis_kind

#: What is usual in a project's table, before and after its metrics and keys.
FIRST, AFTER = ("state", "tag"), ("user", "device", "took", "submitted")
USUAL_METRICS, USUAL_KEYS = 4, 4
MAX_TEXT = 2000
_SEED = re.compile(r"(?i)(^|[._-])(random_?)?(seed|state)$")
#: More are not offered; any other can be written into the address.
OFFERED = 300


@dataclass(frozen=True)
class Asked:
    project: Project | None
    query: str
    columns: tuple[Ref, ...]
    groups: tuple[Ref, ...]
    sort: Ref | None
    descending: bool
    mine: bool
    state: str
    archived: bool
    view: SavedView | None
    names_columns: bool  # by itself: the address does, not the view or a habit

    @property
    def sort_word(self) -> str:
        return f"{'-' if self.descending else ''}{self.sort.word}" if self.sort else ""

    @property
    def refs(self) -> list[Ref]:
        """All columns that it speaks of."""
        return [*self.columns, *self.groups, *filter(None, [self.sort])]

    @property
    def is_narrowed(self) -> bool:
        return bool(self.query or self.mine or self.state)

    def pairs(self) -> list[tuple[str, str]]:
        """As the fields of a form, without the page. Beside a view also what is empty is said,
        as it would be the view's otherwise."""
        found = [
            ("q", self.query),
            ("sort", self.sort_word),
            ("whose", "mine" if self.mine else ""),
            ("state", self.state),
            ("archived", "1" if self.archived else ""),
            ("view", str(self.view.pk) if self.view else ""),
        ]
        if self.names_columns:
            found += [("c", ref.word) for ref in self.columns]
        found += [("g", ref.word) for ref in self.groups]
        said = [(name, value) for name, value in found if value]
        if self.view:
            named = {name for name, _value in said}
            said += [(name, "") for name in ("q", "sort", "g") if name not in named]
        return said

    def address(self, **changes: Any) -> str:
        """The query of an address that asks for the same but for the changes."""
        return urlencode(replace(self, **changes).pairs())

    def shared(self) -> str:
        """One that shows others the same, columns and all."""
        return self.address(names_columns=True, view=None)


def asked_by(request: HttpRequest, project: Project | None) -> Asked:
    return asked_in(request.GET, request.user, project)


def asked_in(given: QueryDict, user: Any, project: Project | None) -> Asked:
    view = _view(_word(given, "view"), user, project)
    columns = refs_of(given.getlist("c"))
    sort = _word(given, "sort") if "sort" in given or not view else view.sort
    groups = given.getlist("g") or (view.groups if view else [])
    state = _word(given, "state")
    return Asked(
        project=project,
        query=_word(given, "q") if "q" in given else view.query if view else "",
        columns=tuple(columns or _columns(view, user, project)),
        groups=tuple([ref for ref in refs_of(groups) if may_group(ref)][:MOST_GROUPED_BY]),
        sort=ref_of(sort.removeprefix("-")),
        descending=sort.startswith("-"),
        mine=_word(given, "whose") == "mine",
        state=state if state in JobState.values else "",
        archived=_word(given, "archived") == "1" or bool(project and project.archived_at),
        view=view,
        names_columns=bool(columns),
    )


def _word(given: QueryDict, name: str) -> str:
    return given.get(name, "").replace("\x00", "").strip()[:MAX_TEXT]


def _view(pk: str, user: Any, project: Project | None) -> SavedView | None:
    if not (pk.isascii() and pk.isdigit() and len(pk) < 19):
        return None
    return SavedView.objects.offered_to(user, project).filter(pk=int(pk)).first()


def _columns(view: SavedView | None, user: Any, project: Project | None) -> list[Ref]:
    chosen = refs_of(view.columns) if view else []
    chosen = chosen or refs_of(SavedView.remembered_columns(user, project))
    return chosen or usual(project)


def usual(project: Project | None) -> list[Ref]:
    """The project's main metric, its first other ones, and the config keys in which its runs
    differ."""
    if project is None:
        words = ("state", "tag", *AFTER)
        return [Ref(FIELD, word) for word in words]
    columns = project.columns
    metrics = columns.filter(kind=Kind.METRIC).values_list("name", flat=True)
    first = [name for name in metrics[: 25 * USUAL_METRICS] if not axis_kind(name)]
    main = project.main_metric
    if main and main not in first and metrics.filter(name=main).exists():
        first.append(main)
    shown = project.main_first(first)
    judged = [name for name in shown if project.better(name)]  # not a learning rate, if there are
    keys = columns.filter(kind=Kind.KEY, varies=True).values_list("name", flat=True)
    return [
        *(Ref(FIELD, word) for word in FIRST),
        *(Ref(_sides(name, project)[0], name) for name in (judged or shown)[:USUAL_METRICS]),
        *(Ref(KEY, name) for name in keys[:USUAL_KEYS]),
        *(Ref(FIELD, word) for word in AFTER),
    ]


def offered(user: Any, project: Project | None) -> list[tuple[str, list[Ref]]]:
    """Config keys and metrics that a table could show, those in which runs differ first."""
    columns = Column.objects.visible_to(user)
    if project is not None:
        columns = columns.filter(project=project)
    rows = columns.order_by("-varies", "pk").values_list("kind", "name")
    names = list(dict.fromkeys(rows[: 4 * OFFERED]))[:OFFERED]
    keys = [Ref(KEY, name) for kind, name in names if kind == Kind.KEY]
    metrics = [name for kind, name in names if kind == Kind.METRIC]
    sides = [Ref(side, name) for name in metrics for side in _sides(name, project)]
    return [(KEY, keys), (LAST, sides)]


def but_the_seed(project: Project | None) -> tuple[Ref, ...]:
    """The config keys in which the project's runs differ, as long as these are few; so runs that
    differ by their seed alone are together. Empty: they do not differ by a seed."""
    if project is None:
        return ()
    varying = project.columns.filter(kind=Kind.KEY, varies=True).values_list("name", flat=True)
    names = list(varying[: MOST_GROUPED_BY + 2])
    others = tuple(Ref(KEY, name) for name in names if not _SEED.search(name))
    is_seeded = len(others) < len(names)
    return others if is_seeded and len(others) <= MOST_GROUPED_BY else ()


def _sides(name: str, project: Project | None) -> Sequence[str]:
    """Its best value, where one knows which way is better; and its last."""
    goal = project.better(name) if project else better(name)
    return (BEST, LAST) if goal else (LAST,)
