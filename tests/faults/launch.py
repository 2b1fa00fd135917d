"""Starts one of the programs as it is, but with what a test may do to it (tests.faults.gates).

    python -m tests.faults.launch FOLDER runlab --port 8000 …
    python -m tests.faults.launch FOLDER agent --server …

`FOLDER/gates` holds the gates, `FOLDER/clock.PROGRAM` by how many seconds its clock is wrong.
`FOLDER/memory`, if it exists, says what memory simulated cards have in use, and
`FOLDER/limits.json` replaces limits of the wire, {"FENCE_SECONDS": 5}, to be quick.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from agent import wire
from tests.faults import gates, memory

_SHIM = (
    "import sys; sys.path[:0] = sys.argv[1:3]; import shim, gates; "
    "gates.install(sys.argv[3], 'shim'); sys.exit(shim.main())"
)


def main() -> None:
    folder, program, *arguments = sys.argv[1:]
    limits = Path(folder, "limits.json")
    if limits.exists():
        for name, seconds in json.loads(limits.read_text()).items():
            assert hasattr(wire, name)
            setattr(wire, name, seconds)
    right, told = time.time, Path(folder, f"clock.{program}")
    time.time = lambda: right() + wrong_by(told)
    PROGRAMS[program](Path(folder), arguments)


def wrong_by(told: Path) -> float:
    """Seconds."""
    with suppress(OSError, ValueError):
        return float(told.read_text())
    return 0.0


def _agent(folder: Path, arguments: list[str]) -> None:
    from agent import __main__, gpus, process, shim

    gates.install(str(folder / "gates"), "agent")
    beside = Path(gates.__file__).parent
    process._SHIM = (_SHIM, str(Path(shim.__file__).parent), str(beside), str(folder / "gates"))
    if (folder / "memory").exists():
        gpus.GPUWatch = _watching(gpus.GPUWatch, folder / "memory")
    sys.exit(__main__.main(arguments))


def _watching(base: type, folder: Path) -> type:
    class Watch(base):
        def __init__(self, read: Callable[[], list], interval_seconds: float) -> None:
            super().__init__(lambda: memory.readings(folder, read()), interval_seconds)

    return Watch


def _runlab(folder: Path, arguments: list[str]) -> None:
    from django.utils import timezone

    import manage
    from labsite.run import supervise

    now = timezone.now  # of which time.time knows nothing
    timezone.now = lambda: now() + timedelta(seconds=wrong_by(folder / "clock.runlab"))
    begin = supervise.Supervisor.run

    def run(self: supervise.Supervisor) -> None:
        gates.install(str(folder / "gates"), "runlab")  # all is imported now, and nothing forked
        begin(self)

    supervise.Supervisor.run = run
    sys.argv = ["manage.py", "runlab", *arguments]
    manage.main()


PROGRAMS = {"agent": _agent, "runlab": _runlab}

if __name__ == "__main__":
    main()
