"""A request that queues something: sent until it was heard, and done once.

Of a line that was cut nobody knows whether the server heard. So the request bears a key, and is
sent again under the same one: the server then answers with what it has queued (docs/adr/0039). One
that is older knows no keys; there it is for the person to look.
"""

import secrets
import time
from typing import Any

from agent.cli.api import Api
from agent.cli.context import Lab
from agent.cli.errors import CliError, Exit, ServerRefused

#: Before each further try: a server that restarts is back within half a minute.
WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)


def queue(lab: Lab, path: str, wish: dict[str, Any]) -> dict[str, Any]:
    """What the server has queued.

    Raises:
        CliError: it refuses, or cannot be asked; the sentence says what may have come of it.
    """
    headers = {"Idempotency-Key": secrets.token_hex(16)}
    failed: CliError | None = None
    for wait_seconds in (0.0, *WAITS_SECONDS):
        time.sleep(wait_seconds)
        try:
            if failed is not None and not _knows_keys(lab.api):
                break
            made: dict[str, Any] = lab.api.json("POST", path, json=wish, headers=headers)
        except CliError as exc:
            if not _may_pass(exc):
                raise
            if failed is None:
                lab.out.note(f"lab: {exc}. Asking again")
            failed = exc
        else:
            return made
    assert failed is not None
    words = f"{failed}. It may have been queued all the same: look with lab ls"
    raise CliError(words, failed.exit_code)


def _may_pass(exc: CliError) -> bool:
    if isinstance(exc, ServerRefused):
        return exc.status == 503
    return exc.exit_code == Exit.UNREACHABLE


def _knows_keys(api: Api) -> bool:
    """Raises: CliError: it is still away."""
    return bool(api.get("/api/me/").get("submits_once"))
