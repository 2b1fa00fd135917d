"""`lab show`, `why` and `open`: one run, looked at."""

import argparse
import os
import shlex
import sys
import webbrowser
from collections.abc import Sequence
from typing import Any

from agent.cli import words
from agent.cli.context import Lab, Verb
from agent.cli.listing import cell_of, state_of
from agent.cli.naming import find, find_whole, path_of, title
from agent.cli.show import Column

COMMIT_LETTERS = 12
#: Of what a run ran in, by the names of the API.
TOLD = [("Python", "python"), ("torch", "torch"), ("CUDA", "torch_cuda"), ("driver", "driver")]


def _one(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="uid, its beginning, or project/run_003")


def show(lab: Lab) -> int:
    run = find_whole(lab.api, lab.options.run)
    return lab.answer(run, lambda: _show_run(lab, run))


def _show_run(lab: Lab, run: dict[str, Any]) -> None:
    lab.out.fields(
        [
            ("Run", f"{title(run)} ({run['uid']})"),
            ("Name", run["name"]),
            ("State", state_of(run) + (" (kept queued)" if run["held"] else "")),
            ("Waits because", run["waiting_reason"]),
            ("Who", run["user"] or ""),
            *(_imported(run) if run.get("imported") else _asked(run)),
            ("Tags", ", ".join(run["tags"])),
            ("Took", words.took(run["started_at"], run["finished_at"])),
            ("Page", f"{lab.known.url}/runs/{run['uid']}/"),
            ("Once more", f"lab rerun {run['uid']}"),
        ]
    )
    if run["attempts"]:
        lab.out.line()
        lab.out.table(TRIES, [_try(one) for one in run["attempts"]])
    _show_metrics(lab, run)


def _asked(run: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Command", _shell(run["command"])),
        ("Code", _code(run)),
        ("Folder", run["working_directory"]),
        ("Python", run["python"]),
        ("Variables", _variables(run["environment"])),
        ("Data", _data(run)),
        ("Ran in", _ran_in(run)),
        ("Asks for", _wants(run)),
        ("Priority", run["priority"]),
        ("Queued", words.ago(run["submitted_at"])),
    ]


def _imported(run: dict[str, Any]) -> list[tuple[str, str]]:
    """Nothing of it ran here."""
    source = run["imported"]
    return [
        ("Imported", words.ago(run["imported_at"])),
        ("From", f"{source['host']}:{source['folder']}"),
        ("Ended", words.ago(run["finished_at"])),
    ]


def _code(run: dict[str, Any]) -> str:
    source, sent = run.get("source"), run.get("code")
    if source is None:
        return "what lies on the GPU server"
    if source["kind"] == "git":
        return f"commit {source['commit'][:COMMIT_LETTERS]} of {source['url']}"
    if sent is None:
        return "sent with the run, and not kept any more"
    words = f"snapshot {sent['sha256'][:COMMIT_LETTERS]}"
    if sent["commit"]:
        words += f" of {sent['commit'][:COMMIT_LETTERS]} on {sent['branch']}"
        words += ", with changes in no commit" if sent["dirty"] else ""
    return words


def _variables(given: dict[str, str]) -> str:
    return " ".join(f"{name}={shlex.quote(str(value))}" for name, value in given.items())


def _data(run: dict[str, Any]) -> str:
    """Paths that it needs wherever it runs, and the variables that its GPU server gave it."""
    links = [f"{path} -> {target}" for path, target in (run.get("links") or {}).items()]
    parts = [*links, *(run.get("requires") or {}).get("paths", [])]
    newest = run["attempts"][-1] if run["attempts"] else {}
    if given := newest.get("host_variables"):
        parts.append(f"{_variables(given)} (of {newest['device']})")
    return ", ".join(parts)


def _ran_in(run: dict[str, Any]) -> str:
    """Of its newest try, as far as its agent has told."""
    newest = run["attempts"][-1] if run["attempts"] else {}
    said = newest.get("environment") or {}
    parts = [f"{word} {said[name]}" for word, name in TOLD if said.get(name)]
    if count := len(newest.get("packages") or []):
        parts.append(f"{count} package" + ("" if count == 1 else "s"))
    return ", ".join(parts + ([f"in {said['prefix']}"] if said.get("prefix") else []))


TRIES = [
    Column("TRY", right=True),
    Column("WHERE"),
    Column("TOOK", right=True, spare=1),
    Column("OUTCOME", is_state=True),
    Column("WHY IT ENDED"),
]


def _try(one: dict[str, Any]) -> list[str]:
    outcome = one["outcome"] or ("running" if one["started_at"] else "assigned")
    why = one["ending"] or one["message"]
    if contact := one.get("contact"):
        why = contact["words"]
    took = words.took(one["started_at"], one["ended_at"])
    return [str(one["number"]), one["device"], took, outcome, why]


SIDES = ("last", "min", "max")
METRICS = [Column("METRIC"), *(Column(side.upper(), right=True) for side in SIDES)]


def _show_metrics(lab: Lab, run: dict[str, Any]) -> None:
    names = list((run["summary"] or {}).get("last") or {})
    if names:
        lab.out.line()
        rows = [[name, *(cell_of(run, f"{side}:{name}") for side in SIDES)] for name in names]
        lab.out.table(METRICS, rows)


def _wants(run: dict[str, Any]) -> str:
    parts = [f"{run['gpus'] or 'no'} GPU" + ("s" if run["gpus"] > 1 else "")]
    if run["gpu_type"]:
        parts.append(run["gpu_type"])
    if run["gpu_memory_bytes"]:
        parts.append(f"{words.size(run['gpu_memory_bytes'])} each")
    if run["time_limit_seconds"]:
        parts.append(f"at most {words.span(run['time_limit_seconds'])}")
    return ", ".join(parts)


def _shell(command: Sequence[str]) -> str:
    return shlex.join(command)


def why(lab: Lab) -> int:
    """Why it waits, runs no further or ended, in the server's own words."""
    run = find(lab.api, lab.options.run)
    answer = lab.api.get(path_of(run, "why"))
    return lab.answer(answer, lambda: _show_why(lab, answer))


PLACES = [Column("GPU SERVER"), Column("FITS", is_state=True), Column("BECAUSE")]


def _show_why(lab: Lab, answer: dict[str, Any]) -> None:
    for sentence in answer["sentences"]:
        lab.out.line(sentence)
    if answer["places"]:
        lab.out.line()
        rows = [[one["device"], one["when"], one["words"]] for one in answer["places"]]
        lab.out.table(PLACES, rows)


def open_page(lab: Lab) -> int:
    """Prints the address; opens it too, where there is a desktop."""
    run = find(lab.api, lab.options.run)
    url = f"{lab.known.url}/runs/{run['uid']}/"
    if not lab.out.as_json and sys.stdout.isatty() and _has_desktop():
        webbrowser.open(url)
    return lab.answer({"url": url}, lambda: lab.out.line(url))


def _has_desktop() -> bool:
    return sys.platform == "darwin" or any(
        name in os.environ for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )


VERBS = [
    Verb("show", "one run: what was asked for, its tries, its metrics", _one, show),
    Verb("why", "why a run waits, or how it ended", _one, why),
    Verb("open", "the address of a run's page", _one, open_page),
]
