"""What the agent knows of the machine it runs on."""

import os
import pwd
import uuid
from pathlib import Path

NETWORK_FILESYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "lustre"}
MACHINE_ID_FILES = [Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")]


def machine_id() -> str:
    """Names this machine for good; a home folder may be shared with others, this is not."""
    for path in MACHINE_ID_FILES:
        try:
            if text := path.read_text().strip():
                return text
        except OSError:
            continue
    return f"mac-{uuid.getnode():012x}"  # in a container without systemd


def unix_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container that runs under a bare number
        return str(os.getuid())


def home() -> Path:
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path(os.environ.get("HOME", "/"))


def filesystem(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system that holds `path` or its nearest existing parent."""
    while not path.exists():
        path = path.parent
    real = path.resolve()
    best, kind = "", "unknown"
    for line in mounts.read_text().splitlines():
        _, point, fstype, *_ = line.split()
        point = point.encode().decode("unicode_escape")  # a space is written \040
        if real.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, fstype
    return kind


def on_network(path: Path) -> bool:
    """Whether `path` is shared with other hosts: locks and SQLite's WAL do not work there."""
    return filesystem(path) in NETWORK_FILESYSTEMS


def processes_with(variable: str, value: str) -> list[int]:
    """Processes whose environment holds `variable=value`, as far as we may look."""
    wanted = f"{variable}={value}".encode()
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = Path("/proc", name, "environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0"):
            found.append(int(name))
    return found
