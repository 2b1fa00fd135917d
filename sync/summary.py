"""The last and the best values of a run's metrics, kept up as its files grow.

Derived from the files alone; a new row costs a new row. `Job.summary` holds of the run's own CSV
{"columns", "last", "min", "max": {column: value}, "rows", "upto_bytes", "generation"}, and under
"others" the first four of what its other sources of curves add to that.
"""

import math
from typing import Any

from experiments.metrics import whole
from experiments.models import Job
from labsite import wake
from sync import storage
from sync.curves import shown
from sync.curves.lines import cells_of, number
from sync.curves.table import MAX_COLUMNS, name_of
from sync.models import SyncFile
from sync.storage import Place

__all__ = ["update", "update_others", "whole"]

#: So many bytes are read at a time; a longer line than this is no line of a CSV.
BLOCK_BYTES = 4 * 1024 * 1024
#: Other sources that are larger than this together are not summed up: they may have to be
#: read from their beginning while an agent waits for its answer.
OTHERS_BYTES = 32 * 1024 * 1024


def update(job: Job, row: SyncFile) -> None:
    """Take in what `row`, the run's metrics CSV, has gained since the last time.

    Under the file's lock, as whatever moves it: of two requests the later one sees more. Whoever
    was told of the file's growth may have looked before: they are told again.
    """
    with storage.locked(Place.of(job, row.name)):
        job.refresh_from_db(fields=["summary"])
        row.refresh_from_db()
        summary = taken_in(job, row, row.size)
        if summary != job.summary:
            job.note_summary(summary)
            wake.publish_on_commit("file", row.pk, row.size)


def update_others(job: Job, row: SyncFile) -> None:
    """Take in what the run's other sources of curves, of which `row` is one, have gained since
    the last time. As with update(), it is told that `row` is worth another look."""
    with storage.locked(Place.of(job, f"{job.run_name}.csv")):
        job.refresh_from_db(fields=["summary"])
        own = set(job.summary.get("columns", []))
        found = shown.columns_of_others(job, own, OTHERS_BYTES)
        others = {
            "columns": list(found),
            "last": {name: column.last for name, column in found.items()},
            "min": {name: column.low for name, column in found.items()},
            "max": {name: column.high for name, column in found.items()},
        }
        if others != job.summary.get("others"):
            job.note_summary({**job.summary, "others": others})
            wake.publish_on_commit("file", row.pk, row.size)


def taken_in(job: Job, row: SyncFile, size: int) -> dict[str, Any]:
    """The summary once all is taken in of the metrics CSV `row` that has `size` bytes by now."""
    summary = job.summary
    if summary.get("generation") != row.generation or summary["upto_bytes"] > size:
        summary = _empty(row) | {key: summary[key] for key in summary if key == "others"}
    while fresh := _whole_lines(job, row, summary["upto_bytes"], size):
        summary = _with(summary, fresh)
    return summary


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


def _whole_lines(job: Job, row: SyncFile, offset: int, size: int) -> bytes:
    """From `offset` to the last newline; a last line without one is not whole yet, unless it is
    longer than any line of a CSV: what follows it counts again."""
    length = min(BLOCK_BYTES, size - offset)
    block = storage.read(Place.of(job, row.name), offset, length) if length > 0 else b""
    whole = block[: block.rfind(b"\n") + 1]
    return whole or (block if len(block) == BLOCK_BYTES else b"")


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
            summary["columns"] = [name_of(cell) for cell in cells[:MAX_COLUMNS]]
        elif len(cells) == summary["width"]:
            summary["rows"] += 1
            _take(summary, dict(zip(summary["columns"], cells, strict=False)))
    return summary


def _take(summary: dict[str, Any], row: dict[str, str]) -> None:
    for column, text in row.items():
        value = number(text)
        if value is None or not math.isfinite(value):
            continue
        summary["last"][column] = value
        summary["min"][column] = min(value, summary["min"].get(column, value))
        summary["max"][column] = max(value, summary["max"].get(column, value))
