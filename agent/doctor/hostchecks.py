"""What `lab-agent doctor` finds on this host, whatever the server."""

import glob
import grp
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml

from agent import host, state, users
from agent.config import Config
from agent.doctor.finding import Finding, doubtful, fine, wrong
from agent.errors import ConfigError
from agent.files import userfolders
from agent.service import logind
from agent.wire import JobUser

GIB = 2**30
NO_ROOM_BYTES = GIB
LITTLE_ROOM_BYTES = 10 * GIB
NVIDIA = "0x10de"
CARDS = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dri/renderD*"]


def all_of(chosen: Config) -> Iterator[Finding]:
    yield python()
    yield user(chosen)
    yield driver()
    yield from devices()
    yield from folders(chosen)
    yield logout()


def python() -> Finding:
    return fine("python", f"{platform.python_version()} ({sys.executable})")


def user(chosen: Config) -> Finding:
    name = host.unix_user()
    found = f"{name} (uid {os.getuid()}), groups {', '.join(_groups()) or 'none'}"
    if chosen.run_as is JobUser.SUBMITTER:
        return _submitters(found, chosen.workdir)
    if os.getuid() == 0:
        return doubtful(
            "user", found, "jobs run as this user; an account of its own keeps them from root's"
        )
    return fine("user", f"{found}; jobs run as this user")


def _submitters(found: str, workdir: Path) -> Finding:
    try:
        users.check_rights()
        userfolders.check_workdir(workdir.resolve())
    except ConfigError as exc:
        return wrong("user", found, str(exc))
    return fine("user", f"{found}; each job runs as its submitter")


def _groups() -> list[str]:
    return [_group(gid) for gid in sorted({os.getgid(), *os.getgroups()})]


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def driver(nvml: Any = pynvml, pci: Path = Path("/sys/bus/pci/devices")) -> Finding:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as exc:
        return _without_driver(str(exc), pci)
    try:
        version, count = nvml.nvmlSystemGetDriverVersion(), nvml.nvmlDeviceGetCount()
        found = f"NVIDIA driver {version}, {count} GPU{'' if count == 1 else 's'}"
    except nvml.NVMLError as exc:
        return wrong("driver", f"NVML answers {exc}", "look at nvidia-smi and journalctl -k")
    finally:
        nvml.nvmlShutdown()
    if not count:
        return doubtful("driver", found, "only jobs with gpus: 0 run here")
    return fine("driver", found)


def _without_driver(why: str, pci: Path) -> Finding:
    if _has_card(pci):
        return wrong(
            "driver",
            f"an NVIDIA card is there, but NVML says: {why}",
            "install the driver; after its upgrade, restart this machine",
        )
    return doubtful("driver", "no NVIDIA card is seen", "only jobs with gpus: 0 run here")


def _has_card(pci: Path) -> bool:
    for vendor in pci.glob("*/vendor"):
        try:
            kind = vendor.with_name("class").read_text()
            if vendor.read_text().strip() == NVIDIA and kind.startswith("0x03"):
                return True
        except OSError:
            continue
    return False


def devices(patterns: list[str] = CARDS) -> Iterator[Finding]:
    """The files of cards that this user may not open."""
    for path in sorted(path for pattern in patterns for path in glob.glob(pattern)):
        if not os.access(path, os.R_OK | os.W_OK):
            group = _group(os.stat(path).st_gid)
            yield wrong(
                "groups",
                f"{host.unix_user()} may not use {path}",
                f"sudo usermod -aG {group} {host.unix_user()}, then log in anew and restart the "
                "agent",
            )


def folders(chosen: Config) -> Iterator[Finding]:
    states = state.base_folder(chosen.state_dir)
    yield from _room("workdir", chosen.workdir, "--workdir")
    yield from _room("state", states, "--state-dir")
    if host.on_network(states):
        yield wrong("state", f"{states} is shared with other hosts", "name a local --state-dir")
    if not os.access(chosen.source, os.R_OK | os.X_OK):
        yield wrong("source", f"{chosen.source} cannot be read", "name another --source")


def _room(topic: str, folder: Path, option: str) -> Iterator[Finding]:
    there = folder
    while not there.exists():  # the agent will make it
        there = there.parent
    if not _writable(there):
        remedy = f"sudo chown {host.unix_user()} {there}, or name another {option}"
        yield wrong(topic, f"{folder} cannot be written", remedy)
        return
    usage, kind = shutil.disk_usage(there), host.filesystem(there)
    found = f"{folder} ({kind}), {usage.free / GIB:.1f} of {usage.total / GIB:.0f} GiB free"
    if usage.free < NO_ROOM_BYTES:
        yield wrong(topic, found, f"make room, or name another {option}")
    elif usage.free < LITTLE_ROOM_BYTES:
        yield doubtful(topic, found, "a few checkpoints will fill it")
    elif kind in host.NETWORK_FILESYSTEMS and topic == "workdir":
        yield doubtful(
            topic, found, "hosts that share it have a folder each: see that their --host-id differ"
        )
    else:
        yield fine(topic, found)


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def logout(root: Path = Path("/")) -> Finding:
    if logind.ends_processes_of(host.unix_user(), root):
        return doubtful(
            "logout",
            "logind.conf has KillUserProcesses=yes: an agent started by hand ends with its jobs "
            "when you log out",
            "lab-agent install-service",
        )
    return fine("logout", "what runs goes on when you log out")
