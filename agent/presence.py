"""`agent.json` in the state folder: which process is this agent, and how does it fare?

For people who look (`lab-agent --status`), and for `--stop`. Nothing of the agent depends on it:
that there is one agent a state is the lock's business (agent.state).
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agent import shim
from agent.process import Identity
from agent.service.unitfiles import LABELS

FILE = "agent.json"
KEEPER = "LAB_KEPT_BY"  # the variable by which a program that keeps agents running names itself
#: The variable by which an agent that is kept with others (agent.several) knows the service that
#: keeps them: "user:lab-agent.service", or "system:".
SERVICE = "LAB_AGENT_SERVICE"
AGAIN_SECONDS = 5.0  # between two notes without news: a small write, no fsync


@dataclass(frozen=True)
class Record:
    """What `agent.json` says. Times are ISO 8601; `answered_seconds` is of CLOCK_BOOTTIME."""

    pid: int
    start_ticks: int
    boot_id: str
    started_at: str
    server: str
    host_id: str
    workdir: str
    log: str | None = None  # the files that it writes to, None: a terminal or the journal
    err: str | None = None
    unit: str | None = None  # the service that starts it again when it ends
    unit_of_system: bool = True  # or of the user's own manager
    answered_at: str | None = None
    answered_seconds: float | None = None
    trouble: str | None = None  # why the server did not answer the last heartbeat
    stopped_at: str | None = None  # it ended in order
    workspace: str | None = None  # beneath workdir: where the runs of this server are
    version: str | None = None
    program: list[str] | None = None  # what starts it again, for `lab-agent restart`: this,
    arguments: list[str] | None = None  # with these (no code among them),
    directory: str | None = None  # there
    service: str | None = None  # that keeps it together with agents of other servers
    service_of_system: bool = True

    @property
    def process(self) -> Identity:
        return Identity(self.pid, self.start_ticks, self.boot_id)

    @property
    def alive(self) -> bool:
        """Whether this very process runs; another one with its pid does not count."""
        return self.process.alive


class Presence:
    """Keeps `agent.json` true while the agent runs. A disk that is full costs the note only."""

    def __init__(self, folder: Path, record: Record) -> None:
        self._path = folder / FILE
        self._record = record
        self._written_seconds = 0.0

    def works_in(self, workspace: Path) -> None:
        """To be called before begin()."""
        self._record = replace(self._record, workspace=str(workspace))

    def begin(self) -> None:
        self._write(self._record)

    def turned(self, trouble: str | None) -> None:
        """The heartbeat's loop went round; `trouble`: why the server did not answer."""
        was, now = self._record, shim.now()
        new = replace(was, trouble=trouble)
        if trouble is None:
            new = replace(new, answered_at=shim.wall_clock(), answered_seconds=now)
        self._record = new
        is_news = trouble != was.trouble or (trouble is None and was.answered_at is None)
        if is_news or now - self._written_seconds >= AGAIN_SECONDS:
            self._write(new)

    def end(self) -> None:
        self._write(replace(self._record, stopped_at=shim.wall_clock()))

    def _write(self, record: Record) -> None:
        part = self._path.with_name(f".{self._path.name}.part")
        with suppress(OSError):
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(asdict(record), file)
            part.rename(self._path)
            self._written_seconds = shim.now()


def of_this_process(
    server: str, host_id: str, workdir: Path, log: str | None = None, err: str | None = None
) -> Record:
    """`log` and `err`: the files that it writes to, if it has no terminal."""
    found = shim.stat(os.getpid())
    assert found is not None
    manager, _colon, service = os.environ.get(SERVICE, "").partition(":")
    return Record(
        os.getpid(),
        found[2],
        shim.boot_id(),
        shim.wall_clock(),
        server,
        host_id,
        str(workdir),
        log,
        err,
        *unit_of_this_process(),
        service=service or None,
        service_of_system=manager != "user",
    )


def started_by(record: Record, version: str, program: list[str], arguments: list[str]) -> Record:
    """The same, with what starts it again where this process was started."""
    return replace(
        record, version=version, program=program, arguments=arguments, directory=os.getcwd()
    )


def unit_of_this_process(
    environ: Mapping[str, str] = os.environ, cgroup: Path = Path("/proc/self/cgroup")
) -> tuple[str | None, bool]:
    """The service, or whoever else, that would start this process again, None: nobody would;
    and whether a service is the system's."""
    if keeper := environ.get(KEEPER):
        return keeper, True
    if (label := environ.get("XPC_SERVICE_NAME", "")).startswith(LABELS):  # launchd's
        return label, os.getuid() == 0
    by_systemd = environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())
    if by_systemd or "/systemd/" in environ.get("NOTIFY_SOCKET", ""):  # before systemd 248
        with suppress(OSError):
            for line in cgroup.read_text().splitlines():
                if line.endswith(".service"):
                    return line.rsplit("/", 1)[-1], "/user@" not in line
    return None, True


def read(folder: Path) -> Record | None:
    """None: no agent ever ran on this state, or its note is damaged."""
    try:
        content: dict[str, Any] = json.loads((folder / FILE).read_bytes())
        known = {name: content[name] for name in Record.__dataclass_fields__ if name in content}
        return Record(**known)
    except (OSError, ValueError, TypeError):
        return None


def records(base: Path) -> Iterator[tuple[Path, Record]]:
    """All agents that ran with this folder of states: the state of each, and its note."""
    seen = set()
    with suppress(OSError):
        for folder in sorted(path.resolve() for path in base.iterdir()):
            record = read(folder)
            if record is not None and folder not in seen:
                seen.add(folder)
                yield folder, record
