"""What the supervisor and its programs say: to the terminal, and into a log of bounded size."""

import json
import logging
import os
import sys
import time
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_BYTES = 10 * 1024**2
LOGS_KEPT = 5


class Journal:
    """One writer for all programs, so that turning the log over loses no line.

    `status()` keeps `<data>/run/status.json` for the pages and for `make demo`.
    """

    def __init__(self, data_dir: Path, url: str) -> None:
        (data_dir / "log").mkdir(mode=0o700, exist_ok=True)
        self._file = RotatingFileHandler(
            data_dir / "log" / "server.log", maxBytes=LOG_BYTES, backupCount=LOGS_KEPT
        )
        self._status = data_dir / "run" / "status.json"
        self._url = url
        self._started_at = time.time()

    def line(self, name: str, text: str) -> None:
        line = f"{name:<8} | {text}"
        with suppress(OSError):  # a terminal that is gone stops no server
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}"
        self._file.handle(logging.makeLogRecord({"msg": stamped}))

    def status(self, programs: dict[str, dict[str, object]]) -> None:
        """Replace the status file: a reader finds the old one or the new one. A disk that is full
        costs the news, and ends nothing that runs."""
        facts = {
            "url": self._url,
            "supervisor_pid": os.getpid(),
            "started_at": self._started_at,
            "programs": programs,
        }
        unfinished = self._status.with_suffix(".tmp")
        with suppress(OSError):
            unfinished.write_text(json.dumps(facts, indent=1))
            unfinished.replace(self._status)
