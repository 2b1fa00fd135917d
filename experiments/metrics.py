"""A run's metrics as its summary has them, and which way of one is better."""

import math
import re
from typing import Any

PARTS = ("last", "min", "max")
HIGHER = re.compile(r"(?i)acc|f1|auc|iou|map|precision|recall|score|psnr|ssim|dice|bleu|r2")
LOWER = re.compile(r"(?i)loss|err|mae|mse|perplexity|ppl|fid|wer|nll")


def better(name: str) -> str:
    """ "max" or "min", as far as the name says which way is better; empty: it does not."""
    return "max" if HIGHER.search(name) else "min" if LOWER.search(name) else ""


def whole(summary: dict[str, Any]) -> dict[str, Any]:
    """`columns`, `last`, `min` and `max` of all sources together."""
    others = summary.get("others", {})
    found = {part: {**others.get(part, {}), **summary.get(part, {})} for part in PARTS}
    return {"columns": [*summary.get("columns", []), *others.get("columns", [])], **found}


def values_of(summary: dict[str, Any]) -> dict[str, tuple[float | None, ...]]:
    """Of each metric that has a value: its last, lowest and highest one."""
    parts = whole(summary)
    found = {}
    for name in parts["columns"]:
        values = tuple(_number(parts[part].get(name)) for part in PARTS)
        if any(value is not None for value in values):
            found.setdefault(name, values)
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
