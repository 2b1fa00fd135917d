"""The agent's command line."""

import argparse
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent import wire
from agent.errors import ConfigError
from agent.heartbeat import agent_version

MIN_HEARTBEAT_SECONDS = 0.05
MIN_POLL_SECONDS = 0.1

_EPILOG = """\
A new GPU server is added on the site (Devices, Add): it shows the whole command to copy, with a
code that is good for ten minutes. Afterwards `lab-agent --server URL` is enough.
"""


@dataclass(frozen=True)
class Config:
    """What the command line said, checked."""

    action: str  # "run" or "enroll"
    server: str  # http(s)://host[:port]
    host_id: str
    enroll_code: str | None
    heartbeat_seconds: float
    poll_seconds: float
    source: Path
    workdir: Path
    state_dir: Path | None
    ca_sha256: str | None
    accept_new_server: bool
    simulate_gpus: int
    write_netrc: bool
    verbose: bool

    def __repr__(self) -> str:
        return f"<Config of {self.host_id} for {self.server}>"  # the code stays out of logs


def parse(arguments: list[str]) -> Config:
    """
    Raises:
        ConfigError: a value cannot be right; the message says what to write.
        SystemExit: an unknown option, or --help.
    """
    given = _parser().parse_args(arguments)
    host_id = given.host_id or _default_host_id()
    if not wire.is_name(host_id):
        raise ConfigError(
            f"--host-id {host_id!r} is not allowed: use letters, digits, dots, hyphens and "
            "underscores, and begin with a letter or digit"
        )
    return Config(
        action=given.action,
        server=_server(given.server),
        host_id=host_id,
        enroll_code=given.enroll_code or os.environ.get("LAB_ENROLL_CODE"),
        heartbeat_seconds=_between(
            "--heartbeat-interval",
            given.heartbeat_interval,
            MIN_HEARTBEAT_SECONDS,
            wire.MAX_HEARTBEAT_SECONDS,
        ),
        poll_seconds=_between(
            "--poll-interval", given.poll_interval, MIN_POLL_SECONDS, wire.MAX_WAIT_SECONDS
        ),
        source=_folder("--source", given.source),
        workdir=given.workdir.expanduser().absolute(),
        state_dir=given.state_dir and given.state_dir.expanduser().absolute(),
        ca_sha256=_fingerprint(given.ca_sha256),
        accept_new_server=given.accept_new_server,
        simulate_gpus=given.simulate_gpus,
        write_netrc=given.write_netrc,
        verbose=given.verbose,
    )


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
        choices=["run", "enroll"],
        default="run",
        help="run (the default), or only enroll this host and end",
    )
    add("--server", "--url", metavar="URL", help="address of the lab server")
    add("--enroll-code", metavar="CODE", help="code from the site, for the first start")
    add(
        "--host-id",
        "--client-host-id",
        metavar="ID",
        help="this host's name in the lab (default: its host name)",
    )
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
    _add_folders(parser)
    _add_rare(parser)
    return parser


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
        "--simulate-gpus",
        metavar="N",
        type=int,
        default=0,
        help="show N cards that do not exist, to try the lab out",
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


def _between(option: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ConfigError(f"{option} must lie between {low:g} and {high:g} seconds")
    return value


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
