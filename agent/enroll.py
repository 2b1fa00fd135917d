"""Becoming known to a server: its certificate authority, our token, curl's."""

import hashlib
import logging
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from agent import host, wire
from agent.config import Config
from agent.errors import CodeRefused, ConfigError, Rejected, ServerUnreachable
from agent.heartbeat import agent_version
from agent.reach import fetch_ca, fingerprint, over_https
from agent.state import Credential, State, new_credential, write_private
from agent.store import Store
from agent.transport import Transport

logger = logging.getLogger(__name__)


def pinned_ca(config: Config, state: State) -> str | None:
    """Path of the certificate authority to trust, None: those of this system.

    With --ca-sha256 it is fetched from the server itself once.

    Raises:
        ConfigError: it cannot be fetched, or has another fingerprint.
    """
    path = state.folder / "ca.pem"
    if config.ca_sha256 is None:
        return str(path) if path.exists() else None
    if not path.exists() or fingerprint(path.read_text()) != config.ca_sha256:
        pem = fetch_ca(config.server, config.ca_sha256)
        write_private(path, pem.encode())
    return str(path)


def credential(config: Config, state: State, store: Store, ca_file: str | None) -> Credential:
    """The token to use: the one of the state folder, or one that is enrolled now.

    Raises:
        ConfigError: there is none and no code to get one with, or the server refuses the code.
    """
    kept = state.credential()
    code = config.enroll_code
    code_sha256 = hashlib.sha256(code.encode()).hexdigest() if code else None
    if kept and kept.enrolled and code_sha256 in (None, kept.code_sha256):
        return kept
    if code is None:
        raise ConfigError(
            f"This host is not enrolled at {config.server}. Add it there (Devices, Add) and copy "
            f"the command:\n  lab-agent enroll --server {config.server} "
            f"--host-id {config.host_id} --enroll-code CODE"
        )
    before = kept
    if kept is None or kept.enrolled:
        kept = new_credential(config.host_id)
    # Kept before it is sent: should the answer be lost, the same digest is sent again.
    asked = replace(kept, code_sha256=code_sha256)
    state.keep(asked)
    try:
        enrolled = _enroll(config, asked, code, ca_file)
    except CodeRefused:
        if before is not None and before.enrolled:  # it is worth what it was
            state.keep(before)
        raise
    store.put("server_id", enrolled.server_id)  # whoever copies a code has looked at the server
    logger.info("enrolled as %s at %s", enrolled.host_id, enrolled.server_name)
    return state.mark_enrolled(asked)


def _enroll(config: Config, asked: Credential, code: str, ca_file: str | None) -> wire.Enrolled:
    transport = Transport(config.server, None, ca_file)
    message = wire.Enroll(
        enroll_code=code,
        host_id=config.host_id,
        machine_id=asked.machine_id,
        agent_version=agent_version(),
        token_sha256=asked.token_sha256,
    )
    try:
        return transport.enroll(message)
    except ServerUnreachable as exc:
        raise ConfigError(over_https(config.server) or str(exc)) from None
    except Rejected as exc:
        raise CodeRefused(
            f"The server refused to enroll this host: {exc}. A code is good for ten minutes and "
            "once: make a new one on the site (Devices, Add)"
        ) from None
    finally:
        transport.close()


def write_netrc(server: str, host_id: str, token: str, home: Path) -> None:
    """Let curl find the token for this server, and for no other; keep all that is there."""
    name = urlsplit(server).hostname or ""
    netrc = (home / ".netrc").resolve()  # where dotfiles are links, they stay links
    old = netrc.read_text() if netrc.exists() else ""
    entry = f"machine {name} login {host_id} password {token}\n"
    # In front: what follows a `default` entry is never read.
    write_private(netrc, (entry + _without_machine(old, name)).encode())
    curlrc = home / ".curlrc"
    lines = curlrc.read_text().splitlines() if curlrc.exists() else []
    if not any(line.strip().lstrip("-") in ("netrc", "netrc-optional") for line in lines):
        with open(curlrc, "a") as file:
            lead = "\n" if lines and not curlrc.read_text().endswith("\n") else ""
            file.write(f"{lead}netrc-optional\n")


def _without_machine(netrc: str, name: str) -> str:
    """`netrc` without the entry of one machine, which may span lines."""
    kept, skipping = [], False
    for line in netrc.splitlines(keepends=True):
        words = line.split()
        if words[:1] in (["machine"], ["default"], ["macdef"]):
            skipping = words[:2] == ["machine", name]
        if not skipping:
            kept.append(line)
    return "".join(kept)


def netrc_home() -> Path:
    return Path(os.environ.get("HOME") or host.home())
