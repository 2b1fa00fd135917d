"""The agent that the server runs on its own host: enrolled by itself, kept like the others."""

import hashlib
import json
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path

from django.utils import timezone

from devices.models import Device, EnrollmentCode
from labsite import authority
from labsite.run import programs
from labsite.run.supervise import Program


def program(url: str, data_dir: Path, source: Path) -> Program:
    """An agent for `url` with its state and its runs under `data_dir`.

    Touches the database: a code is made when the agent is not known there.
    """
    home = data_dir / "agent"
    home.mkdir(mode=0o700, exist_ok=True)
    host_id = _host_id()
    command = [sys.executable, "-m", "agent", "--server", url, "--host-id", host_id]
    command += [
        "--source",
        str(source),
        "--workdir",
        str(home),
        "--state-dir",
        str(home / "state"),
    ]
    if ca_sha256 := authority.ca_sha256():
        command += ["--ca-sha256", ca_sha256]
    environment = {"PYTHONPATH": str(_repository()), "PYTHONUNBUFFERED": "1"}
    if not _is_known(host_id, home / "state"):
        _, code = EnrollmentCode.make(timezone.now(), is_local=True)
        environment["LAB_ENROLL_CODE"] = code
    return programs.agent(command, environment, source)


def _host_id() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().split(".")[0])
    return name.strip(".-_") or "host"


def _is_known(host_id: str, state_dir: Path) -> bool:
    """Whether a token that lies here is the one that the database has for this host."""
    digests = []
    for path in state_dir.glob(f"*_{host_id}/token.json"):
        with suppress(OSError, ValueError, KeyError):
            token = json.loads(path.read_text())["token"]
            digests.append(hashlib.sha256(token.encode()).hexdigest())
    return Device.objects.filter(
        host_id=host_id, token_sha256__in=digests, revoked_at=None
    ).exists()


def _repository() -> Path:
    return Path(programs.__file__).parents[2]
