"""Memory of cards that do not exist, held as a driver holds it: beyond the process's death.

A job notes on which cards it lives, by `take`. `readings` is what NVML would say of them: their
memory is used by that process, and for a while longer by nobody, until the driver has cleaned up.
"""

import json
import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from agent import shim
from agent.wire import GPUProcess, GPUReading

USED_BYTES = 8 * 1024**3
LAG_SECONDS = 0.7  # from the first look at which its process was dead


def take(folder: Path, uuids: list[str]) -> list[str]:
    """The calling process uses these cards from now on. Return those that were not free."""
    not_free = [uuid for uuid in uuids if (folder / uuid).exists()]
    for uuid in uuids:
        unfinished = folder / f"{uuid}.{os.getpid()}"
        unfinished.write_text(json.dumps([os.getpid(), shim.stat(os.getpid())[2]]))
        unfinished.rename(folder / uuid)
    return not_free


def readings(folder: Path, cards: list[GPUReading]) -> list[GPUReading]:
    return [_reading(folder, card) for card in cards]


def _reading(folder: Path, card: GPUReading) -> GPUReading:
    path, freed = folder / card.uuid, folder / f"{card.uuid}.dead"
    try:
        pid, ticks = json.loads(path.read_text())
    except FileNotFoundError:
        return card
    process = shim.stat(pid)
    used = replace(card, memory_used_bytes=USED_BYTES)
    if process is not None and process[0] and process[2] == ticks:
        freed.unlink(missing_ok=True)
        return replace(used, processes=[GPUProcess(pid, "lab", USED_BYTES, _attempt(pid))])
    if not freed.exists():
        freed.touch()
    if time.time() - freed.stat().st_mtime < LAG_SECONDS:
        return used
    path.unlink()
    freed.unlink()
    return card


def _attempt(pid: int) -> str | None:
    with suppress(OSError):
        for item in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if item.startswith(b"LAB_ATTEMPT_ID="):
                return item.partition(b"=")[2].decode()
    return None
