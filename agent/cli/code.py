"""Which code a submitted job runs: `lab submit --code`.

snapshot           the working tree as it stands: committed, staged, neither (the default)
host               what lies in the working directory on the GPU server
COMMIT             a commit of this repository, fetched by the GPU server from `origin`
git:URL@COMMIT     a commit of another repository, likewise
"""

import argparse
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.cli import git, sending, tree
from agent.cli.errors import CliError
from agent.cli.progress import Progress
from agent.cli.sending import Server
from agent.cli.tree import Taken
from agent.code import manifest

_GIT = re.compile(r"git:(?P<url>.+)@(?P<commit>[0-9a-f]{7,64})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--code",
        default="snapshot",
        metavar="WHICH",
        help="the code that runs: snapshot (the default: this folder's repository as it stands, "
        "or this folder), host (what lies on the GPU server), COMMIT, or git:URL@COMMIT",
    )


@dataclass(frozen=True)
class Chosen:
    """The code of a job, before anything is sent."""

    #: What is to stand in the job's `source`; None: it runs what lies on the GPU server.
    source: dict[str, Any] | None
    taken: Taken | None = None  # which the server must have then


def chosen(arguments: argparse.Namespace, folder: Path) -> Chosen:
    """The command will run where `folder` is in the code. Asks no server.

    Raises:
        CliError: it cannot be sent as it is; the message says what to do.
    """
    which = arguments.code
    if which == "host":
        return Chosen(None)
    if which == "snapshot":
        taken = tree.take(folder)
        sha256 = manifest.sha256_of(taken.held.dump())
        return Chosen(_source(taken.folder_of(folder), kind="snapshot", sha256=sha256), taken)
    return Chosen(_elsewhere(which) if which.startswith("git:") else _here(which, folder))


def source_of(
    arguments: argparse.Namespace, folder: Path, api: Server, progress: Progress
) -> dict[str, Any] | None:
    """As chosen(), and of a snapshot the server has all when this returns."""
    found = chosen(arguments, folder)
    if found.taken is not None:
        sending.send(found.taken, api, progress)
    return found.source


def _elsewhere(which: str) -> dict[str, Any]:
    named = _GIT.fullmatch(which)
    if named is None:
        raise CliError(
            f"--code {which}: write git:URL@COMMIT with a commit's hash, such as "
            "git:https://git.example.org/lab/digits@3fd1525. A branch is another commit tomorrow"
        )
    return _source("", kind="git", url=named["url"], commit=named["commit"])


def _here(which: str, folder: Path) -> dict[str, Any]:
    top = git.top_of(folder)
    if top is None:
        raise CliError(
            f"--code {which}: {folder} lies in no git repository. Write snapshot, host, or "
            "git:URL@COMMIT"
        )
    commit = git.commit_of(top, which)
    url = git.remote(top)
    if not url:
        raise CliError(
            f"--code {which}: this repository has no remote `origin`, from which a GPU server "
            "could fetch the commit. Leave --code out to send the code itself"
        )
    within = os.path.relpath(os.path.realpath(folder), os.path.realpath(top))
    return _source("" if within == "." else within, kind="git", url=url, commit=commit)


def _source(folder: str, **said: str) -> dict[str, Any]:
    return {**said, "folder": folder} if folder else said
