"""Which of a run's files hold metrics, and which goes before which.

In this order; a metric that two sources have under one name is shown from the first:

    run_001.csv                          the run's own
    other CSV and JSONL                  Lightning's CSVLogger, a DataFrame, a script's own
    events.out.tfevents.*                TensorBoard: the files of one folder are one source
    trainer_state.json                   Hugging Face: written with checkpoints only, so the last

Sources of the *same* kind in several folders (folds, versions) are shown side by side instead.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent import wire
from experiments.models import Job
from sync.curves.events import Events
from sync.curves.lines import CSV, JSONL
from sync.curves.trainer import TrainerState
from sync.models import SyncFile

#: Of a run that wrote more, the others are counted.
MAX_SOURCES = 24
TABLES = {".csv": CSV, ".jsonl": JSONL, ".ndjson": JSONL}
TRAINER_STATE = "trainer_state.json"
OWN, TABLE, TENSORBOARD, TRAINER = range(4)
_CHECKPOINT = re.compile(r"(^|/)checkpoint-\d+$")


@dataclass(frozen=True)
class Source:
    """Files that are read into one table."""

    kind: int
    name: str  # of the file, or of the event files' folder; without the run's own folder
    folder: str  # in which it lies
    reader: Callable[..., Any]
    files: tuple[SyncFile, ...]

    @property
    def order(self) -> tuple[int, str]:
        return self.kind, self.name


def sources_of(job: Job, rows: list[SyncFile]) -> list[Source]:
    """The sources among a run's files, the most telling first."""
    found = [_table(job, row) for row in rows if _suffix(row.name) in TABLES]
    found += _groups(job, rows, TENSORBOARD)
    found += _groups(job, rows, TRAINER)
    return sorted(found, key=lambda source: source.order)


def is_source(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return _suffix(name) in TABLES or wire.is_event_file(name) or base == TRAINER_STATE


def _table(job: Job, row: SyncFile) -> Source:
    kind = OWN if row.name == f"{job.run_name}.csv" else TABLE
    name = _within(job, row.name)
    return Source(kind, name, _folder(name), TABLES[_suffix(row.name)], (row,))


def _groups(job: Job, rows: list[SyncFile], kind: int) -> list[Source]:
    """Event files by folder; of the states of one Trainer the one that has seen the most."""
    groups: dict[str, list[SyncFile]] = {}
    for row in sorted(rows, key=lambda row: row.name):
        name = _within(job, row.name)
        base, folder = name.rsplit("/", 1)[-1], _folder(name)
        if kind == TENSORBOARD and wire.is_event_file(name):
            groups.setdefault(folder, []).append(row)
        if kind == TRAINER and base == TRAINER_STATE:
            groups.setdefault(_CHECKPOINT.sub("", folder), []).append(row)
    if kind == TENSORBOARD:
        return [
            Source(kind, f or wire.EVENT_FILE, f, Events, tuple(of)) for f, of in groups.items()
        ]
    longest = {f: max(of, key=lambda row: (row.size, row.synced_at)) for f, of in groups.items()}
    return [
        Source(kind, _within(job, row.name), f, TrainerState, (row,)) for f, row in longest.items()
    ]


def _within(job: Job, name: str) -> str:
    return name.removeprefix(f"{job.run_name}/")


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _suffix(name: str) -> str:
    return name[name.rfind(".") :].lower()
