"""`lab-agent install-service`: this agent, kept running by the machine."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent import host, state
from agent.config import Config
from agent.errors import ConfigError
from agent.service import logind, managers, options, unitfiles
from agent.service.managers import Choice
from agent.service.unitfiles import Service
from agent.status import HELD_UP, RUNNING

NAME = "lab-agent"
#: The heartbeat's loop turns at least each minute, but for names and connections that take their
#: time; so long without a turn, and the agent itself is stuck.
WATCHDOG_SECONDS = 300
_UNIT = f"""\
# The agent speaks up as long as its heartbeat turns, whether or not the server answers it.
WatchdogSec={WATCHDOG_SECONDS}
{unitfiles.FOR_JOBS}"""
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


def install(chosen: Config) -> int:
    """Install or remove the service; return the exit status.

    Raises:
        ConfigError: it cannot be, or the agent could not start.
    """
    choice, service = _named(chosen, managers.choice(chosen.install, NAME))
    if choice.remove:
        managers.remove(service, choice, _say)
        _say("Jobs that run here go on.")
        return 0
    if not choice.dry_run:
        _make_sure(chosen, choice, service)
    managers.install(service, choice, _say)
    if choice.manager == "cron" and logind.ends_processes_of(choice.user):
        _say("! logind.conf has KillUserProcesses=yes: what is started by hand ends at logout")
    return 0


def _named(chosen: Config, choice: Choice) -> tuple[Choice, Service]:
    """The service under its short name, or a longer one where another agent has that already."""
    service = describe(chosen, choice)
    if chosen.install.service_name or managers.is_free(service, choice):
        return choice, service
    where = state.state_folder(chosen.server, chosen.host_id, chosen.state_dir).name
    choice = replace(choice, name=f"{NAME}-{where}")
    _say(f"# {NAME} is another agent's here; this one is {choice.name}")
    return choice, describe(chosen, choice)


def describe(chosen: Config, choice: Choice, environ: Mapping[str, str] = os.environ) -> Service:
    program, variables = options.program()
    lasting = options.for_a_service(chosen.arguments, chosen.host_id)
    command = (*program, *lasting)
    logs = chosen.workdir / "logs"
    return Service(
        name=choice.name,
        description="Lab agent",
        command=(*command, "--log-files") if choice.manager == "launchd" else command,
        directory=Path.cwd(),
        marks=(urlsplit(chosen.server).netloc, chosen.host_id) if chosen.server else (),
        variables={**variables, **_kept(choice, environ)},
        user=choice.user if choice.of_system else None,
        lines=_UNIT,
        kind="notify",
        in_background=(*command, "--daemon"),
        launchd={
            # Until the agent has opened them itself, which then turns them over.
            "StandardOutPath": str(logs / "agent.err"),
            "StandardErrorPath": str(logs / "agent.err"),
        },
    )


def _kept(choice: Choice, environ: Mapping[str, str]) -> dict[str, str]:
    """What the service gets of this environment: how to reach the server and, where it is this
    user's own, where jobs find their programs."""
    kept = {}
    for name in sorted(environ):
        if name.lower() in _PROXIES and "@" not in environ[name]:  # not with a password
            kept[name] = environ[name]
    if not choice.of_system and "PATH" in environ:
        kept["PATH"] = environ["PATH"]
    return kept


def _make_sure(chosen: Config, choice: Choice, service: Service) -> None:
    """
    Raises:
        ConfigError: the agent is not enrolled, or runs already and not as this service.
    """
    asked = ["--server", chosen.server, "--host-id", chosen.host_id]
    asked += ["--state-dir", str(chosen.state_dir)] if chosen.state_dir else []
    status = _as(choice, [*asked, "--status"])
    if status.returncode in (RUNNING, HELD_UP):
        if any(name in status.stdout for name in (f"{service.name}.service", service.label)):
            return
        raise ConfigError(f"It runs already: stop it first, with --stop.\n{status.stdout}")
    lasting = options.for_a_service(chosen.arguments, chosen.host_id)
    enrolled = _as(choice, ["enroll", *lasting], code=chosen.enroll_code)
    if enrolled.returncode != 0:
        raise ConfigError(enrolled.stderr.strip().removeprefix("lab-agent: "))


def _as(
    choice: Choice, arguments: list[str], code: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the agent's program as the user whom the service will run as.

    Raises:
        ConfigError: that user cannot run it.
    """
    program, variables = options.program()
    environ = {**os.environ, **variables}
    if code:
        environ["LAB_ENROLL_CODE"] = code
    user: dict[str, Any] = {}
    if choice.user != host.unix_user():
        account = managers.account(choice.user)
        environ.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name)
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
    try:
        return subprocess.run(
            [*program, *arguments], env=environ, capture_output=True, text=True, **user
        )
    except OSError as exc:
        raise ConfigError(
            f"{choice.user} cannot run {program[0]} ({exc.strerror}): install the agent where "
            "that user can read it, or name another with --as-user"
        ) from exc


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
