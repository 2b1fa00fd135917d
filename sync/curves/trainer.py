"""Reader of trainer_state.json, as Hugging Face's Trainer writes it into each checkpoint."""

import json
from typing import Any

from django.utils.translation import gettext_lazy

from sync.curves.lines import add_rows, numbers
from sync.curves.table import Table

MAX_BYTES = 16 * 1024 * 1024
#: So many lists and objects in it, at most: a parsed file takes far more memory than its bytes.
MAX_NODES = 500_000
#: What stands in every entry, and is no metric.
AXES = ("step", "epoch")

TOO_LARGE = gettext_lazy("It is larger than a file of metrics.")
NOT_READABLE = gettext_lazy("It is not readable as what its name says.")


class TrainerState:
    """The `log_history`, under the names that the Trainer itself gives to TensorBoard."""

    BLOCK_BYTES = MAX_BYTES + 1

    def __init__(self, table: Table) -> None:
        self.table = table

    def take(self, data: bytes) -> int:
        """Read the whole file."""
        if len(data) > MAX_BYTES or data.count(b"[") + data.count(b"{") > MAX_NODES:
            self.table.refuse(TOO_LARGE)
            return len(data)
        try:
            history = json.loads(data)["log_history"]
            rows = [dict(numbers(renamed(entry))) for entry in history if isinstance(entry, dict)]
        except (ValueError, RecursionError, LookupError, TypeError):
            self.table.refuse(NOT_READABLE)
        else:
            add_rows(self.table, rows)
        return len(data)


def renamed(entry: dict[str, Any]) -> dict[str, Any]:
    """eval_loss is eval/loss and loss is train/loss, as `rewrite_logs` of transformers does."""
    return {name if name in AXES else _renamed(name): value for name, value in entry.items()}


def _renamed(name: str) -> str:
    for part in ("eval", "test"):
        if name.startswith(f"{part}_"):
            return f"{part}/{name[len(part) + 1 :]}"
    return f"train/{name}"
