"""`lab-agent --server A --server B`: this process keeps one agent a server running.

Each is a process of its own with its own state, workspace and token, so what befalls one does not
touch the other; the GPUs they share by the host's locks (agent.gpulock). An agent that fails is
started again, as a service would; one that was asked to stop stays so. When this process ends,
however it does, so do they; jobs go on.
"""

import ctypes
import logging
import os
import signal
import subprocess
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from agent import config, presence, shim
from agent.backoff import Backoff
from agent.errors import ConfigError
from agent.service import managers, options
from agent.state import state_folder

logger = logging.getLogger(__name__)

#: What the log of one of several names it by; set by us for the agents that we start.
LOG_NAME = "LAB_AGENT_LOG_NAME"
#: What a service manager says to this process and to no other.
NOT_THEIRS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
CANNOT_START = 2
STEADY_SECONDS = 60.0  # whoever ran so long and ended is started again at once
AGAIN_SECONDS = 60.0  # between two starts, at most
STOP_SECONDS = 20.0  # an agent takes two for its loops and some for its goodbye
PR_SET_PDEATHSIG = 1
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SIGNALS = (*STOPPING, signal.SIGCHLD)


def commands(arguments: Sequence[str]) -> list[list[str]]:
    """The command line, once for each server that it names; as it is when that is one or none.

    Raises:
        ConfigError: a server is named twice, or something else is meant for one of them.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--server", "--url", action="append", default=[])
    named, others = parser.parse_known_args(list(arguments))
    if len(named.server) < 2:
        return [list(arguments)]
    made = [[*others, "--server", server] for server in named.server]
    _check([config.parse(command) for command in made])
    return made


def _check(all_chosen: Sequence[config.Config]) -> None:
    states = {state_folder(one.server, one.host_id, one.state_dir) for one in all_chosen}
    if len(states) < len(all_chosen):
        raise ConfigError("--server names the same server twice: name each once")
    one = all_chosen[0]
    for option, given in (
        ("--enroll-code (or LAB_ENROLL_CODE)", one.enroll_code),
        ("--ca-sha256", one.ca_sha256),
        ("--accept-new-server", one.accept_new_server),
    ):
        if given:
            raise ConfigError(
                f"{option} belongs to one server: give it with that --server alone, as in "
                f"`lab-agent enroll --server {one.server} …`; then start the agent for all of them"
            )


def log_prefix() -> str:
    """What each line of the log begins with: a server's name when there are several."""
    name = os.environ.get(LOG_NAME)
    return f"[{name}] " if name else ""


def keep(all_commands: Sequence[list[str]]) -> int:
    """Keep an agent for each command line running until a signal, or until none runs any more.
    Return the exit code: 0 all stopped in order; 2 one or all cannot start; else the worst."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    kept = [Kept(command) for command in all_commands]
    while not all(one.has_ended for one in kept):
        for one in kept:
            one.start_if_due()
        pause = min(one.pause_seconds for one in kept)
        heard = signal.sigtimedwait(SIGNALS, pause)
        if heard is not None and heard.si_signo in STOPPING:
            return _stop(kept, signal.Signals(heard.si_signo))
        for one in kept:
            one.look()
    return max(one.wait(0) for one in kept)


def _stop(kept: Sequence["Kept"], signum: signal.Signals) -> int:
    logger.info("%s: stopping the agents of %d servers", signum.name, len(kept))
    for one in kept:
        one.send(signal.SIGTERM)
    limit = shim.now() + STOP_SECONDS
    return max(one.wait(max(0.0, limit - shim.now())) for one in kept)


class Kept:
    """The agent of one server: a process, or the time of its next start."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._name = config.parse(list(command)).server.partition("://")[2]
        self._process: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff(ceiling_seconds=AGAIN_SECONDS)
        self._changed_seconds = shim.now()
        self._due_seconds = 0.0
        self._code: int | None = None  # of its last process

    @property
    def has_ended(self) -> bool:
        """Whether it was asked to stop, or cannot start: no failure that may pass by itself."""
        return self._process is None and self._code in (0, CANNOT_START)

    @property
    def pause_seconds(self) -> float:
        """How long nothing is to be done for it, unless its process ends."""
        return AGAIN_SECONDS if self._process else max(0.0, self._due_seconds - shim.now())

    def start_if_due(self) -> None:
        if self._process is not None or shim.now() < self._due_seconds:
            return
        self._changed_seconds = shim.now()
        program, variables = options.program()
        environ = {k: v for k, v in os.environ.items() if k not in NOT_THEIRS} | _service()
        self._process = subprocess.Popen(
            [*program, *self._command],
            env={**environ, **variables, LOG_NAME: self._name},
            stdin=subprocess.DEVNULL,
            preexec_fn=partial(_end_with, os.getpid()),  # this process has one thread
        )
        logger.info("the agent for %s is process %d", self._name, self._process.pid)

    def look(self) -> None:
        """If it has ended, say when it is started again."""
        if self._process is None or self._process.poll() is None:
            return
        self._code, self._process = self._process.returncode, None
        if self._code == 0:
            self._due_seconds = float("inf")
            return
        if shim.now() - self._changed_seconds >= STEADY_SECONDS:
            self._backoff.reset()
        pause = self._backoff.next_seconds()
        self._due_seconds = shim.now() + pause
        logger.warning(
            "the agent for %s ended (exit code %d); again in %.1f s", self._name, self._code, pause
        )

    def send(self, signum: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signum)

    def wait(self, seconds: float) -> int:
        """Its exit code, or the last one it had; kill -9 does its jobs no harm."""
        if self._process is None:
            return abs(self._code or 0)
        try:
            return abs(self._process.wait(seconds))
        except subprocess.TimeoutExpired:
            logger.warning("the agent for %s does not stop: killing it", self._name)
            self._process.kill()
            return abs(self._process.wait())


def _service() -> dict[str, str]:
    """By which an agent notes the service that this process is, so that `lab-agent restart` knows
    it: that one starts all of them again, and nobody else should."""
    unit, of_system = presence.unit_of_this_process()
    if unit is None or not managers.is_service(unit):
        return {}
    return {presence.SERVICE: f"{'system' if of_system else 'user'}:{unit}"}


def _end_with(parent: int) -> None:
    """In the child: SIGTERM when the parent is gone, and no signal blocked."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if os.getppid() != parent:  # it went before we could ask
        os.kill(os.getpid(), signal.SIGTERM)
