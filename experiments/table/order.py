"""The jobs that match, in the order of a column.

A list of all their keys: it is counted, cut into pages and exported as it is. The values of a
config key or a metric are read from Cell alone and laid beside it, which costs less than half of
asking for each job's value within one statement (10 000 jobs: 50 ms, measured on SQLite).
"""

from typing import Any

from django.db.models import Case, IntegerField, When

from experiments.models import Cell, Pin
from experiments.models.queue import JobQuerySet
from experiments.table.columns import FIELD, Known, Ref
from experiments.table.fields import FIELDS, Reader


def ordered(
    jobs: JobQuerySet, ref: Ref | None, reader: Reader, known: Known, *, descending: bool
) -> list[int]:
    """The keys of the jobs by a column, then the newest first; without one, one's own first.

    Pinned runs stand above all others. What a run does not have comes last, either way.
    """
    if ref is None:
        mine = Case(When(user=reader.user.pk, then=0), default=1, output_field=IntegerField())
        pks = _pks(jobs.order_by(mine, "-pk"))
    elif ref.kind == FIELD:
        pks = _by_field(jobs, ref, reader, descending=descending)
    else:
        there = set(_pks(jobs.order_by()))
        has = [pk for pk in _by_cells(ref, known, descending=descending) if pk in there]
        pks = has + sorted(there.difference(has), reverse=True)
    pinned = set(_pins(reader))
    return sorted(pks, key=lambda pk: pk not in pinned) if pinned else pks


def _pks(jobs: JobQuerySet) -> list[int]:
    return list(jobs.values_list("pk", flat=True))


def _pins(reader: Reader) -> list[int]:
    return list(Pin.objects.filter(user=reader.user).values_list("job_id", flat=True))


def _by_field(jobs: JobQuerySet, ref: Ref, reader: Reader, *, descending: bool) -> list[int]:
    order = FIELDS[ref.name].order
    if order is None:
        return _pks(jobs.order_by("-pk"))
    return _pks(jobs.order_by(_directed(order(reader), descending=descending), "-pk"))


def _directed(expression: Any, *, descending: bool) -> Any:
    if descending:
        return expression.desc(nulls_last=True)
    return expression.asc(nulls_last=True)


def _by_cells(ref: Ref, known: Known, *, descending: bool) -> list[int]:
    """Numbers before texts."""
    if ref.is_metric:
        found = [row for source in ref.sources(known) for row in source.numbers()]
        found.sort(key=lambda row: (-row[0] if descending else row[0], -row[1]))
        return [job for _value, job in found]
    cells = Cell.objects.filter(column__in=ref.ids(known))
    rows = list(cells.values_list("number", "folded", "job_id"))
    rows.sort(key=lambda row: row[2], reverse=True)
    rows.sort(key=lambda row: (row[0] or 0.0, row[1]), reverse=descending)
    rows.sort(key=lambda row: row[0] is None)
    return [job for _number, _text, job in rows]
