"""`manage.py runlab install-service`: the server, kept running by the machine.

Nothing here needs Django, its settings or the data folder: who installs is as a rule root, and who
runs the server is not.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.errors import ConfigError
from agent.service import managers
from agent.service.managers import Choice
from agent.service.unitfiles import FOR_JOBS, Service
from labsite.run import options

WORD = "install-service"
MANAGE = Path(__file__).parents[2] / "manage.py"
_STOP = "TimeoutStopSec=20\n"
_SEALED = "PrivateTmp=true\nNoNewPrivileges=true\n"


def main(arguments: Sequence[str]) -> int:
    """`arguments`: all that stands behind `runlab`. Return the exit status."""
    try:
        return _install([argument for argument in arguments if argument != WORD])
    except ConfigError as exc:
        sys.stderr.write(f"runlab: {exc}\n")
        return 2


def _install(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"manage.py runlab {WORD}",
        description="Have the machine keep the server running, with the options of runlab.",
        allow_abbrev=False,
    )
    managers.add_options(parser)
    given, rest = parser.parse_known_args(arguments)
    served = argparse.ArgumentParser(prog="manage.py runlab", allow_abbrev=False)
    options.add_options(served)
    served.parse_args(rest)  # refuses what the server would refuse
    choice = managers.choice(given, "lab-server")
    service = describe(rest, choice)
    if choice.remove:
        managers.remove(service, choice, _say)
        return 0
    managers.install(service, choice, _say)
    _say_what_is_not_in_it()
    return 0


def describe(arguments: Sequence[str], choice: Choice) -> Service:
    """The service that runs `runlab` with these options, its data folder named for good."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--data-dir", default=os.environ.get("LAB_DATA_DIR"))
    given, others = parser.parse_known_args(list(arguments))
    place = Path(given.data_dir or "data").expanduser().absolute()
    any_will_do = choice.remove and not given.data_dir
    variables = {}
    if not choice.of_system and "PATH" in os.environ:
        variables["PATH"] = os.environ["PATH"]
    return Service(
        name=choice.name,
        description="Lab server",
        command=(sys.executable, str(MANAGE), "runlab", "--data-dir", str(place), *others),
        directory=Path.cwd(),
        marks=() if any_will_do else (str(place),),
        variables=variables,
        user=choice.user if choice.of_system else None,
        lines=_lines("--agent" in others, choice.of_system),
        launchd={
            "StandardOutPath": str(place / "log" / "launchd.log"),
            "StandardErrorPath": str(place / "log" / "launchd.log"),
        },
    )


def _lines(with_agent: bool, of_system: bool) -> str:
    """A server is sealed off; with an agent it is not, for jobs need the whole machine."""
    if with_agent:
        return _STOP + FOR_JOBS
    return _STOP + _SEALED if of_system else _STOP


def _say_what_is_not_in_it() -> None:
    """Secrets have no place in a file that all may read, so none of these is written there."""
    mine = sorted(
        name for name in os.environ if name.startswith("LAB_") and name != "LAB_DATA_DIR"
    )
    if mine:
        _say(f"! Set here, and not in the service: {', '.join(mine)} (systemctl edit adds them)")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
