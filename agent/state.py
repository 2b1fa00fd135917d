"""What this host keeps about one server: token, journal, lock. Never on a shared disk."""

import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from agent import host
from agent.errors import ConfigError

logger = logging.getLogger(__name__)

_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Credential:
    """The agent's token and what it is good for. Lies in a file of mode 0600, nowhere else."""

    token: str
    machine_id: str
    host_id: str
    code_sha256: str | None = None  # of the enrollment code it was, or is being, enrolled with
    enrolled: bool = False

    @property
    def token_sha256(self) -> str:
        """All that the server is ever told of it."""
        return hashlib.sha256(self.token.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"<Credential of {self.host_id}>"


def new_credential(host_id: str) -> Credential:
    key_id, secret = _random(8), _random(43)  # 43 of 62 characters: 256 bits
    return Credential(f"labd_{key_id}_{secret}", host.machine_id(), host_id)


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


class State:
    """A folder of mode 0700 for one (server, host id) on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            (folder / "attempts").mkdir(exist_ok=True)
        except OSError as exc:
            raise ConfigError(
                f"The state folder {folder} cannot be written ({exc.strerror}): name another "
                "with --state-dir"
            ) from exc

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only agent on this state within the block.

        Raises:
            ConfigError: another one is.
        """
        with open(self.folder / "lock", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                raise ConfigError(
                    f"Another agent (process {file.read().strip() or '?'}) works on "
                    f"{self.folder}: stop it first (lab-agent --stop), or give this one its own "
                    "--host-id and --workdir"
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def credential(self) -> Credential | None:
        """
        Raises:
            ConfigError: it was made for another machine, or is damaged.
        """
        path = self.folder / "token.json"
        try:
            credential = Credential(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as exc:
            raise ConfigError(
                f"{path} cannot be read: delete it and enroll this host anew"
            ) from exc
        if credential.machine_id != host.machine_id():
            raise ConfigError(
                f"The token in {path} was enrolled for another machine: a copied disk or a shared "
                "folder? Delete the file and enroll this host with a code of its own"
            )
        return credential

    def keep(self, credential: Credential) -> None:
        """Durable before it returns: the server may know the token from the next moment on."""
        write_private(self.folder / "token.json", json.dumps(asdict(credential)).encode())

    def mark_enrolled(self, credential: Credential) -> Credential:
        enrolled = replace(credential, enrolled=True)
        self.keep(enrolled)
        return enrolled


def state_folder(server: str, host_id: str, chosen: Path | None) -> Path:
    """Where the state of this (server, host id) lies (protocol §1)."""
    parts = urlsplit(server)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    name = re.sub(r"[^A-Za-z0-9.-]", "-", f"{parts.hostname}-{port}")
    return base_folder(chosen) / f"{name}_{host_id}"


def base_folder(chosen: Path | None) -> Path:
    """Where the states of this user's agents lie."""
    if chosen is None and os.geteuid() == 0:
        chosen = Path("/var/lib/lab-agent")
    folder = chosen or host.home() / ".local/state/lab-agent" / host.machine_id()
    if not host.on_network(folder):
        return folder
    local = Path(f"/var/tmp/lab-agent-{os.getuid()}")  # noqa: S108 - checked to be ours below
    logger.warning("%s is on a network file system: keeping the state in %s", folder, local)
    local.mkdir(mode=0o700, exist_ok=True)
    if local.is_symlink() or local.stat().st_uid != os.getuid():
        raise ConfigError(f"{local} belongs to somebody else: name a local --state-dir")
    return local


def write_private(path: Path, content: bytes) -> None:
    """Replace a file by one of mode 0600; never readable by others, not even for a moment."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
