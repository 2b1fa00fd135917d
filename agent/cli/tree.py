"""A snapshot of a folder: which of its files belong to it, and its manifest.

In a git working tree: all files as they stand on the disk, committed or not, that .gitignore does
not leave out; and those that `.labinclude` names. Elsewhere: all files of the folder but the usual
leavings. What looks like a secret is refused unless .labinclude names it.
"""

import fnmatch
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from agent.cli import git
from agent.cli.errors import CliError
from agent.cli.statcache import StatCache
from agent.code import manifest
from agent.code.manifest import File, Manifest
from agent.files.globs import Globs

INCLUDE = ".labinclude"
SECRETS = (".env", ".env.*", "*.pem", "id_*")
NO_SECRETS = (".env.example", ".env.sample", ".env.template", "id_*.*")
LARGEST = 10
MIB = 1024 * 1024
MAX_UNTRACKED_BYTES = 32 * 1024  # of a new file that is shown whole in the diff


@dataclass(frozen=True)
class Taken:
    """A snapshot before it is sent."""

    top: Path  # all of its paths are below this
    held: Manifest

    def folder_of(self, folder: Path) -> str:
        """Where `folder` lies in it; empty: it is the top."""
        path = os.path.relpath(os.path.realpath(folder), os.path.realpath(self.top))
        return "" if path == "." else path


def take(folder: Path, caches: Path | None = None) -> Taken:
    """The snapshot of the working tree that `folder` lies in, or of the folder itself.

    Raises:
        CliError: it is too large, holds a secret, or has a name that cannot be sent.
    """
    top = git.top_of(folder)
    if top is not None:
        names, has_ignored = _names(top)
        return Taken(top, _taken(top, names, caches, **_facts(top, has_ignored=has_ignored)))
    _refuse_wide(folder)
    with git.as_repository(folder) as environ:
        names, _ = _names(folder, environ)
    return Taken(folder, _taken(folder, names, caches))


def _refuse_wide(folder: Path) -> None:
    real = os.path.realpath(folder)
    if real in ("/", os.path.realpath(os.path.expanduser("~"))):
        raise CliError(
            f"{real} is no folder of code: go to your project's folder, or run what lies on the "
            "GPU server with --code host"
        )


def _names(top: Path, environ: git.Environ = None) -> tuple[list[str], bool]:
    """Paths below it, sorted; and whether .labinclude has added to them."""
    named = git.files_of(top, environ)
    count = len(named)
    include = top / INCLUDE
    wished = include.read_text(errors="replace").splitlines() if include.is_file() else []
    if wished:
        named += git.files_matching(top, include, environ)
    names = sorted({_decoded(name) for name in named})
    _refuse_secrets(names, wished)
    return names, len(named) > count


def _decoded(name: bytes) -> str:
    try:
        path = name.decode()
    except UnicodeDecodeError:
        shown = name.decode(errors="backslashreplace")
        raise CliError(f"The name {shown} is not UTF-8: rename that file, or ignore it") from None
    if not manifest.is_path(path):
        raise CliError(f"The path {path!r} cannot be sent: shorten it, or ignore that file")
    return path


def _refuse_secrets(names: list[str], wished: list[str]) -> None:
    meant = Globs(
        [line for line in wished if line.strip() and line[0] not in "#!"], everywhere=True
    )
    found = [name for name in names if _is_secret(name) and not meant.match(name)]
    if found:
        raise CliError(
            f"{_listed(found[:3])} may hold a secret, and whoever sees the run could read it: "
            f"add the name to .gitignore (git rm --cached, if it is in git), or write it into "
            f"{INCLUDE} to send it all the same"
        )


def _is_secret(path: str) -> bool:
    name = path.rpartition("/")[2]
    return _fits(name, SECRETS) and not _fits(name, NO_SECRETS)


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _listed(names: list[str]) -> str:
    return ", ".join(names)


# --- its manifest ------------------------------------------------------------------------------


def _taken(top: Path, names: list[str], caches: Path | None, **facts: object) -> Manifest:
    found = {name: one for name in names if (one := _stat(top, name)) is not None}
    regular = {name: one for name, one in found.items() if stat.S_ISREG(one.st_mode)}
    _refuse_too_much(regular, len(found))
    cache = StatCache(top, caches)
    files = {
        name: File(_sha256(cache, top, name, one), one.st_size, bool(one.st_mode & 0o100))
        for name, one in regular.items()
    }
    links = {name: _link(top, name) for name, one in found.items() if stat.S_ISLNK(one.st_mode)}
    cache.keep()
    return Manifest(files=files, links=links, **facts)  # type: ignore[arg-type]


def _stat(top: Path, name: str) -> os.stat_result | None:
    """None: deleted in the working tree, and so not part of it."""
    try:
        return os.lstat(os.path.join(top, name))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise CliError(f"{name} cannot be read: {exc.strerror}") from exc


def _sha256(cache: StatCache, top: Path, name: str, found: os.stat_result) -> str:
    try:
        return cache.sha256_of(os.path.join(top, name), found)
    except OSError as exc:
        raise CliError(f"{name} cannot be read: {exc.strerror}") from exc


def _link(top: Path, name: str) -> str:
    target = os.readlink(os.path.join(top, name))
    try:
        target.encode()
    except UnicodeEncodeError:
        raise CliError(f"The link {name} leads to a name that is not UTF-8: rename it") from None
    return target


def _refuse_too_much(files: dict[str, os.stat_result], count: int) -> None:
    size = sum(found.st_size for found in files.values())
    if size <= manifest.MAX_BYTES and count <= manifest.MAX_FILES:
        return
    largest = sorted(files, key=lambda name: -files[name].st_size)[:LARGEST]
    named = [f"  {files[name].st_size / MIB:8.1f} MiB  {name}" for name in largest]
    raise CliError(
        f"The code has {size / MIB:.0f} MiB in {count} files, and at most "
        f"{manifest.MAX_BYTES // MIB} MiB in {manifest.MAX_FILES} are sent. Add data to "
        ".gitignore and lay it in by `links`, or run what lies on the GPU server with --code "
        "host. The largest are:\n" + "\n".join(named)
    )


# --- what git says of it -----------------------------------------------------------------------


def _facts(top: Path, *, has_ignored: bool) -> dict[str, object]:
    commit = git.text(top, "rev-parse", "--verify", "--quiet", "HEAD")
    branch = git.text(top, "rev-parse", "--abbrev-ref", "HEAD") if commit else ""
    diff = _diff(top, commit)
    return {
        "commit": commit,
        "branch": _cut(branch, manifest.MAX_WORD_CHARACTERS),
        "dirty": bool(diff) or has_ignored or not commit,
        "remote": _cut(git.remote(top), manifest.MAX_LINE_CHARACTERS),
        "diff": _cut(diff, manifest.MAX_DIFF_CHARACTERS),
    }


def _cut(text: str, limit: int) -> str:
    return text.replace("\0", "").encode(errors="replace").decode()[:limit]


def _diff(top: Path, commit: str) -> str:
    """To the commit, with files that are new in full where they are short texts."""
    if not commit:
        return ""
    try:
        changed = _changed(top)
        new = git.run(top, "ls-files", "-z", "-o", "--exclude-standard").split(b"\0")
    except git.GitFailed as exc:  # such as a filter of LFS that is not installed
        raise CliError(f"git does not compare {top} with its commit: {exc}") from exc
    for name in filter(None, new):
        if len(changed) > manifest.MAX_DIFF_CHARACTERS:
            break
        changed += _new(top, os.fsdecode(name))
    return changed


def _changed(top: Path) -> str:
    """What is in the commit and was changed since. Of a secret that was taken out of git only its
    name: the lines that went are the secret."""
    names = git.run(top, "diff", "HEAD", "--name-only", "--no-renames", "-z").split(b"\0")
    secret = [name for name in map(os.fsdecode, filter(None, names)) if _is_secret(name)]
    options = ["--no-ext-diff", "--no-textconv", "--no-color", "--submodule=short"]
    but = [f":(top,exclude,literal){name}" for name in secret]
    shown = git.run(top, "diff", "HEAD", *options, "--", ".", *but).decode(errors="replace")
    return shown + "".join(f"diff --git a/{name} b/{name}\nnot shown\n" for name in secret)


def _new(top: Path, name: str) -> str:
    """A file that is in no commit, as git would show it."""
    start = f"diff --git a/{name} b/{name}\nnew file\n"
    if os.path.islink(top / name):  # to what may be no part of the code
        return start
    try:
        with open(top / name, "rb") as file:
            content = file.read(MAX_UNTRACKED_BYTES + 1)
    except OSError:  # a repository within
        return start
    if len(content) > MAX_UNTRACKED_BYTES or b"\0" in content:
        return start
    lines = content.decode(errors="replace").splitlines()
    added = "".join(f"+{line}\n" for line in lines)
    return f"{start}--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n{added}"
