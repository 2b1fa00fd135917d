"""`lab`, `python -m agent.cli`: experiments from the command line (docs/lab.md)."""

import argparse
import io
import json
import os
import sys

from agent.cli import (
    acts,
    borrow,
    devices,
    follow,
    importing,
    listing,
    looking,
    pull,
    session,
    submit,
)
from agent.cli.context import Lab, Verb
from agent.cli.errors import CliError, Exit, ServerRefused
from agent.cli.show import clean

VERBS: list[Verb] = [
    *session.VERBS,
    *submit.VERBS,
    *listing.VERBS,
    *looking.VERBS,
    *follow.VERBS,
    *acts.VERBS,
    *pull.VERBS,
    *importing.VERBS,
    *devices.VERBS,
    *borrow.VERBS,
]
_EPILOG = """\
exit codes: 0 done, 1 a run failed, 2 wrong usage, 3 the server cannot be reached, 4 it refused,
5 there is no such thing, 130 interrupted
"""


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says. Return the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a Korean name where the locale is Latin-1
    given, command = _divided(given)
    options = _parser().parse_args(given)
    try:
        return int(options.act(Lab(options, command)))
    except CliError as exc:
        _say(exc, as_json=options.json)
        return int(exc.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return Exit.INTERRUPTED
    except BrokenPipeError:  # `lab ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK


def _divided(given: list[str]) -> tuple[list[str], list[str] | None]:
    """Of `lab submit … -- command`, what is ours and what is the command; None: there is none."""
    verb = next((word for word in given if word in {verb.name for verb in VERBS}), None)
    if verb != "submit" or "--" not in given:
        return given, None
    at = given.index("--")
    return given[:at], given[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab",
        description="Experiments on the lab's GPU servers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lab {_version()}")
    _common(parser, default=None)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for verb in VERBS:
        one = verbs.add_parser(
            verb.name,
            help=verb.help,
            description=verb.help[0].upper() + verb.help[1:] + ".",
            epilog=verb.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _common(one, default=argparse.SUPPRESS)  # before the verb and behind it
        verb.add_arguments(one)
        one.set_defaults(act=verb.act)
    return parser


def _common(parser: argparse.ArgumentParser, *, default: object) -> None:
    off = default if default is argparse.SUPPRESS else False
    parser.add_argument(
        "--server", metavar="URL", default=default, help="which server, if not the usual one"
    )
    parser.add_argument("--json", action="store_true", default=off, help="one JSON object")


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("labsite")
    except metadata.PackageNotFoundError:
        return "unreleased"


def _say(exc: CliError, *, as_json: bool) -> None:
    if not as_json:
        said = "\n".join(map(clean, str(exc).split("\n")))
        sys.stderr.write(f"lab: {said}\n")
        return
    code = exc.code if isinstance(exc, ServerRefused) else None
    body = {"error": str(exc), "code": code, "exit_code": int(exc.exit_code)}
    sys.stderr.write(json.dumps(body, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
