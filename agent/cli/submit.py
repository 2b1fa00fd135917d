"""`lab submit CONFIG`, `lab submit -- python train.py --lr 0.1`: into the queue.

What would run is shown before anything is queued: the command, and on each GPU server that fits
the folder, the Python and the Unix user.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent import wire
from agent.cli import code, follow, queueing, sending, watching, words
from agent.cli.context import Lab, Verb
from agent.cli.errors import CliError, Exit, ServerRefused
from agent.cli.naming import title
from agent.cli.show import Column
from agent.cli.tree import LARGEST, Taken

ASK_ABOVE_RUNS = 20
MOST_SEEDS = 10_000
EPILOG = """\
examples:
  lab submit -- python train.py --lr 0.1
  lab submit config/resnet.yaml --gpus 2 --gpu-memory 24GiB --watch
  lab submit --sweep lr=0.1,0.01 --seeds 3 -- python train.py --epochs 20
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", nargs="?", metavar="CONFIG", help="a YAML; - from standard input")
    _what(parser)
    code.add_arguments(parser)
    parser.set_defaults(code=None)  # so that it is seen whether somebody said so
    _needs(parser)
    _several(parser)
    add("--watch", action="store_true", help="follow to the end; exit with 1 if a run failed")
    add("--dry-run", action="store_true", help="show what would run, and queue nothing")
    add("-y", "--yes", action="store_true", help=f"do not ask before more than {ASK_ABOVE_RUNS}")


def _what(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--project", metavar="P", help="else the config's, else this folder's name")
    add("--name", metavar="TEXT")
    add("--tag", action="append", metavar="TEXT", dest="tags", help="repeatable")
    add("--python", metavar="ENV", help="a venv's folder or a conda environment's name there")
    add("--directory", metavar="DIR", help="where in the code, or on the GPU server, it runs")
    add("--env", action="append", default=[], metavar="K=V", help="a variable; repeatable")
    add("--secret", action="append", metavar="NAME", dest="secrets",
        help="a secret that the server keeps, as a variable: HF_TOKEN; repeatable")  # fmt: skip


def _needs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--gpus", type=int, metavar="N", help="0: a run without a GPU")
    add("--gpu-memory", metavar="SIZE", help="at least, on each card: 24GiB")
    add("--gpu-type", metavar="TEXT", help="a part of the card's name: A100")
    add("--priority", choices=["urgent", "high", "normal", "low"])
    add("--time-limit", metavar="TIME", help="12h, 90m")


def _several(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--sweep", action="append", default=[], metavar="KEY=V,V",
        help="a run for each value; several make a grid; repeatable")  # fmt: skip
    add("--seeds", type=int, metavar="N", help="each point with seed 0 to N-1")
    add("--max-running", type=int, metavar="N", help="at most so many of a sweep at a time")


def submit(lab: Lab) -> int:
    wish = wish_of(lab)
    chosen = _chosen(lab, wish.get("config", ""))
    if chosen.source is not None:
        wish["source"] = chosen.source
    if lab.options.dry_run:
        return _dry(lab, wish, chosen.taken)
    if chosen.taken is not None:
        sending.send(chosen.taken, lab.api, lab.progress)
    foreseen = _foreseen(lab, wish)
    if not lab.out.as_json:
        _show(lab, foreseen)
    _ask(lab, foreseen)
    is_sweep = foreseen["sweep"] is not None
    made = queueing.queue(lab, "/api/sweeps/" if is_sweep else "/api/jobs/", wish)
    if lab.options.watch:
        return watching.sweep(lab, made) if is_sweep else follow.watch_submitted(lab, made)
    return lab.answer(made, lambda: lab.out.line(_made(lab, made, is_sweep=is_sweep)))


def _dry(lab: Lab, wish: dict[str, Any], taken: Taken | None) -> int:
    """Nothing is sent but the wish itself, and nothing is kept of that."""
    foreseen = _foreseen(lab, {**wish, "unsent": True} if taken else wish)
    if taken is not None:
        foreseen["snapshot"] = _held(taken)
    return lab.answer(foreseen, lambda: _show(lab, foreseen))


def _held(taken: Taken) -> dict[str, Any]:
    files = taken.held.files
    largest = sorted(files, key=lambda name: (-files[name].size, name))[:LARGEST]
    return {
        "files": len(files) + len(taken.held.links),
        "bytes": taken.held.size_bytes,
        "largest": [{"path": name, "bytes": files[name].size} for name in largest],
    }


def _made(lab: Lab, made: Mapping[str, Any], *, is_sweep: bool) -> str:
    if is_sweep:
        return f"{made['runs']} runs are queued: {lab.known.url}/sweeps/{made['id']}/"
    return f"{title(dict(made))} is queued ({made['uid']})"


# --- the wish -------------------------------------------------------------------------------


def wish_of(lab: Lab) -> dict[str, Any]:
    """The request's body, in the words of a config's `lab:` block.

    Raises:
        CliError: something cannot be meant.
    """
    options = lab.options
    if options.config is None and lab.command is None:
        raise CliError("What is to run? lab submit CONFIG, or lab submit -- python train.py")
    if lab.command == []:
        raise CliError("Nothing stands behind --: write the command there")
    said = {
        "config": _text(options.config) if options.config is not None else None,
        "command": lab.command,
        "project": options.project,
        "name": options.name,
        "tags": options.tags,
        "python": options.python,
        "working_directory": options.directory,
        "secrets": options.secrets,
        "environment": dict(words.assignment(text, "--env") for text in options.env) or None,
        "resources": _resources(options) or None,
        "priority": options.priority,
        "time_limit": options.time_limit,
        "sweep": _sweep(options, is_plain=options.config is None) or None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _text(path: str) -> str:
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).expanduser().read_bytes()
        text = data.decode()
    except OSError as exc:
        raise CliError(f"{path} cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise CliError(f"{path} is not UTF-8 text: is it a config?") from None
    if len(data) > wire.MAX_CONFIG_BYTES:
        raise CliError(f"{path} is larger than {wire.MAX_CONFIG_BYTES} bytes: no config is")
    return text


def _resources(options: argparse.Namespace) -> dict[str, Any]:
    names = ("gpus", "gpu_memory", "gpu_type")
    said = {name: getattr(options, name) for name in names}
    return {name: value for name, value in said.items() if value is not None}


def _sweep(options: argparse.Namespace, *, is_plain: bool) -> dict[str, Any]:
    """With a plain command each run's values become its arguments."""
    grid = {}
    for text in options.sweep:
        key, values = words.assignment(text, "--sweep")
        if key in grid:
            raise CliError(f"--sweep {key} stands there twice: write all its values into one")
        grid[key] = [words.value(one.strip()) for one in words.several(values)]
    made: dict[str, Any] = {"grid": grid} if grid else {}
    if options.seeds is not None:
        if not 1 <= options.seeds <= MOST_SEEDS:
            raise CliError("--seeds must be 1 or more: how many")
        made["seeds"] = list(range(options.seeds))
    if made and is_plain:
        made["arguments"] = True
    if options.max_running is not None:
        if not made:
            raise CliError("--max-running is for a sweep: say --sweep or --seeds as well")
        made["max_running"] = options.max_running
    return made


def _chosen(lab: Lab, config: str) -> code.Chosen:
    """The code that is sent, unless the config itself says which code it wants."""
    if lab.options.code is None and _names_code(config):
        return code.Chosen(None)
    lab.options.code = lab.options.code or "snapshot"
    return code.chosen(lab.options, Path.cwd())


def _names_code(config: str) -> bool:
    import yaml  # for this alone: what else is in a config, the server reads

    try:
        data = yaml.safe_load(config)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date of the 99th
        return False  # which the server says, with the place
    block = data.get("lab") if isinstance(data, dict) else None
    return isinstance(block, dict) and block.get("source") is not None


# --- before it is queued --------------------------------------------------------------------


def _foreseen(lab: Lab, wish: dict[str, Any]) -> dict[str, Any]:
    """What the server would make of it. Where no project is named, this folder's name is it."""
    try:
        return _preview(lab, wish)
    except ServerRefused as refused:
        if refused.facts.get("field") != "project" or "project" in wish:
            raise
        name = folder_name(Path.cwd())
        if name is None:
            raise
    wish["project"] = name
    return _preview(lab, wish)


def _preview(lab: Lab, wish: dict[str, Any]) -> dict[str, Any]:
    try:
        foreseen: dict[str, Any] = lab.api.json("POST", "/api/jobs/preview/", json=wish)
    except ServerRefused as refused:
        raise _with_places(refused) from None
    return foreseen


def _with_places(refused: ServerRefused) -> ServerRefused:
    """Every mistake of a config, each with its line."""
    errors = refused.facts.get("errors")
    if isinstance(errors, list) and len(errors) > 1:
        lines = [_mistake(one) for one in errors if isinstance(one, dict) and "message" in one]
        if lines:
            refused.args = ("\n  ".join(["The config cannot be queued:", *lines]),)
    return refused


def _mistake(one: Mapping[str, Any]) -> str:
    return f"line {one['line']}: {one['message']}" if one.get("line") else str(one["message"])


def folder_name(folder: Path) -> str | None:
    """The name of the git tree's folder, else of this one, as a project's; None: it is none."""
    tree = next((one for one in (folder, *folder.parents) if (one / ".git").exists()), folder)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", tree.name).strip("-._")
    return name if wire.is_name(name) else None


PLACES = [
    Column("GPU SERVER"),
    Column("FITS", is_state=True),
    Column("FOLDER", spare=1),
    Column("PYTHON", spare=2),
    Column("USER", spare=3),
    Column("", spare=4),
]


def _show(lab: Lab, foreseen: Mapping[str, Any]) -> None:
    out = lab.out
    runs = foreseen["runs"]
    names = foreseen["first_run"] + (f"–{foreseen['last_run']}" if runs > 1 else "")
    out.fields(
        [
            ("Runs", f"{foreseen['project']} / {names}" + (f" ({runs})" if runs > 1 else "")),
            ("Command", shlex.join(foreseen["command"])),
            ("Code", _code(foreseen["source"])),
            ("Holds", _contents(foreseen.get("snapshot"))),
            ("Varied", _varied(foreseen["sweep"])),
            ("Not in file", ", ".join((foreseen["sweep"] or {}).get("added_keys", []))),
            ("Asks for", foreseen["wants"]),
            ("Secrets", ", ".join(foreseen["secrets"])),
            ("Queue", f"{foreseen['turn']}. {foreseen['turn_more']}"),
        ]
    )
    rows = [
        [one["device"], one["when"], one["folder"], one["python"], one["user"], one["words"]]
        for one in foreseen["places"]
    ]
    if rows:
        out.line()
        out.table(PLACES, rows)
        out.line()


def _code(source: Mapping[str, str] | None) -> str:
    if source is None:
        return "what lies on the GPU server"
    which = f"commit {source['commit'][:12]}" if "commit" in source else source["sha256"][:12]
    where = f", in {source['folder']}/" if source.get("folder") else ""
    return f"{source['kind']} {which}{where}".replace("git commit", "commit")


def _contents(held: Mapping[str, Any] | None) -> str:
    """Of a snapshot that was not sent."""
    if held is None:
        return ""
    largest = ", ".join(f"{one['path']} {words.size(one['bytes'])}" for one in held["largest"][:3])
    files = f"{held['files']} file" + ("" if held["files"] == 1 else "s")
    return f"{files}, {words.size(held['bytes'])}" + (f" (largest: {largest})" if largest else "")


def _varied(sweep: Mapping[str, Any] | None) -> str:
    return "" if sweep is None else f"{', '.join(sweep['keys'])} {sweep['product']}".strip()


def _ask(lab: Lab, foreseen: Mapping[str, Any]) -> None:
    """On a terminal, before very many; a script has thought of it."""
    runs = foreseen["runs"]
    asks = sys.stdin.isatty() and lab.out.talks and not lab.out.as_json
    if runs <= ASK_ABOVE_RUNS or lab.options.yes or not asks:
        return
    sys.stderr.write(f"Queue {runs} runs? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CliError("Nothing was queued", Exit.USAGE)


VERBS = [Verb("submit", "queue a run, or a sweep of many", _arguments, submit, EPILOG)]
