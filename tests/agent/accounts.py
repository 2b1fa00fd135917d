"""Unix accounts of this host that are made for a test, and removed after it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("useradd") is None,
    reason="only root, with useradd, can make accounts and become them",
)


@contextmanager
def accounts(homes: Path, *names: str) -> Iterator[list[str]]:
    """Accounts of people, each with a home, a group of its own, and the group `{first}-lab`."""
    made = [f"lab{os.getpid()}{name}" for name in names]
    shared = f"{made[0]}-lab"
    _run("groupadd", shared)
    try:
        for name in made:
            _run(
                "useradd", "-m", "-U", "-G", shared, "-d", str(homes / name), "-s", "/bin/sh", name
            )
        yield made
    finally:
        for name in made:
            _run("userdel", name)
        _run("groupdel", shared)


def as_user(name: str, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as somebody else would from their own login."""
    return subprocess.run(
        command, user=name, group=name, extra_groups=[], cwd="/", capture_output=True, text=True
    )


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
