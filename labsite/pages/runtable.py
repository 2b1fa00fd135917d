"""A table of runs, of one project or of all: what is asked, found and laid out for a page."""

from dataclasses import dataclass, field, replace
from typing import Any

from django.core.paginator import Page, Paginator
from django.http import HttpRequest
from django.urls import reverse

from experiments.errors import QueryWrong
from experiments.models import Job, Pin, Project, SavedView
from experiments.models.queue import JobQuerySet
from experiments.states import JobState
from experiments.table.columns import FIELD, KEY, LAST, Known, Ref, known_columns
from experiments.table.fields import FIELDS, Reader, field_named
from experiments.table.groups import FIELD_PATHS, Group, groups_of, sort_groups
from experiments.table.match import match, unknown_words
from experiments.table.order import ordered
from experiments.table.query import Text, quoted
from experiments.table.values import values_of
from labsite.clock import database_now
from labsite.pages.asking import Asked, asked_by, but_the_seed, offered
from labsite.pages.cellhtml import Cell, cells_of, is_number, spread
from labsite.pages.queue import Line, lines

PAGE = 50
#: Of a job what no row shows; some of it is long.
UNSHOWN = (
    "config", "keys", "command", "environment", "labels", "outputs", "ignore", "sync", "waiting",
    "avoids", "summary", "resume_point",
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    ref: Ref
    label: str
    css: str
    link: str  # orders by it, or turns the order round; empty: it orders nothing
    sorted: str  # "ascending", "descending" or empty


@dataclass(frozen=True)
class Shown:
    """A run as a row."""

    line: Line
    cells: list[Cell]
    is_pinned: bool


@dataclass(frozen=True)
class GroupRow:
    group: Group
    values: list[tuple[str, str]]  # label, text
    link: str  # to its runs
    spreads: list[tuple[str, str]]


@dataclass(frozen=True)
class Mistake:
    """A query that cannot be read, with the place marked."""

    before: str
    marked: str
    after: str
    words: str


@dataclass
class Found:
    """The jobs that are asked for."""

    asked: Asked
    reader: Reader
    jobs: JobQuerySet
    known: Known
    wrong: QueryWrong | None = None
    unknown: tuple[Text, ...] = ()

    def pks(self) -> list[int]:
        """All of them, in order."""
        if self.wrong:
            return []
        asked = self.asked
        return ordered(self.jobs, asked.sort, self.reader, self.known, descending=asked.descending)

    def groups(self) -> list[Group]:
        if self.wrong:
            return []
        asked = self.asked
        groups = groups_of(self.jobs, asked.groups, asked.columns, self.known)
        sort_groups(groups, asked.groups, asked.sort, descending=asked.descending)
        return groups


@dataclass
class Table:
    asked: Asked
    base: str  # the address of its page
    count: int
    page: Page
    headers: list[Header]
    rows: list[Shown] = field(default_factory=list)
    groups: list[GroupRow] = field(default_factory=list)
    mistake: Mistake | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.asked.address()

    @property
    def here(self) -> str:
        """The whole address, for who is to come back to it."""
        page = f"&page={self.page.number}" if self.page.number > 1 else ""
        return f"{self.base}?{self.asked.address()}{page}"


def find(asked: Asked, user: Any) -> Found:
    reader = Reader(user, database_now())
    jobs = Job.objects.visible_to(user)
    jobs = jobs.present() if asked.archived else jobs.listed()
    if asked.project is not None:
        jobs = jobs.filter(project=asked.project)
    if asked.mine:
        jobs = jobs.filter(user=user)
    if asked.state:
        jobs = jobs.filter(state=asked.state)
    names = (ref.name for ref in asked.refs if ref.kind != FIELD)
    known = known_columns(names, user, asked.project)
    try:
        matched = match(asked.query, reader, asked.project)
    except QueryWrong as wrong:
        return Found(asked, reader, jobs.none(), known, wrong)
    return Found(asked, reader, jobs.filter(matched.condition), known, None, matched.unknown)


def table_of(request: HttpRequest, project: Project | None = None) -> Table:
    """What the address asks for, laid out."""
    asked = asked_by(request, project)
    found = find(asked, request.user)
    base = reverse("project", args=[project.name]) if project else reverse("runs")
    wanted: list[Any] = found.groups() if asked.groups else found.pks()
    page = Paginator(wanted, PAGE).get_page(request.GET.get("page"))
    table = Table(asked, base, len(wanted), page, _headers(asked))
    if found.wrong:
        table.mistake = _mistake(asked.query, found.wrong)
    table.remarks = [unknown_words(name.text, request.user, project) for name in found.unknown]
    if asked.groups:
        table.groups = [_group_row(group, asked) for group in page.object_list]
    else:
        table.rows = rows_of(list(page.object_list), found, request.user)
        table.headers = [_over(at, head, table.rows) for at, head in enumerate(table.headers)]
    return table


def choices(table: Table, user: Any) -> dict[str, Any]:
    """What can be chosen around the table; no part that is fetched anew has it."""
    asked = table.asked
    kinds = dict(offered(user, asked.project))
    grouped = [Ref(FIELD, name) for name in FIELD_PATHS if name != "project" or not asked.project]
    fields = [Ref(FIELD, name) for name in FIELDS]
    seedless = but_the_seed(asked.project)
    return {
        "views": SavedView.objects.offered_to(user, asked.project).select_related("owner"),
        "states": JobState.choices,
        "choosable": [
            [ref for ref in refs if ref not in asked.columns]
            for refs in (fields, kinds[KEY], kinds["last"])
        ],
        "groupable": [*kinds[KEY], *grouped],
        "over_seeds": asked.address(groups=seedless) if seedless else "",
    }


def rows_of(pks: list[int], found: Found, user: Any) -> list[Shown]:
    """The rows of these runs, in this order; the queries do not grow with them."""
    asked = found.asked
    jobs = Job.objects.filter(pk__in=pks).select_related("project", "user").defer(*UNSHOWN)
    by_pk = {line.job.pk: line for line in lines(jobs, user, found.reader.now, len(pks))}
    values = values_of(pks, asked.columns, found.known)
    pinned = set(Pin.objects.filter(user=user, job__in=pks).values_list("job_id", flat=True))
    refs = list(asked.columns)
    return [
        Shown(by_pk[pk], cells_of(by_pk[pk], refs, values[pk]), pk in pinned)
        for pk in pks
        if pk in by_pk
    ]


def _headers(asked: Asked) -> list[Header]:
    refs = [*asked.groups, *(ref for ref in asked.columns if ref.is_metric)]
    return [_header(ref, asked) for ref in (refs if asked.groups else asked.columns)]


def _header(ref: Ref, asked: Asked) -> Header:
    orders = ref.kind != FIELD or FIELDS[ref.name].order is not None
    is_sorted = ref == asked.sort
    down = not asked.descending if is_sorted else is_number(ref)
    link = asked.address(sort=ref, descending=down) if orders else ""
    direction = "descending" if asked.descending else "ascending"
    css = "n" if is_number(ref) else ""
    has_twin = ref.kind == LAST and Ref(KEY, ref.name) in asked.refs
    label = ref.full_label if has_twin else ref.label
    return Header(ref, label, css, link, direction if is_sorted else "")


def _over(at: int, head: Header, rows: list[Shown]) -> Header:
    """A config key's header stands over numbers as numbers do."""
    cells = [row.cells[at] for row in rows if row.cells[at].html != ""]
    is_of_numbers = bool(cells) and all(cell.css == "n" for cell in cells)
    return replace(head, css="n") if is_of_numbers else head


def _group_row(group: Group, asked: Asked) -> GroupRow:
    labels = [ref.label for ref in asked.groups]
    texts = ["–" if value is None else str(value) for value in group.values]
    metrics = [ref for ref in asked.columns if ref.is_metric]
    return GroupRow(
        group,
        list(zip(labels, texts, strict=True)),
        asked.address(query=_narrowed(group, asked), groups=(), view=None),
        [(ref.label, spread(group.spreads.get(ref))) for ref in metrics],
    )


def _narrowed(group: Group, asked: Asked) -> str:
    """The query for the runs of this group."""
    parts = [asked.query] if asked.query else []
    for ref, value in zip(asked.groups, group.values, strict=True):
        is_hidden = ref.kind == KEY and field_named(ref.name) is not None
        name = quoted(f"config.{ref.name}" if is_hidden else ref.name)
        parts.append(f'-{name}~""' if value is None else f"{name}={quoted(str(value))}")
    return " ".join(parts)


def _mistake(query: str, wrong: QueryWrong) -> Mistake:
    start, end = wrong.position, wrong.end
    return Mistake(query[:start], query[start:end] or " ", query[end:], str(wrong))
