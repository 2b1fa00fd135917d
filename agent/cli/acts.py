"""`lab cancel`, `requeue` and `rerun`: wishes about runs that are there."""

import argparse
from typing import Any

from agent.cli import follow, queueing, words
from agent.cli.context import Lab, Verb
from agent.cli.errors import CliError, Exit
from agent.cli.naming import find, path_of, title


def _several(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="uid, its beginning, or p/run_003")


def cancel(lab: Lab) -> int:
    return _each(lab, "cancel")


def requeue(lab: Lab) -> int:
    return _each(lab, "requeue")


def _each(lab: Lab, verb: str) -> int:
    """All are found before the first is touched; of those that refuse, each says why."""
    named = [find(lab.api, ref) for ref in lab.options.runs]
    done, worst = [], int(Exit.OK)
    for run in named:
        try:
            done.append(lab.api.json("POST", path_of(run, verb)))
        except CliError as refused:
            lab.out.note(f"lab: {refused}")
            worst = max(worst, refused.exit_code)
    lab.answer({"runs": done}, lambda: lab.out.lines(map(_after, done)))
    return worst


def _after(run: dict[str, Any]) -> str:
    if run["cancel_requested_at"] and run["finished_at"] is None:
        return f"{title(run)} is being stopped"
    if run["requeue_requested_at"]:
        return f"{title(run)} is being stopped, and goes back into the queue"
    return f"{title(run)} is {run['state']}"


def _rerun_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="uid, its beginning, or project/run_003")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes",
        help="with another value of a config key or of an argument; repeatable")  # fmt: skip
    add("--resume", action="store_true", help="go on from its newest checkpoint")
    add("--watch", action="store_true", help="follow the new run to its end")


def rerun(lab: Lab) -> int:
    """The same once more, as a new run."""
    options = lab.options
    changes = dict(words.assignment(text, "--set") for text in options.changes)
    said = {"set": {key: words.value(text) for key, text in changes.items()}}
    run = find(lab.api, options.run)
    again = queueing.queue(lab, path_of(run, "resume" if options.resume else "rerun"), said)
    if options.watch:
        return follow.watch_submitted(lab, again)
    return lab.answer(again, lambda: lab.out.line(f"{title(again)} is queued ({again['uid']})"))


VERBS = [
    Verb("cancel", "end runs", _several, cancel),
    Verb("requeue", "stop what runs and put it back into the queue", _several, requeue),
    Verb("rerun", "the same run once more, perhaps with other values", _rerun_arguments, rerun),
]
