"""The last and the best values of a run's metrics, kept up as its CSV grows.

Derived from the file alone; a new row costs a new row. `Job.summary` holds
{"columns", "last", "min", "max": {column: value}, "rows", "upto_bytes", "generation"}.
"""

import csv
import math
from typing import Any

from experiments.models import Job
from sync import storage
from sync.models import SyncFile
from sync.storage import Place

#: So many bytes are read at a time; a longer line than this is no line of a CSV.
BLOCK_BYTES = 4 * 1024 * 1024
#: Of wider tables the first columns are summed up.
MAX_COLUMNS = 500
MAX_NAME_LENGTH = 200


def update(job: Job, row: SyncFile) -> None:
    """Take in what `row`, the run's metrics CSV, has gained since the last time.

    Under the file's lock, as whatever moves it: of two requests the later one sees more.
    """
    with storage.locked(Place.of(job, row.name)):
        job.refresh_from_db(fields=["summary"])
        row.refresh_from_db()
        _take_in(job, row)


def _take_in(job: Job, row: SyncFile) -> None:
    summary = job.summary
    if summary.get("generation") != row.generation or summary["upto_bytes"] > row.size:
        summary = _empty(row)
    while fresh := _whole_lines(job, row, summary["upto_bytes"]):
        summary = _with(summary, fresh)
    if summary != job.summary:
        job.note_summary(summary)


def _empty(row: SyncFile) -> dict[str, Any]:
    return {
        "generation": row.generation,
        "upto_bytes": 0,
        "rows": 0,
        "width": 0,
        "columns": [],
        "last": {},
        "min": {},
        "max": {},
    }


def _whole_lines(job: Job, row: SyncFile, offset: int) -> bytes:
    """From `offset` to the last newline; a last line without one is not whole yet."""
    length = min(BLOCK_BYTES, row.size - offset)
    block = storage.read(Place.of(job, row.name), offset, length) if length > 0 else b""
    return block[: block.rfind(b"\n") + 1]


def _with(summary: dict[str, Any], lines: bytes) -> dict[str, Any]:
    summary = {
        **summary,
        "last": dict(summary["last"]),
        "min": dict(summary["min"]),
        "max": dict(summary["max"]),
        "upto_bytes": summary["upto_bytes"] + len(lines),
    }
    for line in lines.decode("utf-8", "replace").splitlines():
        cells = cells_of(line)
        if not summary["width"]:
            summary["width"] = len(cells)
            summary["columns"] = names_of(cells)[:MAX_COLUMNS]
        elif len(cells) == summary["width"]:
            summary["rows"] += 1
            _take(summary, dict(zip(summary["columns"], cells, strict=False)))
    return summary


def _take(summary: dict[str, Any], row: dict[str, str]) -> None:
    for column, text in row.items():
        value = number(text)
        if value is None:
            continue
        summary["last"][column] = value
        summary["min"][column] = min(value, summary["min"].get(column, value))
        summary["max"][column] = max(value, summary["max"].get(column, value))


def cells_of(line: str) -> list[str]:
    """A line's cells; none of a line that is no CSV. A quoted cell ends with its line, so that a
    quote that is never closed costs one line and not the rest of the file."""
    if '"' not in line:
        return line.split(",") if line else []
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def names_of(header: list[str]) -> list[str]:
    """What its columns are called, in a form that a database and a page can hold."""
    return [cell.strip("\ufeff \t").replace("\0", "")[:MAX_NAME_LENGTH] for cell in header]


def number(text: str) -> float | None:
    """A finite number, or None for a gap: empty, a word, NaN, infinity."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
