"""Reads the checkpoints of a folder, and tells which of Python's audit events that raised."""

import io
import resource
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from django.conf import settings

settings.configure(USE_I18N=False)

from sync.checkpoints.contents import read  # noqa: E402
from sync.checkpoints.errors import Unreadable  # noqa: E402

HARMLESS = {"builtins.id", "object.__getattr__", "sys._getframe"}


def main() -> None:
    with ExitStack() as stack:
        files = [
            (path.name, stack.enter_context(open(path, "rb")), path.stat().st_size)
            for path in sorted(Path(sys.argv[1]).iterdir())
        ]
        nothing = ("nothing.pt", io.BytesIO(), 0)
        _read([files[-1], nothing])  # whatever is imported on the way is by now
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        heard: set[str] = set()
        sys.addaudithook(lambda event, args: heard.add(event))
        _read(files)
        events = sorted(heard - HARMLESS)
    print(*events)
    print(*sorted({"pickle", "torch"} & sys.modules.keys()))
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)


def _read(files) -> None:
    for name, file, size in files:
        with suppress(Unreadable):
            read(name, file, size)


main()
