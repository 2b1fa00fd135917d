"""What git says of a working tree; nothing of it is changed."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from agent.cli.errors import CliError

#: Left out where there is no repository whose .gitignore says so.
DEFAULT_IGNORES = (
    ".git", "__pycache__", "*.pyc", ".venv", "venv", ".ipynb_checkpoints", ".mypy_cache",
    ".pytest_cache", ".ruff_cache", "node_modules", ".DS_Store",
)  # fmt: skip


#: Variables beside those of this process.
Environ = dict[str, str] | None


class GitFailed(Exception):
    """git has ended with an error; these are its last words."""


def run(folder: Path, *words: str, environ: Environ = None) -> bytes:
    """
    Raises:
        GitFailed: it said no.
        CliError: there is no git.
    """
    # quotePath: or names that are not ASCII come as numbers. LC_ALL: top_of() reads its words.
    options = ["--no-optional-locks", "-c", "core.quotePath=false", "-C", str(folder)]
    variables = {**os.environ, "LC_ALL": "C", **(environ or {})}
    try:
        done = subprocess.run(["git", *options, *words], capture_output=True, env=variables)
    except FileNotFoundError:
        raise CliError(
            "There is no git on this machine, by which lab finds your code: install it, or run "
            "what lies on the GPU server with --code host"
        ) from None
    if done.returncode != 0:
        raise GitFailed((done.stderr.decode(errors="replace").strip() or "git failed")[-500:])
    return done.stdout


def text(folder: Path, *words: str) -> str:
    """The answer in one line; empty: git has none."""
    try:
        return run(folder, *words).decode(errors="replace").strip()
    except GitFailed:
        return ""


def top_of(folder: Path) -> Path | None:
    """The top of the working tree that `folder` lies in; None: it lies in none.

    Raises:
        CliError: git will not read it, as when it belongs to somebody else.
    """
    try:
        found = run(folder, "rev-parse", "--show-toplevel")
    except GitFailed as exc:
        if "not a git repository" in str(exc) or "must be run in a work tree" in str(exc):
            return None
        raise CliError(f"git does not read {folder}: {exc}") from exc
    return Path(os.fsdecode(found.rstrip(b"\n")))


def remote(top: Path) -> str:
    """Where it is pushed to, without credentials; empty: nowhere."""
    return without_credentials(text(top, "remote", "get-url", "origin"))


def without_credentials(url: str) -> str:
    if "://" not in url:
        return url  # user@host:path names an account of ssh, and holds no secret
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    user = f"{parts.username}@" if parts.scheme == "ssh" and parts.username else ""
    return urlunsplit((parts.scheme, user + host, parts.path, "", ""))


# --- which files -------------------------------------------------------------------------------


def files_of(folder: Path, environ: Environ = None) -> list[bytes]:
    """What is staged, committed or neither, and not ignored; what lies in repositories within
    (submodules) as it stands there. Paths below `folder`, as the file system has them."""
    names = dict.fromkeys(_listed(folder, environ, "-c", "-o", "--exclude-standard"))
    found = []
    for name in names:
        path = os.path.join(os.fsencode(folder), name)
        if not os.path.isdir(path) or os.path.islink(path):
            found.append(name)
        elif os.path.exists(os.path.join(path, b".git")):
            name = name.rstrip(b"/")
            found += [name + b"/" + one for one in files_of(Path(os.fsdecode(path)))]
    return found


def files_matching(folder: Path, patterns: Path, environ: Environ = None) -> list[bytes]:
    """What a file of patterns means, as a .gitignore would, ignored or not."""
    return _listed(folder, environ, "-o", "-i", f"--exclude-from={patterns}")


def _listed(folder: Path, environ: Environ, *options: str) -> list[bytes]:
    try:
        names = run(folder, "ls-files", "-z", *options, environ=environ)
    except GitFailed as exc:
        raise CliError(f"git does not list the files of {folder}: {exc}") from exc
    return [name for name in names.split(b"\0") if name]


@contextmanager
def as_repository(folder: Path) -> Iterator[dict[str, str]]:
    """Variables by which git takes a plain folder for an empty repository, so that its .gitignore
    and the usual leavings are left out; nothing is written there. They hold within the block."""
    with tempfile.TemporaryDirectory(prefix="lab-") as elsewhere:
        run(folder, "init", "--quiet", "--bare", elsewhere)
        ignores = Path(elsewhere) / "info" / "exclude"
        ignores.parent.mkdir(exist_ok=True)
        ignores.write_text("\n".join(DEFAULT_IGNORES))
        yield {"GIT_DIR": elsewhere, "GIT_WORK_TREE": str(folder)}


def commit_of(top: Path, name: str) -> str:
    """
    Raises:
        CliError: there is no such commit here.
    """
    found = text(top, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if not re.fullmatch(r"[0-9a-f]{40,64}", found):
        raise CliError(
            f"--code {name}: this repository has no such commit. Write snapshot, host, a commit, "
            "or git:URL@COMMIT"
        )
    return found
