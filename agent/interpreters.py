"""Finding the Python that a job wants, without running it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.errors import StartFailed
from agent.users import User

CONDA_FOLDERS = ["miniconda3", "anaconda3", "miniforge3", "mambaforge", "micromamba", ".conda"]
CONDA_ROOTS = ["/opt/conda", "/opt/miniconda3", "/opt/anaconda3", "/opt/miniforge3"]


@dataclass(frozen=True)
class Interpreter:
    """Where a Python lives and the variables that activate it."""

    prefix: Path
    variables: dict[str, str]  # without PATH

    @property
    def bin(self) -> Path:
        return self.prefix / "bin"

    def python_version(self) -> str | None:
        match = re.search(r"^version(?:_info)?\s*=\s*(\S+)", self._text("pyvenv.cfg"), re.M)
        if match:
            return match[1]
        meta = sorted(self.prefix.glob("conda-meta/python-[0-9]*.json"))
        return meta[-1].name.split("-")[1] if meta else None

    def torch_version(self) -> str | None:
        """As its files say: importing it would take seconds."""
        for path in self.prefix.glob("lib/python3*/site-packages/torch/version.py"):
            match = re.search(r"__version__\s*=\s*['\"]([^'\"]+)", self._text(str(path)))
            if match:
                return match[1]
        return None

    def torch_cuda(self) -> str | None:
        """Which CUDA its torch was built for; None: none, or there is no torch."""
        for path in self.prefix.glob("lib/python3*/site-packages/torch/version.py"):
            match = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)", self._text(str(path)), re.M)
            if match:
                return match[1]
        return None

    def _text(self, name: str) -> str:
        try:
            return (self.prefix / name).read_text()
        except OSError:
            return ""


def find(python: str, environ: Mapping[str, str], directory: Path, user: User) -> Interpreter:
    """The interpreter that an order's `python` names: a venv's folder or a conda environment.

    `environ` is the agent's own, searched for CONDA_EXE and the like; `directory` is where the
    command runs, which a path such as ./.venv is relative to; `user` runs it.

    Raises:
        StartFailed: there is no such thing on this host, or none that the user can reach.
    """
    if "/" in python or python.startswith("~"):
        return _venv(directory / _expand(python, user), user)
    for root in _conda_roots(environ, user):
        prefix = root if python == "base" else root / "envs" / python
        if _is_there(prefix):
            return Interpreter(prefix, {"CONDA_PREFIX": str(prefix), "CONDA_DEFAULT_ENV": python})
    raise StartFailed(
        f"There is no conda environment named {python!r} {_where(user)}: make it there "
        f"(conda create -n {python} …), or name a venv by its folder, such as ~/venvs/{python}"
    )


def _venv(folder: Path, user: User) -> Interpreter:
    if not _is_there(folder):
        raise StartFailed(
            f"There is no Python environment in {folder} {_where(user)}: make it there "
            f"(python3 -m venv {folder}), or correct `python`"
        )
    if os.path.isdir(folder / "conda-meta"):
        return Interpreter(folder, {"CONDA_PREFIX": str(folder)})
    return Interpreter(folder, {"VIRTUAL_ENV": str(folder)})


def _is_there(prefix: Path) -> bool:
    return os.path.exists(prefix / "bin" / "python")  # also False for what may not be looked at


def _where(user: User) -> str:
    return "on this host" if user.is_own else f"on this host that {user.name!r} can reach"


def _expand(text: str, user: User) -> Path:
    """`~` is the home of the user who runs the job, whatever HOME says."""
    return user.home / text[2:] if text.startswith("~/") else Path(text)


def _conda_roots(environ: Mapping[str, str], user: User) -> list[Path]:
    roots = [Path(root) for root in CONDA_ROOTS]
    roots[:0] = [user.home / folder for folder in CONDA_FOLDERS]
    if exe := environ.get("CONDA_EXE"):
        roots.insert(0, Path(exe).parent.parent)
    for name in ("CONDA_ROOT", "MAMBA_ROOT_PREFIX"):
        if root := environ.get(name):
            roots.insert(0, Path(root))
    return roots + _elsewhere(user)


def _elsewhere(user: User) -> list[Path]:
    """Roots of environments that conda itself has noted for this user."""
    try:
        lines = (user.home / ".conda" / "environments.txt").read_text().splitlines()
    except OSError:
        return []
    prefixes = [Path(line.strip()) for line in lines if line.strip()]
    return [p.parent.parent if p.parent.name == "envs" else p for p in prefixes]


def own_path(environ: Mapping[str, str], prefix: str, base_prefix: str) -> str:
    """The agent's PATH without the venv that the agent itself runs in."""
    hidden = {os.path.join(prefix, "bin")} if prefix != base_prefix else set()
    if venv := environ.get("VIRTUAL_ENV"):
        hidden.add(os.path.join(venv, "bin"))
    parts = environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(part for part in parts if part and part not in hidden) or os.defpath
