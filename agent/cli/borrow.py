"""`lab borrow` and `lab return`: GPUs for work by hand, without a run."""

import argparse
import shlex
from collections.abc import Sequence
from typing import Any

from agent.cli import words
from agent.cli.context import Lab, Verb
from agent.cli.errors import CliError, Exit
from agent.cli.session import who

EPILOG = """\
examples:
  lab borrow --for 2h
  lab borrow --gpus 2 --for 90m --device gpu-03
  eval "$(lab borrow --for 1h --device "$(hostname -s)")"    on the GPU server itself
"""


def _borrow_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--gpus", type=int, default=1, metavar="N", help="how many (default: 1)")
    add("--for", required=True, metavar="TIME", dest="time", help="2h, 30m; then they go back")
    add("--device", metavar="HOST", help="on that GPU server")


def borrow(lab: Lab) -> int:
    """The line for the shell goes to standard output, and what a person reads beside it."""
    options = lab.options
    said = {"gpus": options.gpus, "time": options.time}
    if options.device:
        said["device"] = options.device
    made = lab.api.json("POST", "/api/borrows/", json=said)
    left = words.took(made["made_at"], made["until"])
    if not lab.out.as_json:
        lab.out.note(f"Yours for {left} on {made['device']}; lab return gives it back before.")
    return lab.answer(made, lambda: lab.out.line(_export(made["gpu_uuids"])))


def _export(uuids: Sequence[str]) -> str:
    return f"export CUDA_VISIBLE_DEVICES={shlex.quote(','.join(uuids))}"  # it is evaluated


def _return_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", nargs="?", metavar="HOST", help="only those of that GPU server")


def give_back(lab: Lab) -> int:
    me = who(lab.api)["username"]
    held = lab.api.get("/api/borrows/", page_size=500)["results"]
    mine = [one for one in held if one["user"] == me and _is_meant(one, lab.options.device)]
    if not mine:
        raise CliError("You have borrowed no GPU there", Exit.NOT_FOUND)
    ended = [lab.api.json("POST", f"/api/borrows/{one['id']}/end/") for one in mine]
    count = sum(len(one["gpu_uuids"]) for one in ended)
    words_ = f"{count} GPU{'s' if count != 1 else ''} returned"
    return lab.answer({"borrows": ended}, lambda: lab.out.line(words_))


def _is_meant(one: dict[str, Any], device: str | None) -> bool:
    return device is None or one["device"] == device


VERBS = [
    Verb("borrow", "have GPUs for a while, for work by hand", _borrow_arguments, borrow, EPILOG),
    Verb("return", "give borrowed GPUs back before their time", _return_arguments, give_back),
]
