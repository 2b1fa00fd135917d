"""`lab submit --watch` of a sweep: how its runs stand, until all have ended."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from agent.cli.context import Lab
from agent.cli.errors import CliError, Exit

LOOK_SECONDS = 2.0
AWAY_SECONDS = 5.0
LIVE = ("queued", "assigned", "running")


def sweep(lab: Lab, made: dict[str, Any], sleep: Callable[[float], None] = time.sleep) -> int:
    """Say each change on standard error. 1: a run failed or was cancelled."""
    lab.out.note(f"{made['runs']} runs are queued: {lab.known.url}/sweeps/{made['id']}/")
    said, is_away = "", False
    while True:
        try:
            now = lab.api.get(f"/api/sweeps/{made['id']}/")
        except CliError as exc:
            if exc.exit_code != Exit.UNREACHABLE:
                raise
            if not is_away:
                lab.out.note(f"{exc}. Waiting for the server; the runs go on meanwhile.")
            is_away = True
            sleep(AWAY_SECONDS)
            continue
        is_away = False
        if (words := _words(now["states"])) != said:
            lab.out.note(words)
        said = words
        if not any(now["states"].get(state) for state in LIVE):
            break
        sleep(LOOK_SECONDS)
    lab.answer(now, lambda: None)
    return Exit.OK if set(_counted(now["states"])) <= {"succeeded"} else Exit.FAILED


def _counted(states: Mapping[str, int]) -> dict[str, int]:
    return {state: count for state, count in states.items() if count}


def _words(states: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in _counted(states).items())
