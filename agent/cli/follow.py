"""`lab logs`: what a run prints, and with -f what it prints until its end.

Bytes are asked for by Range from where one has come to, under If-Range with the file's ETag: a
new try that begins another file is told from one that goes on. A server that is away is waited
for; nothing is printed twice.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from agent.cli.api import Api
from agent.cli.context import Lab, Verb
from agent.cli.errors import CliError, Exit, ServerRefused
from agent.cli.naming import find, path_of, title
from agent.cli.screen import Screen

LOOK_SECONDS = 1.0
AWAY_SECONDS = 5.0
#: After the end, for the last bytes; a GPU server that is cut off sends them whenever it is back.
LAST_BYTES_SECONDS = 30.0
TAIL_BYTES = 1024 * 1024  # at least so much is looked through for the last lines
ENDED = ("succeeded", "failed", "cancelled")

Write = Callable[[bytes], None]


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="uid, its beginning, or project/run_003")
    add("-f", "--follow", action="store_true", help="go on until the run has ended")
    add("-n", "--lines", type=int, metavar="N", help="begin with the last N lines")
    add("--watch", action="store_true", help="as -f, and exit with 1 if the run did not succeed")


def logs(lab: Lab) -> int:
    run = find(lab.api, lab.options.run)
    log = Log(lab.api, run, _writer(lab))
    if lab.options.lines is not None:
        log.skip_to_last(max(0, lab.options.lines))
    if lab.options.follow or lab.options.watch:
        ended = Following(lab, log).to_the_end()
        return _ending(lab, ended) if lab.options.watch else Exit.OK
    log.more()
    if log.is_empty:
        lab.out.note(f"{title(run)} has printed nothing yet ({run['state']}).")
    return Exit.OK


def watch_submitted(lab: Lab, run: dict[str, Any]) -> int:
    """Follow a run that was just queued. Its end is the command's."""
    lab.out.note(f"{title(run)} is queued ({run['uid']}). Ctrl-C stops watching, not the run.")
    writer = (lambda data: None) if lab.out.as_json else _writer(lab)
    ended = Following(lab, Log(lab.api, run, writer)).to_the_end()
    if lab.out.as_json:
        lab.out.json(ended)
    return _ending(lab, ended)


def _ending(lab: Lab, run: dict[str, Any]) -> int:
    last = run["attempts"][-1]["ending"] if run["attempts"] else ""
    lab.out.note(f"{title(run)} {run['state']}. {last}".rstrip())
    return Exit.OK if run["state"] == "succeeded" else Exit.FAILED


def _writer(lab: Lab) -> Write:
    """To a terminal only what it may be told; elsewhere the bytes as they are."""
    screen = Screen() if lab.out.is_terminal else None
    sys.stdout.flush()  # what was said before, as text

    def write(data: bytes) -> None:
        sys.stdout.buffer.write(screen.shown(data) if screen else data)
        sys.stdout.buffer.flush()

    return write


class Log:
    """The log of one run, read on from where one has come to."""

    def __init__(self, api: Api, run: dict[str, Any], write: Write) -> None:
        self._api = api
        self.run = run
        self._write = write
        self.name = f"{run['run_name']}.log"
        self._path = f"/api/sync/file/{quote(run['uid'])}/{quote(self.name)}"
        self._offset = 0
        self._tag = ""

    @property
    def is_empty(self) -> bool:
        return not self._offset

    def more(self) -> bool:
        """Write what is new. Whether there was anything."""
        headers = {"Range": f"bytes={self._offset}-"}
        if self._tag:
            headers["If-Range"] = self._tag
        try:
            answer = self._api.request(
                "GET", self._path, headers=headers, stream=True, also=(416,)
            )
        except ServerRefused as refused:
            if refused.status == 404:  # nothing was printed yet
                return False
            raise
        tag = answer.headers.get("ETag", "")
        if answer.status_code == 416:
            answer.close()
            return False
        if answer.status_code == 200:
            self._offset = 0  # the whole of it: the first time, or another file by now
        self._tag = tag
        before = self._offset
        for block in self._api.blocks(answer):
            self._write(block)
            self._offset += len(block)
        return self._offset > before

    def skip_to_last(self, lines: int) -> None:
        """Begin with the last lines: those within the last TAIL_BYTES, for very long ones."""
        headers = {"Range": f"bytes=-{TAIL_BYTES}"}
        try:
            answer = self._api.request(
                "GET", self._path, headers=headers, stream=True, also=(416,)
            )
        except ServerRefused as refused:
            if refused.status == 404:
                return
            raise
        if answer.status_code == 416:
            answer.close()
            return
        self._tag = answer.headers.get("ETag", "")
        data = b"".join(self._api.blocks(answer))
        self._offset = _start_of(answer.headers.get("Content-Range", "")) + len(data)
        self._write(_last_lines(data, lines))


def _start_of(content_range: str) -> int:
    start = content_range.removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdigit() else 0


def _last_lines(data: bytes, lines: int) -> bytes:
    ends = data.splitlines(keepends=True)
    return b"".join(ends[len(ends) - lines :]) if lines < len(ends) else data


class Following:
    """Reads on until the run has ended and its last bytes have come."""

    def __init__(
        self,
        lab: Lab,
        log: Log,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lab = lab
        self._log = log
        self._sleep = sleep
        self._clock = clock
        self._state = ""
        self._tries = 0
        self._is_away = False
        self._ended_at: float | None = None

    def to_the_end(self) -> dict[str, Any]:
        """The run as it has ended."""
        while True:
            try:
                run = self._look()
            except CliError as exc:
                if exc.exit_code != Exit.UNREACHABLE:
                    raise
                self._wait_for_server(exc)
                continue
            if run is not None:
                return run
            self._sleep(LOOK_SECONDS)

    def _look(self) -> dict[str, Any] | None:
        """One look; the run, if there is nothing more to come."""
        run: dict[str, Any] = self._lab.api.get(path_of(self._log.run))
        self._is_away = False
        self._tell(run)
        is_more = self._log.more()
        if run["state"] not in ENDED:
            self._ended_at = None
            return None
        now = self._clock()
        if self._ended_at is None or is_more:
            self._ended_at = now
        if self._is_whole() or now - self._ended_at > LAST_BYTES_SECONDS:
            return run
        return None

    def _is_whole(self) -> bool:
        status = self._lab.api.get(f"/api/sync/status/{quote(self._log.run['uid'])}")["data"]
        file = status["files"].get(self._log.name)
        if file is None:
            return status["sync_status"] in (None, "synced")
        return bool(file["complete"])

    def _tell(self, run: dict[str, Any]) -> None:
        """What becomes of it, on standard error."""
        tries = len(run["attempts"])
        if tries > self._tries and tries > 1 and self._state:
            self._lab.out.note(f"— try {tries} on {run['attempts'][-1]['device']} —")
        waits = run["waiting_reason"] if run["state"] == "queued" else ""
        said = f"{run['state']} {waits}"
        if waits and said != self._state:
            self._lab.out.note(waits)
        self._state, self._tries = said, tries

    def _wait_for_server(self, exc: CliError) -> None:
        if not self._is_away:
            self._lab.out.note(f"{exc}. Waiting for the server; the run goes on meanwhile.")
        self._is_away = True
        self._sleep(AWAY_SECONDS)


VERBS = [Verb("logs", "what a run has printed; -f follows it", _arguments, logs)]
