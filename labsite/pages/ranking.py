"""The runs of a sweep by one metric: which is the best, and how the values lie over two keys."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.grid import SEED
from experiments.metrics import HIGHER, LOWER, better
from experiments.models import Project
from sync import summary
from sync.curves.shown import axis_kind

#: So many shades has the map of two keys.
SHADES = 8
MAX_SIDE = 24


@dataclass(frozen=True)
class Scores:
    """Every run's value of one metric."""

    names: list[str]  # all metrics that a run of the sweep has
    metric: str  # empty: there is none yet
    goal: str  # "max" or "min"
    best: dict[int, float]  # by the job's id: the best that it reached
    last: dict[int, float]

    @property
    def winner(self) -> int | None:
        """The id of the best job."""
        return self.order[0] if self.best else None

    @property
    def order(self) -> list[int]:
        """The ids of those that have a value, the best first; of equals the older."""
        sign = -1 if self.goal == "max" else 1
        return sorted(self.best, key=lambda pk: (sign * self.best[pk], pk))


@dataclass(frozen=True)
class Cell:
    value: float | None  # the mean over the runs there; None: none has a value yet
    count: int
    shade: int  # 1, the worst, to SHADES
    is_best: bool


@dataclass(frozen=True)
class Heat:
    """The best values over two keys: rows of cells."""

    down: str
    across: str
    heads: list[str]
    rows: list[tuple[str, list[Cell]]]


def scores_of(
    summaries: Mapping[int, Mapping[str, Any]],
    metric: str = "",
    goal: str = "",
    project: Project | None = None,
) -> Scores:
    """
    Args:
        summaries: `Job.summary` by the job's id.
        metric: the reader's choice; one that nobody has is as none.
        goal: "max" or "min"; else what the project or the metric's name says.
        project: whose main metric is shown where the reader chose none.
    """
    whole = {pk: summary.whole(dict(one)) for pk, one in summaries.items()}
    names = list(
        dict.fromkeys(
            name
            for one in whole.values()
            for name in one["columns"]
            if name in one["last"] and not axis_kind(name)
        )
    )
    main = project.main_metric if project else ""
    metric = next((name for name in (metric, main) if name in names), "") or telling(names)
    if goal not in ("max", "min"):
        goal = (project.better if project else better)(metric) or "max"
    return Scores(
        names,
        metric,
        goal,
        best={pk: one[goal][metric] for pk, one in whole.items() if metric in one[goal]},
        last={pk: one["last"][metric] for pk, one in whole.items() if metric in one["last"]},
    )


def telling(names: Sequence[str]) -> str:
    """The metric that one asks for first: a score or a loss of data that was not trained on."""

    def rank(name: str) -> tuple[bool, bool, bool]:
        is_score = bool(HIGHER.search(name))
        return not (is_score or LOWER.search(name)), not _is_unseen(name), not is_score

    return min(names, key=rank, default="")


def _is_unseen(name: str) -> bool:
    return any(word in name.lower() for word in ("val", "test", "eval"))


def heat_of(
    keys: Sequence[str], swept: Mapping[int, Mapping[str, Any]], scores: Scores
) -> Heat | None:
    """Where two keys were varied (a seed besides counts as repetition): a map of the best values.

    Args:
        swept: `Job.swept` by the job's id.
    """
    varied = [key for key in keys if key != SEED]
    if len(varied) != 2 or not scores.best:
        return None
    down, across = varied
    heads = _words(swept, across)
    sides = _words(swept, down)
    if not 1 < len(heads) <= MAX_SIDE or not 1 < len(sides) <= MAX_SIDE:
        return None
    values: dict[tuple[str, str], list[float]] = {}
    for pk, value in scores.best.items():
        values.setdefault((_word(swept[pk], down), _word(swept[pk], across)), []).append(value)
    means = {place: statistics.fmean(some) for place, some in values.items()}
    shade = _shading(list(means.values()), scores.goal)
    best = (max if scores.goal == "max" else min)(means.values())
    rows = []
    for side in sides:
        row = []
        for head in heads:
            mean = means.get((side, head))
            count = len(values.get((side, head), []))
            row.append(Cell(mean, count, shade(mean), mean is not None and mean == best))
        rows.append((side, row))
    return Heat(down, across, heads, rows)


def _shading(values: Sequence[float], goal: str):
    low, high = min(values), max(values)

    def shade(value: float | None) -> int:
        if value is None:
            return 0
        part = (value - low) / (high - low) if high > low else 1.0
        return 1 + round((part if goal == "max" else 1 - part) * (SHADES - 1))

    return shade


def _words(swept: Mapping[int, Mapping[str, Any]], key: str) -> list[str]:
    """The values of a key in the order in which they were written."""
    return list(dict.fromkeys(_word(swept[pk], key) for pk in sorted(swept)))


def _word(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
