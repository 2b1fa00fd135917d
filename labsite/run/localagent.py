"""The agent that the server runs on its own host: enrolled by itself, kept like the others."""

import hashlib
import json
import os
import re
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from django.utils import timezone

from devices.models import Device, EnrollmentCode
from labsite import authority


def prepared(url: str, data_dir: Path, source: Path) -> tuple[list[str], dict[str, str]]:
    """The command and the variables of an agent for `url`, all of whose files lie in `data_dir`.

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
    environment = {
        "PYTHONPATH": str(_repository()),
        "PYTHONUNBUFFERED": "1",
        "LAB_KEPT_BY": f"manage.py runlab (process {os.getpid()})",
    }
    if not _is_known(host_id, state_for(home / "state", url, host_id)):
        _, code = EnrollmentCode.make(timezone.now(), is_local=True)
        environment["LAB_ENROLL_CODE"] = code
    return command, environment


def _host_id() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().split(".")[0])
    return name.strip(".-_") or "host"


def state_for(folder: Path, url: str, host_id: str) -> Path:
    """The agent's state for this address, which is that of the last one.

    An agent keeps a state for each server it works for, and knows servers by their addresses.
    This one has one server, whatever its port is today: a fresh state would not know the jobs
    that run. A link, since their supervisors write to the place that they were told.
    """
    parts = urlsplit(url)
    state = folder / f"{parts.hostname}-{parts.port}_{host_id}"
    earlier = sorted(folder.glob(f"*_{host_id}"), key=lambda path: path.stat().st_mtime)
    if earlier and not state.exists():
        state.symlink_to(earlier[-1].resolve().name)
    return state


def _is_known(host_id: str, state: Path) -> bool:
    """Whether the token that lies here is the one that the database has for this host."""
    try:
        token = json.loads((state / "token.json").read_text())["token"]
    except (OSError, ValueError, KeyError):
        return False
    digest = hashlib.sha256(token.encode()).hexdigest()
    known = Device.objects.filter(host_id=host_id, token_sha256=digest, revoked_at=None)
    return known.exists()


def _repository() -> Path:
    return Path(__file__).parents[2]
