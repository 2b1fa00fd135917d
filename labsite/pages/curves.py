"""What the charts of a run are made of: columns and values, thinned, peaks kept."""

import csv
from typing import Any

from labsite.pages.runfiles import Part
from sync.summary import number

MAX_ROWS = 2000


def read(part: Part, after: int | None) -> dict[str, Any]:
    """The table from its beginning, thinned; or all rows after the byte `after`.

    `next` is the byte after the last whole row; `data` has a list for each column, with None
    for what is not a number.
    """
    part.file.seek(0)
    data = part.file.read(part.size)
    data = data[: data.rfind(b"\n") + 1]
    header, _, body = data.partition(b"\n")
    start = after if after and len(header) < after <= len(data) else 0
    columns = next(csv.reader([header.decode("utf-8", "replace")]), [])
    rows = _rows(data[start:] if start else body, len(columns))
    step = 1 if start else max(1, len(rows) // MAX_ROWS)
    return {
        "columns": [name.strip() for name in columns],
        "data": [[number(row[at]) for row in rows[::step]] for at in range(len(columns))],
        "start": start,
        "next": len(data),
        "rows": len(rows),
    }


def _rows(data: bytes, width: int) -> list[list[str]]:
    found = csv.reader(data.decode("utf-8", "replace").splitlines())
    return [row for row in found if len(row) == width]
