"""`python -m agent`, `lab-agent`."""

import logging
import os
import sys
from contextlib import closing
from typing import NoReturn

from agent import config, enroll
from agent.assembly import Agent
from agent.config import Config
from agent.errors import ConfigError
from agent.state import State, state_folder
from agent.store import Store
from agent.transport import Transport

CANNOT_START = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the agent. Return its exit code: 0 stopped in order, 1 failed, 2 cannot start."""
    try:
        chosen = config.parse(sys.argv[1:] if arguments is None else arguments)
        _begin_log(chosen.verbose)
        return _enroll(chosen) if chosen.action == "enroll" else _run(chosen)
    except ConfigError as exc:
        sys.stderr.write(f"lab-agent: {exc}\n")
        return CANNOT_START


def _begin_log(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("urllib3").setLevel(logging.INFO)  # a line for each request otherwise


def _enroll(chosen: Config) -> int:
    state = _state(chosen)
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
    state = _state(chosen)
    with state.locked():
        ca_file = enroll.pinned_ca(chosen, state)
        store = _store(state)
        token = enroll.credential(chosen, state, store, ca_file).token
        agent = Agent(chosen, state, store, lambda: Transport(chosen.server, token, ca_file))
        code = agent.run()
        logging.shutdown()
        # A thread may be in a request for a minute more; whatever it does may be cut off there.
        os._exit(code)


def _state(chosen: Config) -> State:
    return State(state_folder(chosen.server, chosen.host_id, chosen.state_dir))


def _store(state: State) -> Store:
    return Store(state.folder / "journal.sqlite3")


if __name__ == "__main__":
    sys.exit(main())
