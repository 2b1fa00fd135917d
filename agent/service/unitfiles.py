"""A program as a service, in the words of systemd, of launchd and of a crontab.

Standard library only: the server's installer uses this too. Paths and arguments are quoted for
each of them, so that a folder named "My runs 100%" stays one.
"""

import plistlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from agent.errors import ConfigError

#: What tells an agent that the cgroup it runs in is its own, to make others in.
DELEGATED = "LAB_CGROUP_DELEGATED"
#: Of systemd's [Service], wherever jobs run.
FOR_JOBS = f"""\
# Jobs belong to supervisors of their own: a restart of the agent must not touch them,
KillMode=process
# nor must a job that ran out of memory take the agent along, and jobs may have many threads.
OOMPolicy=continue
TasksMax=infinity
# Each job has a cgroup of its own here, with which all that it left behind ends at once.
Delegate=yes
Environment={DELEGATED}=yes
"""
LABELS = "com.lab."  # what launchd's names of ours begin with


@dataclass(frozen=True)
class Service:
    """What is to be kept running."""

    name: str  # lab-agent
    description: str
    command: tuple[str, ...]  # an absolute path first; stays in the foreground
    directory: Path
    marks: tuple[str, ...]  # what only this service's file names, of all of its name
    variables: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None  # of a system service
    lines: str = ""  # more of systemd's [Service]
    kind: str = "simple"  # systemd's Type
    in_background: tuple[str, ...] | None = None  # the same for a crontab, if it can by itself
    launchd: Mapping[str, object] = field(default_factory=dict)  # more keys of its plist

    @property
    def label(self) -> str:
        """Its name for launchd: com.lab.agent."""
        return LABELS + self.name.removeprefix("lab-")


def is_of(service: Service, content: str) -> bool:
    """Whether a file, or a line of a crontab, starts this service and no other of its name."""
    return all(
        any(re.search(rf"{re.escape(form)}/?(?![\w.:/-])", content) for form in _forms(mark))
        for mark in service.marks
    )


def _forms(word: str) -> set[str]:
    return {word, _quoted(word).strip('"'), escape(word), word.replace("%", "\\%")}


# --- systemd ---


def systemd(service: Service, of_system: bool) -> str:
    """The unit, for the system's manager or for a user's own."""
    network = "After=network-online.target\nWants=network-online.target\n" if of_system else ""
    user = f"User={service.user}\n" if of_system and service.user else ""
    variables = "".join(
        f"Environment={_quoted(f'{name}={value}', always=True)}\n"
        for name, value in service.variables.items()
    )
    return (
        f"[Unit]\nDescription={service.description}\n{network}"
        "# However often it ended: it is started again.\nStartLimitIntervalSec=0\n"
        f"\n[Service]\nType={service.kind}\n{user}"
        f"WorkingDirectory={_path(service.directory)}\n{variables}"
        f"ExecStart={exec_start(service.command)}\nRestart=always\nRestartSec=2\n{service.lines}"
        f"\n[Install]\nWantedBy={'multi-user' if of_system else 'default'}.target\n"
    )


def exec_start(command: tuple[str, ...]) -> str:
    """A command line as systemd takes it apart again."""
    # A program's name may hold none of these; a $ could not be protected there.
    odd = re.search(r"[$\"'\\]", command[0])
    words = ("/usr/bin/env", *command) if odd else command
    return " ".join(_quoted(word).replace("$", "$$") for word in words)


def _quoted(word: str, always: bool = False) -> str:
    _refuse_control(word)
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    plain = re.fullmatch(r"[\w@%+=:,./$-]+", word, re.ASCII)
    return escaped if plain and not always else f'"{escaped}"'


def _path(path: Path) -> str:
    _refuse_control(str(path))
    if str(path).endswith(("\\", " ")):
        raise ConfigError(f"{str(path)!r} ends in what systemd would not keep: rename that folder")
    return str(path).replace("%", "%%")


def _refuse_control(text: str) -> None:
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ConfigError(f"{text!r} holds a control character, which no service file can: rename")


# --- launchd ---


def launchd(service: Service, of_system: bool) -> bytes:
    """The property list of a daemon or of a user's agent."""
    content: dict[str, object] = {
        "Label": service.label,
        "ProgramArguments": list(service.command),
        "WorkingDirectory": str(service.directory),
        "RunAtLoad": True,
        "KeepAlive": True,
        "AbandonProcessGroup": True,
        **service.launchd,
    }
    if service.variables:
        content["EnvironmentVariables"] = dict(service.variables)
    if of_system and service.user:
        content["UserName"] = service.user
    return plistlib.dumps(content, sort_keys=False)


# --- cron ---


def shell(service: Service) -> str:
    """A command for sh that starts the service and returns."""
    words = [f"{name}={shlex.quote(value)}" for name, value in service.variables.items()]
    words += map(shlex.quote, service.in_background or ("nohup", *service.command))
    go = f"cd {shlex.quote(str(service.directory))} &&"
    quiet = "" if service.in_background else " >/dev/null 2>&1 </dev/null &"
    return f"{go} {' '.join(words)}{quiet}"


def crontab(service: Service) -> str:
    """The line of a crontab; the shell takes its end for a comment."""
    _refuse_control(shell(service))
    command = shell(service).replace("%", "\\%")  # cron takes a bare one for a new line
    return f"@reboot {command}{crontab_mark(service)}\n"


def crontab_mark(service: Service) -> str:
    return f"  # {service.name}"
