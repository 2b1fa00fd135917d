"""A cgroup for each job, where the machine has given the agent a part of the tree to itself.

That is a systemd unit with `Delegate=yes`, which ours are; they say so in a variable, since no
file does that every user may read. Elsewhere (tmux, cron, version 1) jobs have none, and the
supervisor's sweep alone ends what they leave behind.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from agent import kernel
from agent.service.unitfiles import DELEGATED


def of_attempt(attempt_id: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Where its cgroup is to be made; None: nowhere."""
    own = _own() if environ.get(DELEGATED) else None
    if own is None or not (os.access(own, os.W_OK) and os.access(own / "cgroup.procs", os.W_OK)):
        return None
    return str(own / f"job-{attempt_id}")


def _own() -> Path | None:
    """This process's, of version 2; None: it has none, or it is not within sight."""
    mounts = kernel.mounts("cgroup2")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    mine = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    return mounts[0] / mine[0] if mounts and mine else None
