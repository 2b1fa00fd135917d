"""Which files a run has, and how they are opened.

    {run_dir}/{run_name}.*      its files
    {run_dir}/{run_name}/**     its artifacts
    {working directory}/…       what its outputs are (agent.files.outputs): artifacts as well

A link is followed only to a file in `run_dir`: whoever may write there must not get the agent to
send what it alone can read. In the folder of another Unix user the agent has, moreover, that
user's rights only (agent.files.userfolders).

What is called as temporary files are, or hidden, may be renamed at any moment, and waits until the
job has ended, and so does what lies in a folder that is called so. Then it is what the job left,
and is sent like all else: what stood here alone would be lost with the host, and nobody would know
of it. A hidden folder that the job names in its outputs does not wait.
"""

import errno
import logging
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from agent import wire
from agent.files.globs import Globs
from agent.files.masks import Masks
from agent.files.outputs import Outputs
from agent.files.regular import Mark, is_in, real_path_of
from agent.wire import LeftOut, WhyLeftOut

logger = logging.getLogger(__name__)

MAX_LEFT_OUT = 64  # are named
#: What programs keep for themselves wherever they work, and is no result of a job: an editor, a
#: file system, a notebook, Python; what can be had anew, and may be tens of GB; and a repository,
#: whose code is sent otherwise (protocol §8).
_NEVER = re.compile(
    r"\.(.*\.sw[a-p]|nfs[0-9a-f]+|fuse_hidden[0-9a-f]+|ipynb_checkpoints|git|cache|venv)"
    r"|__pycache__",
    re.DOTALL,
)


def _own_rights(folder: Path) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass
class RunFiles:
    """The files of one attempt."""

    attempt_id: str
    experiment_uid: str
    project: str
    run_name: str
    number: int
    run_dir: Path
    exited: bool = False  # nothing changes any more
    rights_in: Callable[[Path], AbstractContextManager[None]] = _own_rights
    #: Name → generation as the server had it when it was asked; None: it was not yet.
    on_server: defaultdict[str, int] | None = None
    policy: wire.SyncPolicy = field(default_factory=wire.SyncPolicy)
    ignore: Globs = field(default_factory=lambda: Globs(()))  # of artifacts
    outputs: Outputs | None = None
    secret_names: tuple[str, ...] = ()
    #: Of its secrets, once somebody has asked for them; to be had by masks_by().
    masks: Masks | None = None
    #: What there is that is not sent, by the last look.
    left_out: list[LeftOut] = field(default_factory=list)
    #: Folders that could not be read then, each with why: what was in them is not gone.
    closed: dict[str, OSError] = field(default_factory=dict)
    _odd: dict[str, WhyLeftOut] = field(default_factory=dict)
    #: Name → where it lies and the real folder above it, where that is not `run_dir / name`.
    _places: dict[str, "_Place"] = field(default_factory=dict)
    _folders: set[str] = field(default_factory=set)  # in which the files of the last look lie
    _complained: set[str] = field(default_factory=set)

    def look(self) -> dict[str, Mark]:
        """Name → mark of each file there is now; see also `closed`.

        Raises:
            OSError: the folder cannot be read just now. One that is gone has no files.
        """
        found: dict[str, Mark] = {}
        self._odd, self.closed, self._folders = {}, {}, set()
        places: dict[str, _Place] = {}
        with self.rights_in(self.run_dir):
            self._find(found, places)
        if self.outputs is not None:
            self._add_outputs(self.outputs, found, places)
        self._places = places
        for name, why in self._odd.items():
            self._complain(name, _WHY[why])
        odd = [(part, WhyLeftOut.CLOSED) for part in self.closed]
        odd = [*odd, *self._odd.items()][:MAX_LEFT_OUT]
        self.left_out = [LeftOut(shown(name), why) for name, why in odd]
        return found

    def glance(self, names: Iterable[str]) -> dict[str, Mark]:
        """Of these, as the last look found them, those that are there: their marks by now."""
        found = {}
        with self.rights_in(self.run_dir):
            for name in names:
                path, _root = self._places.get(name) or (self.run_dir / name, "")
                with suppress(OSError):
                    result = os.stat(path)
                    if stat.S_ISREG(result.st_mode):
                        found[name] = Mark.of(result)
        return found

    def _find(self, found: dict[str, Mark], places: "_Places") -> None:
        prefix = f"{self.run_name}."
        for entry in _entries(self.run_dir):
            if entry.name == self.run_name and entry.is_dir(follow_symlinks=False):
                self._look_into(found, places)
            elif entry.name.startswith(prefix) and not entry.is_dir(follow_symlinks=False):
                self._note(entry.name, entry, found, places)

    def _add_outputs(self, outputs: "Outputs", found: dict[str, Mark], places: "_Places") -> None:
        for path, (place, mark) in outputs.look(exited=self.exited).items():
            name = self._sent_as(f"{self.run_name}/{path}", found)
            if name is not None:
                found[name], places[name] = mark, (place, outputs.root)
        for path in outputs.links:
            self._odd[f"{self.run_name}/{path}"] = WhyLeftOut.LINK
        if outputs.cut:
            self._odd[str(outputs.directory)] = WhyLeftOut.TOO_MANY

    def masks_by(self, ask: Callable[[str], dict[str, str]]) -> Masks:
        """What is to be masked in its text files.

        Args:
            ask: by the attempt's id, for what it was given. What that raises is raised: before
                it is known, nothing may be sent.
        """
        if self.masks is None:
            self.masks = Masks(ask(self.attempt_id).values())
        return self.masks

    def open(self, name: str, *, to_write: bool = False) -> BinaryIO:
        """For reading, or for changing what there is, also where its script has closed it (0444).

        Raises:
            FileNotFoundError: it is gone, no regular file, or not in the run's folder.
            PermissionError: it is somebody else's.
        """
        path, root = self._places.get(name) or (self.run_dir / name, self._root)
        # O_NONBLOCK: a FIFO would wait for its writer.
        with self.rights_in(self.run_dir):
            how = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = os.open(path, how)
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if not regular or not is_in(root, real_path_of(descriptor, path)):
            os.close(descriptor)
            raise FileNotFoundError(f"{path} is no file of this run")
        if to_write:
            with open(descriptor, "rb") as there, self.rights_in(self.run_dir):
                descriptor = _opened_to_write(there.fileno())
        return open(descriptor, "r+b" if to_write else "rb", buffering=0)

    def is_output(self, name: str) -> bool:
        """Whether it lies in the working directory, which is not ours to tidy."""
        place = self._places.get(name)
        return place is not None and place[1] != self._root

    def bring_home(self, name: str) -> None:
        """Move an output into the run's folder, where its name says that it lies.

        Raises:
            OSError: it cannot be moved. One that is gone is left at that.
        """
        path, target = self._places[name][0], self.run_dir / name
        with self.rights_in(self.run_dir), suppress(FileNotFoundError):
            _move(Path(os.path.realpath(path)), target)

    def bring_rest_home(self, arrived: set[str]) -> None:
        """All outputs but these: those as well that nobody ever took for files of the run, since
        there are too many of them, or no name for them at the server."""
        if self.outputs is None:
            return
        known = {self._places[name][0] for name in arrived if self.is_output(name)}
        for path in self.outputs.all_new():
            place, target = self.outputs.directory / path, self.run_dir / self.run_name / path
            if place not in known:
                with self.rights_in(self.run_dir), suppress(FileNotFoundError):
                    _move(place, target)

    def is_closed(self, name: str) -> bool:
        """Whether it lies in a folder that could not be read at the last look."""
        return any(name.startswith(f"{part}/") for part in self.closed)

    def _entries_of(self, part: str) -> "list[os.DirEntry[str]]":
        """One that a container made for root alone keeps nothing else from being sent."""
        try:
            return list(_entries(self.run_dir / part))
        except OSError as exc:
            if exc.errno == errno.ENAMETOOLONG:  # so are the names of all that is in it
                self._odd[part] = WhyLeftOut.NAME
            else:
                self.closed[part] = exc
            return []

    def _look_into(self, found: dict[str, Mark], places: "_Places") -> None:
        below = [(self.run_name, self.ignore.start)]
        while below:
            part, ignored = below.pop()
            for entry in self._entries_of(part):
                off = self.ignore.step(ignored, entry.name)
                if self._is_passed_over(entry.name) or self.ignore.matched(off):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below.append((f"{part}/{entry.name}", off))
                else:
                    self._note(f"{part}/{entry.name}", entry, found, places)

    def _is_passed_over(self, name: str) -> bool:
        is_hidden = name.startswith(".")
        return _NEVER.fullmatch(name) is not None or (is_hidden and not self.exited)

    def _note(
        self,
        path: str,
        entry: "os.DirEntry[str]",
        found: dict[str, Mark],
        places: "_Places",
    ) -> None:
        name = self._sent_as(path, found)
        if name is None:
            return
        try:
            result = entry.stat()
            if entry.is_symlink() and not is_in(self._root, os.path.realpath(entry.path)):
                self._odd[name] = WhyLeftOut.LINK
                return
        except OSError:
            return  # gone since, or a link to nothing
        if stat.S_ISREG(result.st_mode):
            found[name] = Mark.of(result)
            if name != path:
                places[name] = self.run_dir / path, self._root

    def _sent_as(self, path: str, found: dict[str, Mark]) -> str | None:
        """What the server calls it; None: it is not sent. A file system may hold two names that
        are one to people (é, and e with an accent): the first that is met is sent. So is it
        where an output has the name of a folder in the run's own, or the reverse."""
        if not self.exited and _is_temporary(path):
            return None
        name = unicodedata.normalize("NFC", path)
        folders = _folders_of(name)
        # Of the two the few folders are iterated over, not all that was found.
        taken = name in found or name in self._folders or not found.keys().isdisjoint(folders)
        if taken or not wire.is_file_of(self.run_name, name):
            self._odd[path] = WhyLeftOut.NAME
            return None
        self._folders |= folders
        return name

    @property
    def _root(self) -> str:
        return os.path.realpath(self.run_dir)

    def _complain(self, name: str, why: str) -> None:
        if name not in self._complained:
            self._complained.add(name)
            logger.warning("%s: %s is not sent: %s", self.project, shown(name), why)


def _entries(folder: Path) -> "Iterator[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return


def _opened_to_write(descriptor: int) -> int:
    """The same file once more. Whose it is may give and take that right: its mode stays."""
    again = f"/proc/self/fd/{descriptor}"  # whatever has its name by now
    try:
        return os.open(again, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        os.fchmod(descriptor, mode | stat.S_IWUSR)
        try:
            return os.open(again, os.O_RDWR | os.O_CLOEXEC)
        finally:
            os.fchmod(descriptor, mode)


_Place = tuple[Path, str]
_Places = dict[str, _Place]
_WHY = {
    WhyLeftOut.NAME: "no file of a run may be called so, or another one is",
    WhyLeftOut.LINK: "it is a link out of its folder",
    WhyLeftOut.TOO_MANY: "it holds more files than are looked at: name fewer in `outputs`",
}


def _is_temporary(path: str) -> bool:
    """Whether it, or a folder that it lies in below the run's own, may be renamed any moment."""
    _own, _slash, below = path.partition("/")
    return any(part.endswith(wire.UNFINISHED) for part in (below or path).split("/"))


def finished_name(name: str) -> str:
    """What it was to be called, as far as its name tells."""
    for suffix in wire.UNFINISHED:
        name = name.removesuffix(suffix)
    return name


def _folders_of(name: str) -> set[str]:
    parts = name.split("/")
    return {"/".join(parts[:count]) for count in range(1, len(parts))}


def shown(name: str) -> str:
    """Of any bytes that a file system may take for a name: what can be written down."""
    text = os.fsencode(name).decode(errors="replace")
    return text.replace("\0", "")[: wire.MAX_PATH_CHARACTERS]


def _move(path: Path, target: Path) -> None:
    """Nothing is lost that has the target's name already."""
    os.makedirs(target.parent, exist_ok=True)
    while os.path.lexists(target):
        target = target.with_name(f"{target.name}.output")
    os.rename(path, target)
