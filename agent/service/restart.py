"""`lab-agent restart`: an agent that is here, again: by this program, and as it was started.

That is how an older one is renewed. It notes how it was started (agent.presence), so whoever
renews it need not know. Its jobs go on, as at every end of an agent.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from agent import host, status
from agent.config import Config
from agent.errors import ConfigError
from agent.presence import Record
from agent.service import background, managers, options


def restart(chosen: Config) -> int:
    """Return the exit code of the start that failed, or 0.

    Raises:
        ConfigError: there is none, or it cannot be started as it was.
    """
    found = status.named(chosen)
    if not found:
        raise ConfigError(
            f"No agent of {host.unix_user()} has run here{status.which(chosen)}: make a code on "
            "the site (Devices, Add a GPU server), and copy the line that it shows"
        )
    running = [one for one in found if one[1].alive]
    meant = running or [max(found, key=lambda one: one[1].started_at)]
    for _, record in meant:
        _check(record)
        _tell_unheard(chosen, record)
    alone = [one for one in meant if one[1].service is None]
    together = [record for _folder, record in meant if record.service is not None]
    codes = [_again(folder, record, chosen.enroll_code) for folder, record in alone]
    return max(codes + _together(together, chosen.enroll_code))


def _check(record: Record) -> None:
    program, _ = options.program()
    who = f"{record.host_id} at {record.server}"
    if record.program is None or record.arguments is None or record.directory is None:
        raise ConfigError(
            f"{who} did not note how it was started: stop it (--stop), and start it as before"
        )
    if record.service is not None and not _is_same(record.program, program):
        raise ConfigError(
            f"{who} is kept by {record.service}, which starts {shlex.join(record.program)}: renew "
            "that one"
        )
    if record.unit is None or _is_same(record.program, program):
        return
    if not managers.is_service(record.unit):
        raise ConfigError(f"{who} is kept by {record.unit}: renew that one")
    service = [*program, "install-service", *record.arguments]
    raise ConfigError(
        f"{who} is kept by {record.unit}, which starts {shlex.join(record.program)}: renew that "
        f"one, or have the service start this one: stop it (--stop), cd {record.directory}, then "
        f"{shlex.join(service)}"
    )


def _is_same(program: list[str], other: list[str]) -> bool:
    """Whether a service that starts the one starts the other; an agent.pyz is replaced as a file,
    whichever Python it is given to."""
    return program == other or (program[-1] == other[-1] and other[-1].endswith(".pyz"))


def _tell_unheard(chosen: Config, record: Record) -> None:
    """Whoever gives an option, such as --gpus, means to change something."""
    known = {"restart", *(record.arguments or [])}
    wished = [word for word in options.without_names(chosen.arguments) if word not in known]
    if wished:
        sys.stderr.write(
            f"lab-agent: {record.host_id} starts as it was started, and {shlex.join(wished)} is "
            "not heard. To start it otherwise: lab-agent --stop, then start it anew\n"
        )


def _together(records: list[Record], code: str | None) -> list[int]:
    """Agents that one service keeps: it ends and starts all of its servers' at once, once."""
    codes = [_enrolled(record, code) for record in records]
    for service, of_system in {(one.service, one.service_of_system): None for one in records}:
        assert service is not None
        sys.stdout.write(f"{service}: restarted, with the agents of all servers that it keeps\n")
        codes.append(_run(list(managers.restart_command(service, of_system)), records[0]))
    return codes


def _enrolled(record: Record, code: str | None) -> int:
    """With a code, if there is one."""
    enroll = [*options.program()[0], "enroll", *_arguments(record)]
    return _run(enroll, record, code) if code is not None else 0


def _again(folder: Path, record: Record, code: str | None) -> int:
    if record.alive:
        background.end(folder, record)
    refused = _enrolled(record, code)
    if record.unit is not None and managers.is_service(record.unit):
        start = list(managers.start_command(record.unit, record.unit_of_system))
    else:
        start = [*options.program()[0], *_arguments(record), "--daemon"]
    return _run(start, record) or refused


def _arguments(record: Record) -> list[str]:
    return record.arguments or []


def _run(command: list[str], record: Record, code: str | None = None) -> int:
    """Where it had been started; its own words are the person's to read."""
    environ = {**managers.environment(), **options.program()[1]}
    environ.pop("LAB_ENROLL_CODE", None)
    if code is not None:
        environ["LAB_ENROLL_CODE"] = code
    sys.stdout.flush()
    directory = record.directory if record.directory and os.path.isdir(record.directory) else None
    return subprocess.run(command, cwd=directory, env=environ).returncode
