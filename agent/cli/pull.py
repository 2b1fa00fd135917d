"""`lab pull`: a run's files, here. What is here already is not fetched again, and a download that
was cut goes on where it was; each whole file is checked against the server's SHA-256."""

import argparse
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from agent import wire
from agent.cli import words
from agent.cli.api import Api
from agent.cli.context import Lab, Verb
from agent.cli.errors import CliError, Exit
from agent.cli.naming import find, title

BLOCK_BYTES = 1024 * 1024
TRIES = 5  # of one file, while the line is cut
PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Remote:
    """One file as the server has it."""

    name: str
    size: int
    sha256: str | None  # None: it still grows
    version: str

    @classmethod
    def of(cls, name: str, said: dict[str, Any]) -> "Remote":
        version = f"{said['attempt']}.{said['generation']}"
        digest = said["sha256"] if said["complete"] else None
        return cls(name, int(said["size"]), digest, version)


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="uid, its beginning, or project/run_003")
    add("folder", nargs="?", type=Path, metavar="DIR", help="default: ./PROJECT/")
    add("--only", action="append", default=[], metavar="GLOB",
        help="these only: '*.csv', 'run_003/**'; repeatable")  # fmt: skip


def pull(lab: Lab) -> int:
    run = _checked(find(lab.api, lab.options.run))
    folder = (lab.options.folder or Path(run["project"])).expanduser()
    status = lab.api.get(f"/api/sync/status/{quote(run['uid'])}")["data"]
    remote = _chosen(run, status["files"], lab.options.only)
    puller = Puller(lab.api, run["uid"], folder)
    missing = [one for one in remote if not puller.has(one)]
    with lab.progress.bytes(title(run), sum(one.size for one in missing)) as advance:
        for one in missing:
            puller.fetch(one, advance)
    growing = [one.name for one in remote if one.sha256 is None]
    answer = {
        "folder": str(folder),
        "files": [{"name": one.name, "size": one.size, "sha256": one.sha256} for one in remote],
        "fetched": [one.name for one in missing],
        "growing": growing,
    }
    return lab.answer(answer, lambda: _show(lab, folder, remote, missing, growing))


def _show(
    lab: Lab, folder: Path, remote: list[Remote], missing: list[Remote], growing: list[str]
) -> None:
    count, size = len(missing), words.size(sum(one.size for one in missing))
    there = len(remote) - count
    lab.out.line(
        f"{count} file{'s' if count != 1 else ''} ({size}) fetched into {folder}"
        + (f"; {there} were there already" if there else "")
    )
    if growing:
        lab.out.note(f"Still being written, so not checked: {', '.join(growing)}")


def _checked(run: dict[str, Any]) -> dict[str, Any]:
    """A name that could lead out of the folder is none of a lab server's."""
    if not (wire.is_name(run["project"]) and wire.is_name(run["run_name"])):
        raise CliError(f"The server names a run {title(run)!r}, which cannot be one")
    return run


def _chosen(run: dict[str, Any], files: dict[str, Any], only: list[str]) -> list[Remote]:
    """Those asked for; no name of a file leads out of the folder either."""
    found = [Remote.of(name, said) for name, said in sorted(files.items()) if _fits(name, only)]
    for one in found:
        if not wire.is_file_of(run["run_name"], one.name):
            raise CliError(f"The server names a file {one.name!r}, which cannot be one of a run")
    if not found:
        words_ = "has no files yet" if not files else f"has no file {' or '.join(only)}"
        raise CliError(f"{title(run)} {words_}", Exit.NOT_FOUND)
    return found


def _fits(name: str, only: list[str]) -> bool:
    if not only:
        return True
    short = name.rpartition("/")[2]
    return any(fnmatchcase(name, one) or fnmatchcase(short, one) for one in only)


class Puller:
    """Fetches files of one run into a folder."""

    def __init__(
        self, api: Api, uid: str, folder: Path, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._api = api
        self._uid = uid
        self._folder = folder
        self._sleep = sleep

    def has(self, one: Remote) -> bool:
        """Whether it is here, byte for byte."""
        path = self._folder / one.name
        try:
            if one.sha256 is None or path.stat().st_size != one.size:
                return False
            with path.open("rb") as file:
                return _sha256(file) == one.sha256
        except OSError:
            return False

    def fetch(self, one: Remote, advance: Callable[[int], None]) -> None:
        """
        Raises:
            CliError: it cannot be written, or is not what the server said; or the line stays cut.
        """
        path = self._folder / one.name
        part = path.with_name(f".{path.name}.{one.version}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("ab+") as file:
                advance(file.tell())
                self._filled(one, file, advance)
                self._check(one, file)
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as exc:
            raise CliError(f"{path} cannot be written: {exc.strerror}") from None

    def _filled(self, one: Remote, file: BinaryIO, advance: Callable[[int], None]) -> None:
        for left in reversed(range(TRIES)):
            try:
                for block in self._rest(one, file.tell()):
                    file.write(block)
                    advance(len(block))
                return
            except CliError as exc:
                file.flush()
                if exc.exit_code != Exit.UNREACHABLE or not left:
                    raise CliError(
                        f"{exc}. The same command goes on with {one.name} where it was cut",
                        exc.exit_code,
                    ) from None
                self._sleep(PAUSE_SECONDS)

    def _rest(self, one: Remote, offset: int) -> Iterator[bytes]:
        """What is missing of it, in blocks."""
        if offset >= one.size:
            return
        path = f"/api/sync/file/{quote(self._uid)}/{quote(one.name)}"
        headers = {"Range": f"bytes={offset}-{one.size - 1}", "If-Range": f'"{one.version}"'}
        answer = self._api.request("GET", path, headers=headers, stream=True)
        if answer.status_code != 206:
            answer.close()
            raise CliError(f"{one.name} was written anew meanwhile: pull once more", Exit.FAILED)
        yield from self._api.blocks(answer)

    def _check(self, one: Remote, file: BinaryIO) -> None:
        file.flush()
        file.seek(0)
        if one.sha256 is not None and _sha256(file) != one.sha256:
            os.unlink(file.name)
            words_ = "what came is not what the server has (SHA-256 differs): pull once more"
            raise CliError(f"{one.name}: {words_}", Exit.FAILED)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


VERBS = [Verb("pull", "fetch a run's files", _arguments, pull)]
