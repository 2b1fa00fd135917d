"""Which packages an environment has, read from its folders: nothing is imported or run."""

import re
from pathlib import Path

MAX_PACKAGES = 1000
MAX_CHARACTERS = 32 * 1024  # of all of them: an event has 64 KiB
_FOLDERS = ("site-packages", "dist-packages")
_DIST_INFO = re.compile(r"(?P<name>[A-Za-z0-9._]+)-(?P<version>[A-Za-z0-9.!+_]+)\.dist-info")


def installed(prefix: Path) -> list[str]:
    """`name==version` of each, in order, as `pip freeze` has it. What stands in folders that
    cannot be read, or is above the limits, is left out."""
    found = {}
    for folder in _folders(prefix):
        for path in folder.glob("*.dist-info"):
            if match := _DIST_INFO.fullmatch(path.name):
                name = re.sub(r"[-_.]+", "-", match["name"]).lower()
                found[name] = match["version"].replace("_", "-")
    return _bounded([f"{name}=={found[name]}" for name in sorted(found)])


def _folders(prefix: Path) -> list[Path]:
    patterns = [f"{lib}/python3*/{name}" for lib in ("lib", "lib64") for name in _FOLDERS]
    try:
        return [folder for pattern in patterns for folder in prefix.glob(pattern)]
    except OSError:
        return []


def _bounded(lines: list[str]) -> list[str]:
    kept, left = [], MAX_CHARACTERS
    for line in lines[:MAX_PACKAGES]:
        left -= len(line) + 4
        if left < 0:
            break
        kept.append(line)
    return kept
