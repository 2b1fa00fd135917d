"""Following a run: across tries, past a server that is away, and to its last byte."""

import argparse

import pytest

from agent.cli.api import Api
from agent.cli.context import Lab
from agent.cli.errors import CliError, Exit
from agent.cli.follow import LAST_BYTES_SECONDS, Following, Log
from tests.agent.cli.web import problem, reply, serving

UID = "20261130_1a2b"


class Run:
    """A run as the server has it; each look at it goes one step on."""

    def __init__(self, *steps) -> None:
        self.steps = list(steps)  # functions of self
        self.state, self.tries = "running", 1
        self.log, self.tag, self.complete = b"", '"1.1"', False
        self.away = 0

    def __call__(self, request):
        if self.away:
            self.away -= 1
            return problem(503, "busy", "The server is going down.")
        if request.path.startswith(f"/api/jobs/{UID}/"):
            if self.steps:
                self.steps.pop(0)(self)
            return reply(self.shown())
        if request.path.startswith("/api/sync/status/"):
            file = {"complete": self.complete}
            return reply({"data": {"sync_status": "syncing", "files": {"run_001.log": file}}})
        return self.range_of(request)

    def shown(self):
        tries = [{"device": f"gpu-{n}", "ending": "It ended."} for n in range(self.tries)]
        return {
            "uid": UID, "project": "p", "run_name": "run_001", "state": self.state,
            "attempts": tries, "waiting_reason": "",
        }  # fmt: skip

    def range_of(self, request):
        if not self.log:
            return problem(404, "not_found", "There is none.")
        start = int(request.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if request.headers.get("If-Range", self.tag) != self.tag:
            return 200, {"ETag": self.tag}, self.log
        if start >= len(self.log):
            return 416, {"ETag": self.tag}, b""
        return 206, {"ETag": self.tag}, self.log[start:]


def set_(**fields):
    return lambda run: vars(run).update(fields)


def followed(run: Run, capsys, clock=lambda: 0.0):
    printed: list[bytes] = []
    with serving(run) as (url, _seen), Api(url, "labp_0123456789") as api:
        lab = Lab(argparse.Namespace(json=False, server=None))
        lab.api = api
        log = Log(api, run.shown(), printed.append)
        ended = Following(lab, log, sleep=lambda seconds: None, clock=clock).to_the_end()
    return ended, b"".join(printed), capsys.readouterr().err


def test_what_is_printed_is_shown_once_and_to_the_last_byte(capsys):
    run = Run(
        set_(log=b"one\n"),
        set_(log=b"one\ntwo\n"),
        set_(state="succeeded"),
        set_(log=b"one\ntwo\nthree\n", complete=True),
    )

    ended, printed, _told = followed(run, capsys)

    assert (ended["state"], printed) == ("succeeded", b"one\ntwo\nthree\n")


def test_another_try_that_begins_anew_is_shown_from_its_beginning(capsys):
    run = Run(
        set_(log=b"first\n"),
        set_(state="queued", waiting_reason=""),
        set_(state="running", tries=2, log=b"x\n", tag='"2.2"'),
        set_(state="failed", complete=True),
    )

    ended, printed, told = followed(run, capsys)

    assert (ended["state"], printed) == ("failed", b"first\nx\n")
    assert "try 2 on gpu-1" in told


def test_a_server_that_is_away_is_waited_for_and_told_once(capsys):
    run = Run(
        set_(log=b"one\n", away=3), set_(log=b"one\ntwo\n", state="succeeded", complete=True)
    )

    _ended, printed, told = followed(run, capsys)

    assert printed == b"one\ntwo\n"
    assert told.count("Waiting for the server") == 1


def test_last_bytes_that_never_come_are_not_waited_for_without_end(capsys):
    times = iter(range(0, 10_000, int(LAST_BYTES_SECONDS / 2)))

    ended, _printed, _told = followed(Run(set_(state="cancelled")), capsys, lambda: next(times))

    assert ended["state"] == "cancelled"


def test_a_run_that_is_deleted_meanwhile_is_a_sentence(capsys):
    class Gone(Run):
        def __call__(self, request):
            return problem(410, "gone", "This run was deleted.")

    with pytest.raises(CliError, match="deleted") as caught:
        followed(Gone(), capsys)

    assert caught.value.exit_code == Exit.NOT_FOUND


def test_the_last_lines_are_a_beginning(capsys):
    run = Run()
    run.log = b"".join(b"line %d\n" % n for n in range(100))
    printed: list[bytes] = []

    def tail(request):
        headers = {"ETag": run.tag, "Content-Range": f"bytes 0-{len(run.log) - 1}/{len(run.log)}"}
        return 206, headers, run.log

    with serving(tail) as (url, seen), Api(url, "labp_0123456789") as api:
        log = Log(api, run.shown(), printed.append)
        log.skip_to_last(2)

    assert printed == [b"line 98\nline 99\n"]
    assert seen[0].headers["Range"].startswith("bytes=-")
