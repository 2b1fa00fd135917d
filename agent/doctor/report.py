"""`lab-agent doctor`: what is wrong on this host or on the way to its server, a line each."""

import sys
from collections.abc import Iterator
from dataclasses import replace

from agent import presence, state
from agent.config import Config
from agent.doctor import hostchecks, serverchecks
from agent.doctor.finding import WRONG, Finding, doubtful, fine


def examine(chosen: Config) -> int:
    """Print what is found. Return 0 unless something is wrong."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no ✓
    is_wrong = False
    for finding in _findings(chosen):
        sys.stdout.write(f"{finding}\n")
        sys.stdout.flush()
        is_wrong = is_wrong or finding.mark == WRONG
    return 1 if is_wrong else 0


def _findings(chosen: Config) -> Iterator[Finding]:
    yield from hostchecks.all_of(chosen)
    known = [record for _, record in presence.records(state.base_folder(chosen.state_dir))]
    named = [record for record in known if chosen.server in ("", record.server)]
    for record in named:
        yield _agent(record)
    if chosen.server:
        yield from serverchecks.all_of(chosen)
        return
    for record in named:
        yield from serverchecks.all_of(
            replace(chosen, server=record.server, host_id=record.host_id)
        )
    if not named:
        yield doubtful(
            "server", "none is named and none known here", "lab-agent doctor --server URL"
        )


def _agent(record: presence.Record) -> Finding:
    name = f"{record.host_id} at {record.server}"
    if not record.alive:
        return doubtful("agent", f"{name} does not run", "lab-agent --server URL --daemon")
    if record.trouble:
        return doubtful("agent", f"{name} runs, process {record.pid}", record.trouble)
    return fine("agent", f"{name} runs, process {record.pid}")
