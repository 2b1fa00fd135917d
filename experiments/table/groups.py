"""Runs that have the same values, together: how many, and their metrics as mean and deviation."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.models import Cell
from experiments.models.cell import number_of
from experiments.models.queue import JobQuerySet
from experiments.table.columns import FIELD, Known, Ref

#: What a table may be grouped by besides config keys.
FIELD_PATHS = {"project": "project__name", "user": "user__username", "state": "state"}
MOST_GROUPED_BY = 8


def may_group(ref: Ref) -> bool:
    return not ref.is_metric and (ref.kind != FIELD or ref.name in FIELD_PATHS)


@dataclass(frozen=True)
class Spread:
    """Of some runs' values of a metric."""

    count: int
    mean: float
    deviation: float | None  # of a sample; None: of one value there is none


@dataclass
class Group:
    """The runs that have these values of the columns that are grouped by."""

    values: tuple[Any, ...]  # None: they have none
    runs: int = 0
    spreads: dict[Ref, Spread] = field(default_factory=dict)


def groups_of(
    jobs: JobQuerySet, by: Sequence[Ref], shown: Sequence[Ref], known: Known
) -> list[Group]:
    """All groups, in no order of their own. A query for the runs, and one for each column."""
    paths = [FIELD_PATHS[ref.name] for ref in by if ref.kind == FIELD]
    runs = list(jobs.order_by().values_list("pk", *paths))
    pks = [row[0] for row in runs]
    columns = []
    for ref in by:
        if ref.kind == FIELD:
            at = 1 + paths.index(FIELD_PATHS[ref.name])
            columns.append([row[at] for row in runs])
        else:
            columns.append(list(map(_texts(ref, known).get, pks)))
    counts = Counter(keys := list(zip(*columns, strict=True)))
    found = {key: Group(key, count) for key, count in counts.items()}
    places = {key: place for place, key in enumerate(found)}
    group_of = dict(zip(pks, map(places.__getitem__, keys), strict=True))
    for ref in (ref for ref in shown if ref.is_metric):
        _fill(list(found.values()), group_of, ref, known)
    return list(found.values())


def _texts(ref: Ref, known: Known) -> dict[int, str]:
    """Of each job its value; of values that are one number (0.001, 1e-3) the first one's text."""
    cells = Cell.objects.filter(column__in=ref.ids(known))
    first: dict[float, str] = {}
    return {
        job: text if number is None else first.setdefault(number, text)
        for job, number, text in cells.values_list("job_id", "number", "text")
    }


def _fill(groups: list[Group], group_of: dict[int, int], ref: Ref, known: Known) -> None:
    rows = [
        (group_of[job], value)
        for source in ref.sources(known)
        for value, job in source.numbers()
        if job in group_of
    ]
    if not rows:
        return
    which, values = (np.array(part) for part in zip(*rows, strict=True))
    for place, spread in enumerate(_spreads(which, values, len(groups))):
        if spread.count:
            groups[place].spreads[ref] = spread


def _spreads(which: np.ndarray, values: np.ndarray, groups: int) -> list[Spread]:
    """
    Args:
        which: int64 of shape (n,), the group of each value.
        values: float64 of shape (n,), finite.
    """
    with np.errstate(all="ignore"):  # a group without values; values near the largest double
        counts = np.bincount(which, minlength=groups)
        means = np.bincount(which, values, groups) / counts
        squares = np.bincount(which, (values - means[which]) ** 2, groups)
        deviations = np.sqrt(squares / (counts - 1))
    return [
        Spread(int(count), float(mean), float(deviation) if count > 1 else None)
        for count, mean, deviation in zip(counts, means, deviations, strict=True)
    ]


def sort_groups(groups: list[Group], by: Sequence[Ref], ref: Ref | None, *, descending: bool):
    """In place: by a metric's mean, by one of the values, or the largest groups first."""
    if ref in by:
        at = by.index(ref)
        groups.sort(key=lambda group: _rank(group.values[at]), reverse=descending)
    elif ref is not None and ref.is_metric:
        groups.sort(key=lambda group: _mean(group, ref), reverse=descending)
    else:
        groups.sort(key=lambda group: (-group.runs, [_rank(value) for value in group.values]))
    if ref is not None:
        groups.sort(key=lambda group: _lacks(group, by, ref))


def _rank(value: Any) -> tuple[bool, float, str]:
    number = number_of(str(value))
    return number is None, number or 0.0, "" if value is None else str(value)


def _mean(group: Group, ref: Ref) -> float:
    return group.spreads[ref].mean if ref in group.spreads else 0.0


def _lacks(group: Group, by: Sequence[Ref], ref: Ref) -> bool:
    if ref in by:
        return group.values[by.index(ref)] is None
    return ref.is_metric and ref not in group.spreads
