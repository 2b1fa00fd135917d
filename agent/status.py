"""`lab-agent status`: the agents of this user on this host, how they fare, and what is behind."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from agent import host, presence, shim, state
from agent.config import Config
from agent.files import behind
from agent.files.behind import FileBehind, RunBehind, size_words
from agent.presence import Record
from agent.process import Supervision

RUNNING, NOT_RUNNING = 0, 3  # the exit status that the LSB wants of a status command
HELD_UP = 4
MOST_SHOWN = 10  # files of a run
_TOLD = (
    "server", "host_id", "pid", "started_at", "stopped_at", "answered_at", "trouble", "workdir",
    "workspace", "version",
)  # fmt: skip
UNTOLD = "it ended without a word: it was killed, or the machine was restarted"


def show(chosen: Config) -> int:
    """Show the agents of this user on this host. Return RUNNING if one runs; HELD_UP if, moreover,
    something keeps files from being sent; NOT_RUNNING if none does."""
    found = [(*agent, behind.runs_behind(*agent)) for agent in named(chosen)]
    if chosen.as_json:
        agents = [as_json(*one) for one in found]
        total = sum(agent["behind_bytes"] for agent in agents)
        _say(json.dumps({"agents": agents, "behind_bytes": total}, indent=1))
    else:
        _show(chosen, found)
    if not any(record.alive for _, record, _ in found):
        return NOT_RUNNING
    files = [file for _, _, runs in found for run in runs or [] for file in run.files]
    return HELD_UP if any(file.is_held_up for file in files) else RUNNING


def _show(chosen: Config, found: list[tuple[Path, Record, list[RunBehind] | None]]) -> None:
    for folder, record, runs in found:
        for line in [*describe(folder, record), *_what_is_behind(record, runs)]:
            _say(line)
    if not found:
        _say(f"No agent of {host.unix_user()} has run here{which(chosen)}.")


def _what_is_behind(record: Record, runs: list[RunBehind] | None) -> list[str]:
    if runs is None:
        return ["  behind     not known: its journals, or a run's folder, cannot be read"]
    if not runs:
        return ["  behind     nothing: all that was written here has arrived"] * record.alive
    total = size_words(sum(run.behind_bytes for run in runs))
    head = [f"  behind     {total}, of {len(runs)} {'run' if len(runs) == 1 else 'runs'}"]
    if not record.alive:
        head.append(
            f"             nobody sends it: lab-agent push --server {record.server}, or start the "
            f"agent: lab-agent --server {record.server} --daemon"
        )
    return [*head, *(f"    {line}" for line in lines_of(runs))]


def lines_of(runs: list[RunBehind]) -> Iterator[str]:
    """Of each run the files that are most behind: how much, since when, and why."""
    for run in runs:
        ended = "" if run.ended else ", still running"
        yield f"{run.name} ({run.experiment_uid}, try {run.attempt}{ended})"
        files = sorted(run.files, key=lambda file: -file.behind_bytes)
        for file in files[:MOST_SHOWN]:
            yield f"  {_line(file)}"
        if len(files) > MOST_SHOWN:
            rest = size_words(sum(file.behind_bytes for file in files[MOST_SHOWN:]))
            yield f"  {len(files) - MOST_SHOWN} more files: {rest}"


def _line(file: FileBehind) -> str:
    much = f"{size_words(file.behind_bytes)} of {size_words(file.size_bytes)}"
    if file.name.endswith("/"):
        return f"{file.name}: {file.why}"
    if not file.behind_bytes:
        much = "all is there, and not confirmed yet"
    since = f", since {_local(file.since)}" if file.since else ""
    return f"{file.name}: {much}{since}: {file.why}"


def as_json(folder: Path, record: Record, runs: list[RunBehind] | None) -> dict[str, Any]:
    """One agent, for programs. `runs` is null where its journals cannot be read."""
    return {
        **{name: getattr(record, name) for name in _TOLD},
        "running": record.alive,
        "jobs": jobs_of(folder),
        "behind_bytes": sum(run.behind_bytes for run in runs or []),
        "runs": runs and [{**asdict(run), "behind_bytes": run.behind_bytes} for run in runs],
    }


def describe(folder: Path, record: Record) -> list[str]:
    """Lines for a person."""
    name, jobs = f"{record.host_id} at {record.server}", ", ".join(jobs_of(folder))
    if not record.alive:
        ended = f"stopped at {_local(record.stopped_at)}" if record.stopped_at else UNTOLD
        running = [f"  jobs       {jobs}: they go on; the next start finds them"] if jobs else []
        return [f"{name}: not running ({ended})", *running]
    lines = {
        "server": record.trouble or _answered(record),
        "jobs": jobs or "none",
        "version": record.version or "not known",
        "workdir": record.workdir,
        "log": f"{record.log}, {record.err}" if record.log else _where(record),
        "kept by": record.unit or "nobody: lab-agent install-service makes it a service",
    }
    since = f"{name}: running, process {record.pid}, since {_local(record.started_at)}"
    return [since, *(f"  {what:<9}  {text}" for what, text in lines.items())]


def _answered(record: Record) -> str:
    if record.answered_seconds is None:
        return "has yet to answer"
    age = max(0.0, shim.now() - record.answered_seconds)
    return f"answered a heartbeat {age:.0f} s ago"


def _where(record: Record) -> str:
    if record.unit is None:
        return "the terminal where it was started"
    if not record.unit.endswith(".service"):
        return f"that of {record.unit}"
    return f"journalctl {'' if record.unit_of_system else '--user '}-u {record.unit}"


def jobs_of(folder: Path) -> list[str]:
    """The jobs whose command runs on this host, whether or not the agent does."""
    found = []
    for attempt in sorted((folder / "attempts").glob("*")):
        running = Supervision(attempt).running()
        if running is not None and running.process.alive:
            pid = running.process.pid
            found.append(f"{_name(pid) or attempt.name} (process {pid})")
    return found


def _name(pid: int) -> str | None:
    """project/run_001, as the process's own variables have it."""
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    variables = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    names = [variables.get("LAB_PROJECT", ""), variables.get("LAB_RUN_NAME", "")]
    return "/".join(names) if all(names) else None


def named(chosen: Config) -> list[tuple[Path, Record]]:
    """The states of the agents that the command line means: all, if it names none."""
    return [
        (folder, record)
        for folder, record in presence.records(state.base_folder(chosen.state_dir))
        if chosen.server in ("", record.server) and chosen.named_host_id in (None, record.host_id)
    ]


def which(chosen: Config) -> str:
    """The agents that were meant, to end a sentence with."""
    named = [chosen.server and f" for {chosen.server}", chosen.named_host_id or ""]
    return " as ".join(word for word in named if word)


def _local(text: str | None) -> str:
    """A time as this host's people have it."""
    if text is None:
        return "?"
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
