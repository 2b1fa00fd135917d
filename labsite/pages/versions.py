"""What differs between the GPU servers of a lab that should be alike."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _

from devices.models import Device
from labsite.zipapps import AGENT

#: What a device tells of itself -> what people call it.
NAMES = {
    "agent": _("agent"),
    "driver": _("GPU driver"),
    "cuda": "CUDA",
    "torch": "PyTorch",
    "python": "Python",
    "commit": _("code"),
}
#: Those that are worth a person's time by themselves.
ALARMING = ("agent", "driver")
COMMIT_CHARACTERS = 10


@dataclass(frozen=True)
class Version:
    """`usual`: what most others have, where this is another; `newer`: the agent that this server
    hands out, where this one is older; else empty."""

    name: str
    label: str
    value: str
    usual: str = ""
    newer: str = ""


def told_by(device: Device) -> dict[str, str]:
    commit = _code_of(device.source or {})
    told = {name: (device.versions or {}).get(name) or "" for name in NAMES}
    return told | {"commit": commit}


def _code_of(source: dict[str, Any]) -> str:
    """Two that have the same commit differ all the same where something in it was changed."""
    commit = (source.get("commit") or "")[:COMMIT_CHARACTERS]
    changed = f"+{source['source_hash'][:4]}" if source.get("dirty") else ""
    return f"{commit}{changed}"


def usual_of(devices: Iterable[Device]) -> dict[str, str]:
    """Of each name what more than half of those say that say anything; where there is that."""
    found: dict[str, Counter[str]] = {name: Counter() for name in NAMES}
    for device in devices:
        for name, value in told_by(device).items():
            found[name][_alike(name, value)] += bool(value)
    usual = {}
    for name, counted in found.items():
        [(value, count)] = counted.most_common(1) or [("", 0)]
        if 2 * count > counted.total() and count > 1:
            usual[name] = value
    return usual


def versions_of(device: Device, usual: dict[str, str]) -> list[Version]:
    made = []
    for name, value in told_by(device).items():
        other = usual.get(name, "")
        differs = bool(value and other and _alike(name, value) != other)
        newer = AGENT.version if name == "agent" and has_older_agent(device) else ""
        made.append(Version(name, str(NAMES[name]), value, other if differs else "", newer))
    return made


def has_older_agent(device: Device) -> bool:
    """Than the one that this server hands out: of an earlier version; or, of two that were both
    handed out and call themselves alike, another build."""
    release, _, build = told_by(device)["agent"].partition("+")
    our_release, _, our_build = AGENT.version.partition("+")
    if release != our_release:
        return bool(_numbers(release)) and _numbers(release) < _numbers(our_release)
    return bool(build) and build != our_build


def _numbers(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", release)]


def _alike(name: str, value: str) -> str:
    """Agents that came as a file name their build as well, installed ones do not."""
    return value.partition("+")[0] if name == "agent" else value


def other_code(devices: Sequence[Device]) -> dict[int, Version]:
    """By its key: of each whose code is not that of most others, which it has. What is queued on
    pages runs that."""
    usual = usual_of(devices)
    found = {}
    for device in devices:
        [code] = [one for one in versions_of(device, usual) if one.name == "commit"]
        if code.usual:
            found[device.pk] = code
    return found


def skewed(devices: Sequence[Device]) -> list[tuple[Device, list[Version]]]:
    """Those whose agent or driver is not that of most others, each with what differs."""
    usual = usual_of(devices)
    found: list[tuple[Device, list[Any]]] = []
    for device in devices:
        odd = [one for one in versions_of(device, usual) if one.usual and one.name in ALARMING]
        if odd:
            found.append((device, odd))
    return found
