"""`python: uv`: the command runs through `uv run --frozen` of the working directory's uv.lock.

The environment is one for each lock, kept from run to run. It is made by uv itself, within the
job: what uv says of it stands in the run's log.

Not so where the lock installs what lies in the folder itself (a project with a build system, a
member of a workspace, a wheel named by its path): that is installed by its path, so another run in
another folder would change what this one imports, and which code that is.
"""

import hashlib
import os
import re
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from agent.code.git import PROXIES
from agent.errors import StartFailed
from agent.interpreters import Interpreter
from agent.lacks import Lacking
from agent.users import User
from agent.wire import AttemptOrder, Lack

NAME = "uv"
#: Beside the environments of the agent's own user: what uv has fetched for them.
FETCHED = "fetched"
LOCK = "uv.lock"
#: Where uv's own installer puts it, which is not on the PATH of services.
FOLDERS = (".local/bin", ".cargo/bin")
#: By which uv knows a lab's own certificate authority.
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
#: uv locks a folder's project while it makes its environment, and here runs in many folders share
#: one: the first makes it, and the others wait for it. Where there is no flock(1), as on macOS,
#: those that begin in the same moment are left to uv.
_ONE_BY_ONE = """\
uv=$1; shift
command -v flock >/dev/null || exec "$uv" run --frozen -- "$@"
mkdir -p "${UV_PROJECT_ENVIRONMENT%/*}" || exit
(
    flock -n 9 || { echo "Another run makes this environment; this one waits for it."; flock 9; }
    exec "$uv" run --frozen -- true
) 9>"$UV_PROJECT_ENVIRONMENT.lock" || exit
exec "$uv" run --frozen --no-sync -- "$@"
"""
_OWN_CODE = re.compile(rb"^source = \{ (editable|directory|path) = ", re.MULTILINE)


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


def variables(environ: Mapping[str, str], environments: Path | None, user: User) -> dict[str, str]:
    """What uv is told unless the job says otherwise: the way out of a lab's network, which the
    agent has, and where to keep what it fetches (of another user: in that user's home)."""
    way_out = {name: environ[name] for name in (*PROXIES, *CERTIFICATES) if name in environ}
    if environments is None or not user.is_own:
        return way_out
    return {**way_out, "UV_CACHE_DIR": str(environments / FETCHED)}


def kept(prefix: Path, directory: Path, environ: Mapping[str, str]) -> list[Path]:
    """What outlives a run with this environment: it, and what was fetched for it."""
    if prefix.parent == directory:
        return []  # of one attempt's folder, with which it goes
    fetched = prefix.parent / FETCHED
    return [prefix, *([fetched] if environ.get("UV_CACHE_DIR") == str(fetched) else [])]


def through(order: AttemptOrder, arguments: list[str], search_path: str, user: User) -> list[str]:
    """The command, run by uv.

    Raises:
        Lacking: this host has no uv; the server gives the job to another, until it has.
    """
    places = [search_path, *(str(user.home / folder) for folder in FOLDERS)]
    within = os.pathsep.join(places)
    found = shutil.which(NAME, path=within)
    if found is None:
        raise Lacking(
            f"`python: uv` needs uv, and {user.name!r} has none on this host: install it there "
            "(https://docs.astral.sh/uv/), or name another `python`. Another host is looked for",
            [Lack(NAME, order.run_as or "", order.python or "")],
            within,
        )
    return ["/bin/sh", "-c", _ONE_BY_ONE, NAME, found, *arguments]
