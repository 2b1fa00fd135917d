"""`lab-agent --daemon` and `--stop`."""

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from agent import host, logfiles, shim, status
from agent.config import Config
from agent.errors import ConfigError
from agent.presence import Record
from agent.service import logind, managers, notify, options
from agent.state import State

START_SECONDS = 90.0  # a first heartbeat may wait for names and connections
STOP_SECONDS = 30.0  # two for its loops, thirteen for its goodbye
LOOK_SECONDS = 0.1


def start(chosen: Config, kept: State) -> int:
    """Start the agent in the background, and return its exit code if it does not start.

    It is told to run once its first heartbeat was answered, or not answered: a server that is
    away is waited for. It has a session of its own, so the end of this one is none of its.
    """
    files = logfiles.claim(chosen.workdir, kept.folder)
    with notify.Listener() as listener, open(files.err, "ab") as err:
        began = err.tell()
        child = _spawn(chosen, err.fileno(), listener.address)
        limit = shim.now() + START_SECONDS
        while "STATUS" not in listener.heard and child.poll() is None and shim.now() < limit:
            listener.listen(LOOK_SECONDS)
    if child.poll() is not None:
        sys.stderr.write(files.err.read_bytes()[began:].decode(errors="replace"))
        sys.stderr.write(f"lab-agent: it did not start; its log is {files.log}\n")
        return child.returncode or 1
    _say(f"{chosen.host_id} at {chosen.server}: started, process {child.pid}")
    _say(f"  {_fate(listener.heard.get('STATUS'))}")
    _say(f"  {files.log}, {files.err.name}; lab-agent --status, lab-agent --stop")
    if logind.ends_processes_of(host.unix_user()):
        _say(
            "! logind.conf here has KillUserProcesses=yes: this agent and its jobs end when you "
            "log out. lab-agent install-service makes it a service, which stays"
        )
    return 0


def _fate(said: str | None) -> str:
    if said is None:
        return "it has yet to hear whether the server answers"
    return said if said == notify.FINE else f"{said}\n  It goes on trying."


def _spawn(chosen: Config, output: int, address: str) -> subprocess.Popen[bytes]:
    program, variables = options.program()
    environ = {**os.environ, **variables, notify.VARIABLE: address}
    environ.pop("LAB_ENROLL_CODE", None)  # it was used
    return subprocess.Popen(
        [*program, *options.for_a_daemon(chosen.arguments)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environ,
        start_new_session=True,
    )


def stop(chosen: Config) -> int:
    """Stop the agents of this user on this host; their jobs go on.

    Raises:
        ConfigError: one cannot be stopped.
    """
    running = [(folder, record) for folder, record in status.named(chosen) if record.alive]
    for folder, record in running:
        end(folder, record)
    if not running:
        _say(f"No agent of {host.unix_user()} runs here{status.which(chosen)}.")
    return 0


def end(folder: Path, record: Record) -> None:
    """Have the agent on this state end in order, wait until it has, and say so.

    Raises:
        ConfigError: it cannot be stopped.
    """
    if record.alive:  # one process may serve several servers
        _end(record)
    _say(f"{record.host_id} at {record.server}: stopped (process {record.pid})")
    if jobs := status.jobs_of(folder):
        _say(f"  jobs go on: {', '.join(jobs)}; the next start finds them")


def _end(record: Record) -> None:
    if record.unit is None:
        _signal(record.pid)
    else:
        _ask(record.unit, record.unit_of_system)
    if not _waited(lambda: not record.alive, STOP_SECONDS):
        raise ConfigError(
            f"Process {record.pid} has not ended within {STOP_SECONDS:.0f} s. kill -9 "
            f"{record.pid} does its jobs no harm"
        )


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise ConfigError(f"Process {pid} is another user's: stop it as root") from None
    except ProcessLookupError:
        return


def _ask(unit: str, of_system: bool) -> None:
    """Have whoever would start it again stop it."""
    if not managers.is_service(unit):
        raise ConfigError(f"{unit} keeps it running and would start it again: stop that one")
    command = managers.stop_command(unit, of_system)
    done = subprocess.run(command, capture_output=True, text=True, env=managers.environment())
    if done.returncode != 0:
        raise ConfigError(
            f"{unit} would start it again, and {shlex.join(command)} failed: {done.stderr.strip()}"
        )


def _waited(condition: Callable[[], bool], seconds: float) -> bool:
    pause, limit = threading.Event(), shim.now() + seconds
    while not condition():
        if shim.now() >= limit:
            return False
        pause.wait(LOOK_SECONDS)
    return True


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
