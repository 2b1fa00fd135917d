"""`python -m agent`, `lab-agent`."""

import faulthandler
import logging
import os
import sys
from collections.abc import Callable
from contextlib import closing
from typing import NoReturn

from agent import config, diskroom, enroll, logfiles, presence, several, status
from agent.assembly import Agent, checked
from agent.config import Config
from agent.doctor import report
from agent.errors import ConfigError
from agent.files import push
from agent.heartbeat import agent_version
from agent.presence import Presence
from agent.service import background, installing, options, restart
from agent.service.notify import Notifier
from agent.state import State, state_folder
from agent.store import Store
from agent.transport import Transport

CANNOT_START = 2
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says. Return the exit code: 0 done, or stopped in order;
    1 failed, or not all has arrived (push); 2 cannot start; 3 no agent runs, 4 one runs and files
    are held up (status)."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        commands = several.commands(given)
        if len(commands) > 1:
            return _for_each(commands)
        chosen = config.parse(given)
        _begin_log(chosen.verbose)
        return _ACTIONS[chosen.action](chosen)
    except ConfigError as exc:
        sys.stderr.write(f"lab-agent: {exc}\n")
        return CANNOT_START
    except KeyboardInterrupt:
        return INTERRUPTED


def _for_each(commands: list[list[str]]) -> int:
    """Several servers: agents run side by side, all else is done for one after the other."""
    first = config.parse(commands[0])
    if first.action != "run":
        return max(main(command) for command in commands)
    _begin_log(first.verbose)
    return several.keep(commands)


def _begin_log(verbose: bool) -> None:
    line = several.log_prefix() + logfiles.FORMAT
    logging.basicConfig(level=_level(verbose), format=line, stream=sys.stderr)
    logging.getLogger("urllib3").setLevel(logging.INFO)  # a line for each request otherwise


def _level(verbose: bool) -> int:
    return logging.DEBUG if verbose else logging.INFO


def _enroll(chosen: Config) -> int:
    state = _state(chosen)
    diskroom.check(state.folder)
    kept = state.credential()
    if chosen.enroll_code or not (kept and kept.enrolled):
        with state.locked(), closing(_store(state)) as store:
            ca_file = enroll.pinned_ca(chosen, state)
            kept = enroll.credential(chosen, state, store, ca_file)
    if chosen.write_netrc:
        enroll.write_netrc(chosen.server, chosen.host_id, kept.token, enroll.netrc_home())
    sys.stdout.write(f"{chosen.host_id} is enrolled at {chosen.server}\n")
    return 0


def _run(chosen: Config) -> NoReturn:
    chosen = checked(chosen)
    state = _state(chosen)
    diskroom.wait_for(state.folder, chosen.workdir, notifier=Notifier())
    with state.locked():
        files = logfiles.claim(chosen.workdir, state.folder) if chosen.log_files else None
        if files:
            files.begin(_level(chosen.verbose))
        faulthandler.enable()  # should the interpreter itself die, or systemd's watchdog end it
        ca_file = enroll.pinned_ca(chosen, state)
        store = _store(state)
        token = enroll.credential(chosen, state, store, ca_file).token
        written = (str(files.log), str(files.err)) if files else ()
        here = presence.of_this_process(chosen.server, chosen.host_id, chosen.workdir, *written)
        here = presence.started_by(
            here, agent_version(), *options.to_start_again(chosen.arguments, chosen.host_id)
        )
        agent = Agent(
            chosen,
            state,
            store,
            lambda: Transport(chosen.server, token, ca_file),
            Presence(state.folder, here),
        )
        code = agent.run()
        logging.shutdown()
        # A thread may be in a request for a minute more; whatever it does may be cut off there.
        os._exit(code)


def _start(chosen: Config) -> int:
    """Whatever keeps it from starting is said here, where somebody reads it. A full disk does not:
    one that is enrolled waits in the background, as cron starts it where nobody reads."""
    checked(chosen)
    state = _state(chosen)
    kept = state.credential()
    if kept is None or not kept.enrolled:
        diskroom.check(state.folder, chosen.workdir)
    elif diskroom.is_full(state.folder) or diskroom.is_full(chosen.workdir):
        return background.start(chosen, state)
    with state.locked(), closing(_store(state)) as store:
        enroll.credential(chosen, state, store, enroll.pinned_ca(chosen, state))
    return background.start(chosen, state)


def _state(chosen: Config) -> State:
    return State(state_folder(chosen.server, chosen.host_id, chosen.state_dir))


def _store(state: State) -> Store:
    return Store(state.folder / "journal.sqlite3")


_ACTIONS: dict[str, Callable[[Config], int]] = {
    "run": _run,
    "enroll": _enroll,
    "daemon": _start,
    "status": status.show,
    "push": push.push,
    "stop": background.stop,
    "restart": restart.restart,
    "doctor": report.examine,
    "install-service": installing.install,
}


if __name__ == "__main__":
    sys.exit(main())
