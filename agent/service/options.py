"""The options of what surrounds a running agent, and which of them are for one time only."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.service import managers

#: What a command line says for this one time: an agent that is started again need not hear it.
ONCE = ("--daemon", "--accept-new-server", "--write-netrc")
ONCE_WITH_VALUE = ("--enroll-code",)


def add_background(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    for option, words in (
        ("--daemon", "run in the background; return when the agent runs"),
        ("--status", "the same as the action status"),
        ("--stop", "stop them, or those named with --server and --host-id; jobs go on"),
    ):
        group.add_argument(
            option, dest="background", action="store_const", const=option[2:], help=words
        )
    parser.add_argument(
        "--log-files",
        action="store_true",
        help="write logs/agent.log and logs/agent.err beneath --workdir; --daemon does",
    )
    parser.add_argument("--json", action="store_true", help="with status: for programs")
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=_seconds,
        help="with push: wait no longer (exit status 1: not all has arrived)",
    )
    managers.add_options(parser)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise ValueError
    return seconds


def for_a_daemon(arguments: Sequence[str]) -> list[str]:
    """What to start the agent with, once it is enrolled."""
    return [*_without(arguments, ("--daemon", "--write-netrc"), ONCE_WITH_VALUE), "--log-files"]


def for_a_service(arguments: Sequence[str], host_id: str) -> list[str]:
    """What to start the agent with for good: its name too, whatever the host's name becomes."""
    alone, valued = managers.options()
    given = [argument for argument in arguments if argument != "install-service"]
    lasting = _without(given, ONCE + alone, ONCE_WITH_VALUE + valued)
    named = any(a.split("=")[0] in ("--host-id", "--client-host-id") for a in lasting)
    return lasting if named else [*lasting, "--host-id", host_id]


def to_start_again(arguments: Sequence[str], host_id: str) -> tuple[list[str], list[str]]:
    """The program of this process, and its arguments as `--daemon` takes them."""
    lasting = for_a_service(arguments, host_id)
    return program()[0], [one for one in lasting if one != "--log-files"]


def without_names(arguments: Sequence[str]) -> list[str]:
    """Without what only says which agent is meant."""
    named = ("--server", "--url", "--host-id", "--client-host-id", "--state-dir", "--ca-sha256")
    return _without(arguments, (), (*named, *ONCE_WITH_VALUE))


def _without(arguments: Sequence[str], alone: Sequence[str], valued: Sequence[str]) -> list[str]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in alone:
        parser.add_argument(option, action="store_true")
    for option in valued:
        parser.add_argument(option)
    return parser.parse_known_args(list(arguments))[1]


def program() -> tuple[list[str], dict[str, str]]:
    """The command of an agent like this one, and the variables that it needs."""
    script = Path(sys.argv[0])
    if script.name == "lab-agent" and script.exists():
        return [str(script.absolute())], {}
    if script.suffix == ".pyz" and script.exists():  # which may be a newer one by then
        return [sys.executable, str(script.absolute())], {}
    # From the source: the folder where it works may hold a package `agent` of its own.
    variables = {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONSAFEPATH": "1"}
    return [sys.executable, "-m", "agent"], variables
