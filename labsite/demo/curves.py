"""What the demo's runs measured, and what they printed."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from labsite.demo.plan import Run

RISING = ("accuracy", "mIoU", "mAP50", "mAP50-95", "precision", "recall", "f1", "reward/mean")


def ends_of(name: str, run: Run) -> tuple[float, float, float]:
    """Where a metric begins, where it ends, and how much it shakes."""
    q, last = run.quality, name.rpartition("/")[2]
    if name == "lr":
        lr = float(run.keys.get("lr", 0.001))
        return lr, lr * 1e-3, 0.0
    if last.endswith(RISING) or name in RISING:
        depth = 1.0
        if "layer_" in name:
            depth = 0.55 + 0.45 * math.sin(math.pi * (int(name[12:14]) + 4) / 36)
        return 0.1, (0.52 + 0.46 * q) * depth, 0.006
    if "perplexity" in name:
        return 900.0, 48.0 - 30 * q, 0.8
    if "per_second" in name:
        return 900 + 600 * q, 1000 + 600 * q, 25.0
    if last == "grad_norm":
        return 3.2, 0.7, 0.12
    return 2.3, 1.05 - 0.85 * q, 0.015  # a loss, and what looks like one


def table(run: Run, epochs: int, dice: np.random.Generator) -> dict[str, np.ndarray]:
    """Column name -> float64 of shape (epochs,): `epoch`, then each metric."""
    step = np.arange(epochs, dtype=float)
    found = {"epoch": step + 1}
    for name in run.work.metrics:
        begin, end, noise = ends_of(name, run)
        tau = run.epochs * (0.1 + 0.15 * (1 - run.quality))
        if name == "lr":
            values = end + (begin - end) * (1 + np.cos(math.pi * step / run.epochs)) / 2
        else:
            values = end + (begin - end) * np.exp(-step / tau) + dice.normal(0, noise, epochs)
        found[name] = values
    if run.failure == "traceback" and epochs > 3 and run.quality < 0.5:
        found[run.work.metrics[0]][-2:] = np.nan  # it diverged before it fell
    return found


def csv(columns: dict[str, np.ndarray]) -> bytes:
    rows = np.column_stack(list(columns.values()))
    lines = [",".join(columns)]
    lines += [",".join(_cell(value) for value in row) for row in rows.tolist()]
    return ("\n".join(lines) + "\n").encode()


def _cell(value: float) -> str:
    if math.isnan(value):
        return "nan"
    return str(int(value)) if value.is_integer() and value < 1e6 else f"{value:.6g}"


def summary(columns: dict[str, np.ndarray], size: int) -> dict[str, Any]:
    """As sync.summary has it of that very file."""
    last, low, high = {}, {}, {}
    for name, values in columns.items():
        finite = [float(_cell(value)) for value in values[np.isfinite(values)].tolist()]
        if finite:
            last[name], low[name], high[name] = finite[-1], min(finite), max(finite)
    rows = len(next(iter(columns.values())))
    return _summary(list(columns), rows, size, last, low, high)


def told(run: Run, dice: np.random.Generator) -> dict[str, Any]:
    """The same of a run whose file is not there (any more)."""
    epochs = max(1, round(run.epochs * run.progress))
    last, low, high = {"epoch": float(epochs)}, {"epoch": 1.0}, {"epoch": float(epochs)}
    shakes = dice.normal(0, 1, len(run.work.metrics))
    for name, shake in zip(run.work.metrics, shakes, strict=True):
        begin, end, noise = ends_of(name, run)
        value = float(f"{end + noise * shake:.6g}")
        last[name] = value
        low[name], high[name] = min(begin, value), max(begin, value)
    return _summary(["epoch", *run.work.metrics], epochs, 0, last, low, high)


def _summary(
    columns: list[str], rows: int, size: int, last: Any, low: Any, high: Any
) -> dict[str, Any]:
    return {
        "generation": 1, "upto_bytes": size, "rows": rows, "width": len(columns),
        "columns": columns, "last": last, "min": low, "max": high,
    }  # fmt: skip


def log(run: Run, columns: dict[str, np.ndarray]) -> bytes:
    return ("\n".join(_lines(run, columns)) + "\n").encode()


def _lines(run: Run, columns: dict[str, np.ndarray]) -> Iterator[str]:
    yield f"\x1b[1m{run.work.name}\x1b[0m  {run.keys['model']}  seed {run.keys['seed']}"
    for name, value in run.keys.items():
        yield f"  {name:<14} {value}"
    epochs = len(columns["epoch"])
    shown = [name for name in run.work.metrics if name != "lr"][:3]
    for epoch in range(epochs):
        bar = (f"epoch {epoch + 1:3d} {n:3d}%|{'█' * (n // 10):10}|" for n in range(0, 101, 20))
        yield "\r".join(bar)
        told = "  ".join(f"{name} \x1b[1m{columns[name][epoch]:.4f}\x1b[0m" for name in shown)
        yield f"\x1b[32mepoch {epoch + 1}\x1b[0m  {told}"
        if (epoch + 1) % 10 == 0:
            yield f"\x1b[34mcheckpoint\x1b[0m epoch_{epoch + 1:03d}.pt  saved in 0.7 s"
    yield from _LAST_WORDS.get(run.failure, lambda run: [])(run)


def _oom(run: Run) -> list[str]:
    return [
        "Traceback (most recent call last):",
        '  File "/home/lab/experiments/main.py", line 212, in <module>',
        "    trainer.fit(model, loader)",
        '  File "/home/lab/experiments/trainer.py", line 88, in fit',
        "    loss.backward()",
        "\x1b[31mtorch.OutOfMemoryError\x1b[0m: CUDA out of memory. Tried to allocate 2.50 GiB. "
        "GPU 0 has a total capacity of 23.69 GiB of which 1.21 GiB is free.",
    ]


_ERRORS = [
    "ValueError: Expected more than 1 value per channel when training, got input size [1, 512]",
    "FileNotFoundError: [Errno 2] No such file or directory: 'data/train/labels.csv'",
    "RuntimeError: mat1 and mat2 shapes cannot be multiplied (64x2048 and 512x10)",
    "KeyError: 'state_dict'",
    "FloatingPointError: loss is nan",
]


def _traceback(run: Run) -> list[str]:
    error = _ERRORS[int(run.quality * 1000) % len(_ERRORS)]
    return [
        "Traceback (most recent call last):",
        '  File "/home/lab/experiments/main.py", line 212, in <module>',
        "    trainer.fit(model, loader)",
        '  File "/home/lab/experiments/trainer.py", line 61, in fit',
        "    for batch in self.loader:",
        f"\x1b[31m{error.partition(':')[0]}\x1b[0m:{error.partition(':')[2]}",
    ]


_LAST_WORDS = {
    "oom": _oom,
    "traceback": _traceback,
    "killed": lambda run: ["Killed"],
    "limit": lambda run: ["Terminated: time limit reached"],
}
