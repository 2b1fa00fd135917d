"""The agent's command line."""

import argparse
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent import gpuchoice, wire
from agent.errors import ConfigError
from agent.files.filesync import SYNC_INTERVAL
from agent.heartbeat import agent_version
from agent.service import options

ACTIONS = ["run", "enroll", "status", "push", "restart", "doctor", "install-service"]
#: Of each interval its option, and how short and how long it may be.
HEARTBEAT = "--heartbeat-interval", 0.05, wire.MAX_HEARTBEAT_SECONDS
POLL = "--poll-interval", 0.1, wire.MAX_WAIT_SECONDS
SYNC = "--sync-interval", 0.05, 60.0
MIN_UPLOAD_BYTES = 64_000  # a second: below, a server takes the sender for one that is stuck
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "KI": 2**10, "MI": 2**20, "GI": 2**30}

_EPILOG = """\
A new GPU server is added on the site (Devices, Add): it shows the whole command to copy, with a
code that is good for ten minutes. Afterwards `lab-agent --server URL` is enough.
"""


@dataclass(frozen=True)
class Config:
    """What the command line said, checked."""

    action: str  # of ACTIONS, or "daemon", "stop"
    runs: tuple[str, ...]  # what push is to send; none: all
    timeout_seconds: float | None
    as_json: bool
    server: str  # http(s)://host[:port]; "" if not named, where an action needs none
    host_id: str
    named_host_id: str | None  # None: host_id is the default
    enroll_code: str | None
    heartbeat_seconds: float
    poll_seconds: float
    sync_seconds: float
    max_upload: float | None  # bytes a second; None: as the line carries
    keep_days: float | None  # None: for ever
    source: Path
    workdir: Path
    state_dir: Path | None
    ca_sha256: str | None
    accept_new_server: bool
    gpus: str  # as agent.gpuchoice reads it
    lock_dir: Path | None
    simulate_gpus: int
    run_as: wire.JobUser
    write_netrc: bool
    verbose: bool
    log_files: bool
    install: argparse.Namespace  # what install-service was given
    arguments: tuple[str, ...]  # the command line itself, for another process of the same

    def __repr__(self) -> str:
        return f"<Config of {self.host_id} for {self.server}>"  # the code stays out of logs


def parse(arguments: list[str]) -> Config:
    """
    Raises:
        ConfigError: a value cannot be right; the message says what to write.
        SystemExit: an unknown option, or --help.
    """
    given = _parser().parse_intermixed_args(arguments)
    action = _action(given)
    return Config(
        action=action,
        runs=tuple(given.runs),
        timeout_seconds=given.timeout,
        as_json=given.json,
        server=_server(given.server) if given.server or _needs_server(action, given) else "",
        host_id=_host_id(given.host_id or _default_host_id()),
        named_host_id=given.host_id,
        enroll_code=given.enroll_code or os.environ.get("LAB_ENROLL_CODE"),
        heartbeat_seconds=_between(*HEARTBEAT, given.heartbeat_interval),
        poll_seconds=_between(*POLL, given.poll_interval),
        sync_seconds=_between(*SYNC, given.sync_interval),
        max_upload=_rate(given.max_upload),
        keep_days=_days(given.keep_days),
        source=_folder("--source", given.source),
        workdir=given.workdir.expanduser().absolute(),
        state_dir=given.state_dir and given.state_dir.expanduser().absolute(),
        ca_sha256=_fingerprint(given.ca_sha256),
        accept_new_server=given.accept_new_server,
        gpus=given.gpus,
        lock_dir=_lock_dir(given.lock_dir),
        simulate_gpus=given.simulate_gpus,
        run_as=wire.JobUser(given.run_as),
        write_netrc=given.write_netrc,
        verbose=given.verbose,
        log_files=given.log_files,
        install=given,
        arguments=tuple(arguments),
    )


def _action(given: argparse.Namespace) -> str:
    if given.background and given.action != "run":
        raise ConfigError(f"--{given.background} and {given.action} are two things: choose one")
    if given.runs and given.action != "push":
        raise ConfigError(f"{given.action} takes no run: {' '.join(given.runs)}")
    return str(given.background or given.action)


def _needs_server(action: str, given: argparse.Namespace) -> bool:
    return action not in ("status", "push", "stop", "doctor") and not given.remove


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab-agent",
        description="Run this host's share of the lab's experiments.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "action",
        nargs="?",
        choices=ACTIONS,
        default="run",
        help="run (the default), only enroll this host, tell how the agents here fare and what "
        "has not arrived, send it now, start an agent again as it was started, look for what is "
        "wrong here, or have the machine keep the agent running",
    )
    add("runs", nargs="*", metavar="RUN", help="with push: these only (run_001, project/run_001)")
    add(
        "--server",
        "--url",
        metavar="URL",
        help="address of the lab server; give it once for each to work for several",
    )
    add("--enroll-code", metavar="CODE", help="code from the site, for the first start")
    add(
        "--host-id",
        "--client-host-id",
        metavar="ID",
        help="this host's name in the lab (default: its host name)",
    )
    _add_rates(parser)
    _add_folders(parser)
    _add_files(parser)
    _add_rare(parser)
    options.add_background(parser)
    return parser


def _add_rates(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--heartbeat-interval",
        "--client-interval",
        metavar="S",
        type=float,
        default=wire.HEARTBEAT_SECONDS,
        help="seconds between heartbeats (default: %(default)s)",
    )
    add(
        "--poll-interval",
        metavar="S",
        type=float,
        default=wire.MAX_WAIT_SECONDS,
        help="seconds that the server may hold a poll (default: %(default)s)",
    )


def _add_folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        metavar="DIR",
        type=Path,
        default=Path(),
        help="where commands run (default: where the agent is started)",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        type=Path,
        default=Path(),
        help="where runs leave their files (default: where the agent is started)",
    )
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        type=Path,
        help="where the agent keeps token and journal; a local disk",
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sync-interval",
        metavar="S",
        type=float,
        default=SYNC_INTERVAL,
        help="seconds between two looks at what runs have written (default: %(default)s)",
    )
    parser.add_argument(
        "--max-upload",
        metavar="RATE",
        help="how much of the line files may take, such as 20MB/s (default: all of it)",
    )
    parser.add_argument(
        "--keep-days",
        metavar="N",
        type=float,
        help="delete files of ended runs here so many days after the server confirmed them "
        "(default: never)",
    )


def _days(days: float | None) -> float | None:
    if days is not None and not days >= 1:
        raise ConfigError("--keep-days must be 1 or more; leave it out to keep files for ever")
    return days


def _add_rare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--ca-sha256",
        metavar="HEX",
        help="trust the server's own certificate authority, if it has this fingerprint",
    )
    add(
        "--accept-new-server",
        action="store_true",
        help="obey this server although its identity changed (a restored or new database)",
    )
    add(
        "--write-netrc",
        action="store_true",
        help="with enroll: let curl find the token in ~/.netrc",
    )
    add(
        "--gpus",
        metavar="WHICH",
        default=gpuchoice.ALL,
        help="offer only these: indices (0,1), UUIDs or their beginnings, or none",
    )
    add(
        "--lock-dir",
        metavar="DIR",
        type=Path,
        help="where this host's agents lock GPUs (for containers: a folder that they share)",
    )
    add(
        "--simulate-gpus",
        metavar="N",
        type=int,
        default=0,
        help="show N cards that do not exist, to try the lab out",
    )
    add(
        "--run-as",
        choices=[one.value for one in wire.JobUser],
        default=wire.JobUser.AGENT.value,
        help="which Unix user runs jobs: the agent's, or (for an agent of root) whose Unix name "
        "a manager set for the submitter; then nothing runs as root",
    )
    add("--client-only", action="store_true", help=argparse.SUPPRESS)  # an agent always is
    add("--verbose", action="store_true", help="log more")
    add("--version", action="version", version=f"lab-agent {agent_version()}")


def _server(text: str | None) -> str:
    if not text:
        raise ConfigError("Name the lab server: lab-agent --server http://HOST:8000")
    if "//" not in text:
        text = f"http://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ConfigError(f"--server {text!r} has a port that is not a number") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--server {text!r} is not an address: write http://HOST:8000")
    if parts.username or parts.password:
        raise ConfigError("--server must not hold a password: the agent has a token of its own")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")


def _default_host_id() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().split(".")[0])
    return name.strip(".-_") or "host"


def _host_id(name: str) -> str:
    if not wire.is_name(name):
        raise ConfigError(
            f"--host-id {name!r} is not allowed: use letters, digits, dots, hyphens and "
            "underscores, and begin with a letter or digit"
        )
    return name


def _between(option: str, low: float, high: float, value: float) -> float:
    if not low <= value <= high:
        raise ConfigError(f"{option} must lie between {low:g} and {high:g} seconds")
    return value


def _rate(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?|)B(?:/S)?", text.strip().upper())
    if match is None:
        raise ConfigError(f"--max-upload {text!r} is no rate: write it as 20MB/s or 512KiB/s")
    rate = float(match[1]) * _UNITS[match[2]]
    if rate < MIN_UPLOAD_BYTES:
        raise ConfigError(f"--max-upload {text!r} is too little: write 64KB/s or more")
    return rate


def _lock_dir(given: Path | None) -> Path | None:
    chosen = given or os.environ.get("LAB_LOCK_DIR")
    return Path(chosen).expanduser().absolute() if chosen else None


def _folder(option: str, path: Path) -> Path:
    path = path.expanduser().absolute()
    if not path.is_dir():
        raise ConfigError(f"{option} {path} is not a folder: make it, or name another")
    return path


def _fingerprint(text: str | None) -> str | None:
    if text is None:
        return None
    digits = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ConfigError("--ca-sha256 must be 64 hexadecimal digits, as the site shows them")
    return digits
