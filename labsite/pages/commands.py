"""A command as one would type it."""

import re
import shlex
from collections.abc import Sequence

_FILLED_IN = re.compile(r"'(\{(?:config|run_dir|run_name)\})'")


def typed(command: Sequence[str]) -> str:
    """What the agent fills in stays readable."""
    return _FILLED_IN.sub(r"\1", shlex.join(command))
