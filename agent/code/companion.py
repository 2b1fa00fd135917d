"""`labrun`, laid where a job's Python finds it (docs/labrun.md).

In a folder of the run's own project that holds this one file: nothing else of ours can be imported
from there. It is the last of the job's PYTHONPATH, so a file of that name in the script's own
folder, or on a PYTHONPATH of the job's, comes first.
"""

import logging
import os
import secrets
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from agent.files.regular import open_regular

logger = logging.getLogger(__name__)

FOLDER = ".labrun"
_SOURCE = Path(__file__).parents[1] / "cli" / "labrun.py"


def lay(run_dir: Path, rights: AbstractContextManager[None]) -> None:
    """Have it in `run_dir`, of this agent's version. `rights`: whose it is to be.

    A job that cannot have it runs all the same, and one that imports it says so in its log.
    """
    folder = run_dir / FOLDER
    try:
        content = _SOURCE.read_bytes()
        with rights:
            folder.mkdir(exist_ok=True)
            if _read(folder / _SOURCE.name) != content:
                _replace(folder / _SOURCE.name, content)
    except OSError as exc:
        logger.warning("%s cannot be written: %s", folder, exc)


def python_path(run_dir: Path, environment: Mapping[str, str]) -> str:
    """The job's PYTHONPATH, which is its own and then our folder."""
    own = environment.get("PYTHONPATH", "")
    return f"{own}{os.pathsep}{run_dir / FOLDER}" if own else str(run_dir / FOLDER)


def _read(path: Path) -> bytes | None:
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError:
        return None


def _replace(path: Path, content: bytes) -> None:
    """By rename, from a name that no other job that starts now takes."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
            file.write(content)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
