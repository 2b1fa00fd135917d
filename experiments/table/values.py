"""The cells of the runs of one page."""

from collections.abc import Iterable, Sequence
from typing import Any

from experiments.models import Cell
from experiments.table.columns import FIELD, Known, Ref

#: Of a run: what it has in each of the columns that it has something in.
Row = dict[Ref, Any]


def values_of(pks: Sequence[int], refs: Iterable[Ref], known: Known) -> dict[int, Row]:
    """Of each job a text (a config key) or a number (a metric) for each column. One query."""
    places: dict[int, list[tuple[Ref, str]]] = {}
    for ref in refs:
        for source in ref.sources(known) if ref.kind != FIELD else ():
            for pk in source.ids:
                places.setdefault(pk, []).append((ref, source.attribute))
    found: dict[int, Row] = {pk: {} for pk in pks}
    if not places or not pks:
        return found
    cells = Cell.objects.filter(job__in=pks, column__in=places).only(
        "job_id", "column_id", "number", "low", "high", "text"
    )
    for cell in cells:
        for ref, attribute in places[cell.column_id]:
            value = getattr(cell, attribute) if ref.is_metric else cell.text
            if value is not None:
                found[cell.job_id][ref] = value
    return found
