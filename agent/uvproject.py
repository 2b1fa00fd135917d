"""`python: uv`: the command runs through `uv run --frozen` of the working directory's uv.lock.

The environment is one for each lock, kept from run to run. It is made by uv itself, within the
job: what uv says of it stands in the run's log.

Not so where the lock installs code of the folder itself (a project with a build system, a member
of a workspace): that is installed by its path, so another run in another folder would change what
this one imports, and which code that is.
"""

import hashlib
import os
import re
import shutil
import socket
from pathlib import Path

from agent.errors import StartFailed
from agent.interpreters import Interpreter
from agent.users import User

NAME = "uv"
LOCK = "uv.lock"
#: Where uv's own installer puts it, which is not on the PATH of services.
FOLDERS = (".local/bin", ".cargo/bin")
_OWN_CODE = re.compile(rb"^source = \{ (editable|directory) = ", re.MULTILINE)


def interpreter(
    directory: Path, environments: Path | None, user: User, *, is_laid: bool = False
) -> Interpreter:
    """The environment of the project in `directory`, which may still have to be made.

    Args:
        environments: where the agent's own user keeps them; other users do so in their home.
        is_laid: `directory` is one attempt's, and goes with it.

    Raises:
        StartFailed: there is no lock to go by.
    """
    try:
        lock = (directory / LOCK).read_bytes()
        digest = hashlib.sha256(lock + (directory / "pyproject.toml").read_bytes())
    except OSError as exc:
        raise StartFailed(
            f"`python: uv` runs what {directory / LOCK} locks, and that cannot be read here "
            f"({exc.strerror}): make it with `uv lock`, beside its pyproject.toml"
        ) from exc
    if _OWN_CODE.search(lock):
        if is_laid:
            return _made_in(directory / ".venv")
        digest.update(os.fsencode(os.path.realpath(directory)))
    folder = environments if environments is not None and user.is_own else _of_home(user)
    return _made_in(folder / digest.hexdigest()[:16])


def _made_in(prefix: Path) -> Interpreter:
    return Interpreter(prefix, {"UV_PROJECT_ENVIRONMENT": str(prefix), "UV_NO_PROGRESS": "1"})


def _of_home(user: User) -> Path:
    """Homes are often shared by hosts, and environments are not."""
    return user.home / ".cache" / "lab-agent" / f"uv-{socket.gethostname()}"


def through(arguments: list[str], search_path: str, user: User) -> list[str]:
    """The command, run by uv.

    Raises:
        StartFailed: this host has no uv.
    """
    places = [search_path, *(str(user.home / folder) for folder in FOLDERS)]
    found = shutil.which(NAME, path=os.pathsep.join(places))
    if found is None:
        raise StartFailed(
            f"`python: uv` needs uv, and {user.name!r} has none on this host: install it there "
            "(https://docs.astral.sh/uv/), or name another `python`"
        )
    return [found, "run", "--frozen", "--", *arguments]
