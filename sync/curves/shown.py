"""What a chart gets: each series thinned to what a screen shows, and only what is new.

    {"sources": [{
        "id": "9f…",        say `have=9f….1200` with the next request, and only rows after it come
        "name": "lightning_logs/version_0/metrics.csv",
        "start": 0,         the first row of this answer; 0: it takes the place of what was known
        "rows": 1200,
        "note": "",         why not all of it can be read
        "axes": [{"name": "step", "kind": "step", "at": 0, "values": […]}],
        "series": [{"name": "train/loss", "at": [0, 2, …], "values": […]}]}],
     "more": false,         whether there is more to be read at once
     "files": [91, …],      what live messages call the run's files
     "left_out": 0}         files of metrics beyond those that are read

`at` are the rows of the values: a list, or where the first is if they follow one another. A row is
a row of the source; a value of null is a gap, and a row that is not there is none.
"""

import re
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tsdownsample import MinMaxLTTBDownsampler

from experiments.models import Job
from sync.curves import kept as keeping
from sync.curves.events import STEP, TIME
from sync.curves.kept import Kept, shelf
from sync.curves.sources import MAX_SOURCES, OWN, TENSORBOARD, Source, sources_of
from sync.curves.table import Column, Table
from sync.models import SyncFile

#: So many points of a series, and of all series of a run together, but never fewer than LEAST.
MAX_POINTS = 2000
ALL_POINTS = 24_000
LEAST_POINTS = 100
#: What is no metric but says where a row belongs, by kind.
_AXIS = re.compile(
    r"(?i)^(?:trainer/)?(?:(?P<step>(?:global_)?step|iter|iteration)|(?P<epoch>epoch)"
    r"|(?P<time>(?:wall_)?time|timestamp|elapsed|date))$"
)
_HAVE = re.compile(r"([0-9a-f]{1,32})\.(\d{1,18})")


#: A column's name, the numbers of its rows, and its values.
Series = tuple[str, np.ndarray, np.ndarray]


@dataclass
class Read:
    """One source as it was read for this answer."""

    source: Source
    kept: Kept
    table: Table  # as it was then: if the file is written anew meanwhile, another takes its place
    table_id: str
    names: list[str]  # of its columns that are metrics and have a value
    labels: dict[str, str]  # of these, what those that are shown are called

    @property
    def id(self) -> str:
        """Of the table and of what is shown of it."""
        return f"{self.table_id}{zlib.crc32(repr(self.labels).encode('utf-8', 'replace')):08x}"


def of(job: Job, have: str = "") -> dict[str, Any]:
    """The curves of a run.

    Args:
        have: what the reader has of them: `id.rows` of each source, with commas between.
    """
    rows = list(SyncFile.objects.results().filter(job=job))
    sources = sources_of(job, rows)
    known = {name: int(count) for name, count in _HAVE.findall(have)}
    read, more = _read(job, sources[:MAX_SOURCES])
    _name(read)
    limit = ALL_POINTS // max(1, sum(len(one.labels) for one in read))
    limit = max(LEAST_POINTS, min(MAX_POINTS, limit))
    answers = [_answer(one, known.get(one.id, 0), limit) for one in read]
    shelf.tidy()
    return {
        "sources": answers,
        "more": more,
        "files": sorted(row.pk for row in rows),
        "left_out": max(0, len(sources) - len(read)),
    }


def of_metrics(job: Job, names: Sequence[str], limit: int) -> tuple[dict[str, Any], bool]:
    """Some metrics of a run, each thinned to `limit` points, to be laid beside other runs'.

    Returns:
        {"val_loss": {"rows": […], "values": […], "axes": {"step": […]}}}: the rows of the points,
        their values (None: a gap) and, of each kind of axis that the run has, where they belong
        (None: nowhere); and whether there is more to be read at once.
    """
    sources = sources_of(job, list(SyncFile.objects.results().filter(job=job)))
    read, more = _read(job, sources[:MAX_SOURCES])
    _name(read)
    wanted = set(names)
    found: dict[str, Any] = {}
    for one in read:
        for name, label in one.labels.items():
            if label in wanted:
                found[label] = _alone(one, name, limit)
    shelf.tidy()
    return found, more


def _alone(one: Read, name: str, limit: int) -> dict[str, Any]:
    with one.kept.lock:
        rows, values = _thinned(*_points(one, name), limit)
        axes: dict[str, Any] = {}
        for axis in _axes(one.source, one.table, rows):
            start, cells = axis["at"], axis["values"]
            at = range(start, start + len(cells)) if isinstance(start, int) else start
            places = dict(zip(at, cells, strict=True))
            axes.setdefault(axis["kind"], [places.get(row) for row in rows.tolist()])
    cells = [None if value != value else value for value in values.tolist()]
    return {"rows": rows.tolist(), "values": cells, "axes": axes}


def closely(job: Job, source_id: str, first: int, last: int) -> dict[str, Any]:
    """The rows `first` to `last` of one source, with as many points as all of it has elsewhere.

    Args:
        source_id: its `id` as of() told it; of one that is not known any more nothing is told.
    """
    sources = sources_of(job, list(SyncFile.objects.results().filter(job=job)))
    read, _more = _read(job, sources[:MAX_SOURCES])
    _name(read)
    shelf.tidy()
    return {"sources": [_close(one, first, last) for one in read if one.id == source_id]}


def _close(one: Read, first: int, last: int) -> dict[str, Any]:
    limit = max(LEAST_POINTS, min(MAX_POINTS, ALL_POINTS // max(1, len(one.labels))))
    with one.kept.lock:
        series = []
        for name in one.labels:
            rows, values = _points(one, name)
            within = (rows >= first) & (rows <= last)
            series.append((name, *_thinned(rows[within], values[within], limit)))
        return _told(one, 0, series)


def columns_of_others(job: Job, own: set[str], limit_bytes: int) -> dict[str, Column]:
    """What the run's other sources add to the columns of its own CSV, by the names that are
    shown; nothing if these sources are larger than this together."""
    sources = sources_of(job, list(SyncFile.objects.results().filter(job=job)))
    others = [source for source in sources if source.kind != OWN][:MAX_SOURCES]
    if sum(row.size for source in others for row in source.files) > limit_bytes:
        return {}
    read, _ = _read(job, others)
    for one in read:
        one.names = [name for name in one.names if name not in own]
    _name(read)
    shelf.tidy()
    return {label: one.table.columns[name] for one in read for name, label in one.labels.items()}


def read(job: Job, sources: list[Source]) -> tuple[list[Read], bool]:
    """What these sources hold, with the names that are shown; and whether there is more to be
    read at once."""
    found, more = _read(job, sources)
    _name(found)
    return found, more


def thinned(one: Read, name: str, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (int64) and values (float64, NaN: a gap) of one column, some `limit` of them. Under the
    source's lock."""
    return _thinned(*_points(one, name), limit)


def axis_at(one: Read, kind: str, rows: np.ndarray) -> np.ndarray:
    """float64 of shape (m,): where these rows lie on the axis of that kind; NaN: nowhere."""
    columns = one.table.columns
    name = next(name for name in columns if axis_kind(name) == kind)
    if one.source.kind == TENSORBOARD and name not in (STEP, TIME):
        return _by_step(one.table, columns[name], rows).astype(float)
    at, values = _there(columns[name], rows)
    found = np.full(len(rows), np.nan)
    found[np.searchsorted(rows, at)] = values
    return found


def axis_kind(name: str) -> str:
    """`step`, `epoch` or `time`; empty for a metric."""
    match = _AXIS.match(name)
    return str(match.lastgroup) if match else ""


def _read(job: Job, sources: list[Source]) -> tuple[list[Read], bool]:
    deadline = time.monotonic() + keeping.READ_SECONDS
    found: list[Read] = []
    more = False
    for source in sources:
        if sum(one.kept.nbytes for one in found) > keeping.RUN_BYTES:
            break
        kept = shelf.of(job, source)
        with kept.lock:
            more |= kept.read(job, source, deadline)
            table = kept.table
            found.append(Read(source, kept, table, kept.id, _metrics_in(table), {}))
    return found, more


def _metrics_in(table: Table) -> list[str]:
    return [
        name
        for name, column in table.columns.items()
        if column.last is not None and not axis_kind(name)
    ]


def _name(found: list[Read]) -> None:
    """Say what each series is called; one that an earlier source has is left out, unless both are
    of one kind and lie in folders of their own, as folds and versions do."""
    taken: dict[str, Source] = {}
    for one in found:
        for name in one.names:
            first = taken.setdefault(name, one.source)
            if first is one.source:
                one.labels[name] = name
            elif first.kind == one.source.kind and first.folder != one.source.folder:
                one.labels[name] = f"{name} ({one.source.folder})"


def _answer(one: Read, start: int, limit: int) -> dict[str, Any]:
    with one.kept.lock:
        series = _series(one, start, limit) if 0 < start <= one.table.rows else None
        if series is None:
            start = 0
            series = [(name, *_thinned(*_points(one, name), limit)) for name in one.labels]
        return _told(one, start, series)


def _told(one: Read, start: int, series: list[Series]) -> dict[str, Any]:
    table = one.table
    rows = np.unique(np.concatenate([[], *(at for _, at, _ in series)])).astype(np.int64)
    return {
        "id": one.id,
        "name": one.source.name,
        "start": start,
        "rows": table.rows,
        "note": table.note,
        "axes": _axes(one.source, table, rows),
        "series": [
            {"name": one.labels[name], **_packed(at, values)} for name, at, values in series
        ],
    }


def _series(one: Read, start: int, limit: int) -> list[Series] | None:
    """What came from row `start` on; None if it cannot be added to what was shown before."""
    found = []
    for name in one.labels:
        column = one.table.columns[name]
        rows, values = column.since(start)
        if len(rows) > limit or not _is_in_order(one, column):
            return None
        found.append((name, rows, values))
    return found


def _points(one: Read, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows and values of a column, in the order in which they are drawn.

    After a restart TensorBoard's files hold some steps twice; of these the later one counts.
    """
    column = one.table.columns[name]
    if _is_in_order(one, column):
        return column.rows, column.values
    steps = _at(one.table.columns[STEP], column.rows)
    times = _at(one.table.columns[TIME], column.rows)
    order = np.lexsort((times, steps))
    last = np.append(np.diff(steps[order]) > 0, True)
    return column.rows[order][last], column.values[order][last]


def _is_in_order(one: Read, column: Column) -> bool:
    """Whether no row of an event file takes the place of an earlier one."""
    if one.source.kind != TENSORBOARD:
        return True
    return _is_increasing(_at(one.table.columns[STEP], column.rows))


def _is_increasing(values: np.ndarray) -> bool:
    return bool(np.all(np.diff(values) > 0))


def _thinned(rows: np.ndarray, values: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """At most some `limit` of the points, with every spike, and where gaps begin.

    Source:
        Van Der Donckt et al., "MinMaxLTTB" (2023), as in the library tsdownsample.
    """
    if len(values) <= limit:
        return rows, values
    is_gap = np.isnan(values)
    seen, gaps = np.flatnonzero(~is_gap), np.flatnonzero(is_gap[1:] & ~is_gap[:-1]) + 1
    if len(seen) > limit:
        points = np.ascontiguousarray(values[seen])
        seen = seen[MinMaxLTTBDownsampler().downsample(points, n_out=limit)]
    kept = np.union1d(seen, gaps[:: 1 + len(gaps) // limit])
    return rows[kept], values[kept]


def _axes(source: Source, table: Table, rows: np.ndarray) -> list[dict[str, Any]]:
    """Of each column that says where a row belongs, its values at these rows."""
    found = []
    for name, column in table.columns.items():
        if (kind := axis_kind(name)) and column.last is not None:
            if source.kind == TENSORBOARD and name not in (STEP, TIME):
                at, values = rows, _by_step(table, column, rows)
            else:
                at, values = _there(column, rows)
            found.append({"name": name, "kind": kind, **_packed(at, values)})
    return found


def _at(column: Column, rows: np.ndarray) -> np.ndarray:
    """The values of a column that every row has."""
    return column.values[np.searchsorted(column.rows, rows)]


def _there(column: Column, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of these rows those that the column has, and its values there."""
    known = column.rows
    places = np.minimum(np.searchsorted(known, rows), len(known) - 1)
    has = known[places] == rows
    return rows[has], column.values[places[has]]


def _by_step(table: Table, column: Column, rows: np.ndarray) -> np.ndarray:
    """An epoch that is a tag of its own stands in other rows than the metrics of its step."""
    steps = _at(table.columns[STEP], column.rows)
    order = np.argsort(steps, kind="stable")
    wanted = np.searchsorted(steps[order], _at(table.columns[STEP], rows), side="right") - 1
    return column.values[order][np.maximum(wanted, 0)]


def _packed(rows: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    follows = len(rows) and rows[-1] - rows[0] == len(rows) - 1 and _is_increasing(rows)
    cells = values.tolist()
    if np.isnan(values).any():
        cells = [None if value != value else value for value in cells]
    return {"at": int(rows[0]) if follows else rows.tolist(), "values": cells}
