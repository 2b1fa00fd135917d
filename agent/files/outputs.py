"""What a job's libraries write into its working directory: `lightning_logs/**`, `runs/**`.

That folder is the researcher's: other jobs work in it, and earlier ones left files there. An
attempt's are those that were not there when it started, or have changed since. No clock is asked
for that, but where there was too much to note. Nothing is ever written or deleted there.
"""

import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from agent.files.globs import Globs
from agent.files.regular import Mark, is_in
from agent.wire import AttemptOrder

#: Entries of a walk through the folder: what comes after so many is not found, and said to be so.
MAX_ENTRIES = 20_000
FILES_A_LOOK = 1_000  # some 10 ms; looks follow each other each half second
MAX_FILES = 2_000  # of one attempt
BEFORE, AFTER = "outputs_before.json", "outputs_after.json"


@dataclass
class Outputs:
    """Those of one attempt."""

    directory: Path
    patterns: Globs
    ignore: Globs
    notes: Path  # a folder of the attempt's own
    leave: Path | None = None  # what lies below this is sent otherwise
    #: Whose rights that folder is looked at with; the notes are the agent's.
    rights: Callable[[], AbstractContextManager[None]] = nullcontext
    #: All of the folder is searched at each look, and nothing is noted: for whoever only asks.
    at_once: bool = False
    cut: bool = False  # there is more than is looked at
    links: set[str] = field(default_factory=set)  # that lead out of the folder
    _before: "_Before | None" = None
    _found: set[str] = field(default_factory=set)
    _walk: "Iterator[_Entry] | None" = None
    _frozen: bool = False

    def note_before(self) -> None:
        """Once, before the job's process starts: what is there already."""
        if (self.notes / BEFORE).exists():
            return  # a start that is repeated: its process may have been there by then
        with self.rights():
            directory = os.path.realpath(self.directory)
            marks = {name: str(Mark.of(result)) for name, result in self._entries()}
        _write(self.notes / BEFORE, {"directory": directory, "cut": self.cut, "marks": marks})

    def note_again(self, names: set[str]) -> None:
        """These are the attempt's, and no others, if its notes are gone: it had ended by then."""
        if self.notes.exists():
            return
        self.notes.mkdir(parents=True)
        _write(self.notes / AFTER, sorted(names))

    def look(self, *, exited: bool) -> dict[str, tuple[Path, Mark]]:
        """Path below the folder → where and what it is now, of each that is this attempt's.

        A little of the folder is searched at each call, and all of it at the first after the end:
        what comes later is another's.
        """
        if not self._frozen:
            if exited or self.at_once:
                self._freeze()
            else:
                self._search()
        real_folders: dict[Path, str] = {}
        with self.rights():
            seen = {name: self._seen(name, real_folders) for name in sorted(self._found)}
        return {name: one for name, one in seen.items() if one is not None}

    def all_new(self) -> list[str]:
        """Each file that is the attempt's and lies there itself, however many they are."""
        known = self._known
        with self.rights():
            entries = self._entries(all_of_them=True)
            new = [name for name, result in entries if known.is_new(name, result)]
            return [name for name in new if not (self.directory / name).is_symlink()]

    @property
    def root(self) -> str:
        """Where the folder really lay at the start: files are opened nowhere else."""
        return self._known.directory

    def _search(self) -> None:
        known = self._known
        with self.rights():
            self._walk = self._walk or self._entries()
            looked = list(islice(self._walk, FILES_A_LOOK))
        self._take(looked, known)
        if len(looked) < FILES_A_LOOK:
            self._walk = None  # all the way round: anew at the next look

    def _freeze(self) -> None:
        self._frozen = True
        with suppress(OSError, ValueError):
            self._found = set(json.loads((self.notes / AFTER).read_bytes()))
            return
        known = self._known
        with self.rights():
            self._take(self._entries(), known)
        if self.at_once:
            return
        with suppress(OSError):  # no room: after a restart it is what is there by then
            _write(self.notes / AFTER, sorted(self._found))

    def _take(self, entries: "Iterable[_Entry]", known: "_Before") -> None:
        for name, result in entries:
            if name in self._found or not known.is_new(name, result):
                continue
            if len(self._found) >= MAX_FILES:
                self.cut = True
                return
            self._found.add(name)

    def _seen(self, name: str, real_folders: dict[Path, str]) -> tuple[Path, Mark] | None:
        """None: it is gone, no file, or leads elsewhere by now."""
        path = self.directory / name
        if path.parent not in real_folders:
            real_folders[path.parent] = os.path.realpath(path.parent)
        try:
            is_link = stat.S_ISLNK(path.lstat().st_mode)
            real = os.path.realpath(path) if is_link else real_folders[path.parent] + os.sep
            if not is_in(self.root, real):
                self.links.add(name)
                return None
            result = path.stat()
        except OSError:
            return None
        return (path, Mark.of(result)) if stat.S_ISREG(result.st_mode) else None

    @property
    def _known(self) -> "_Before":
        if self._before is None:
            self._before = _Before.read(self.notes / BEFORE, self.directory)
        return self._before

    # --- walking ---

    def _entries(self, *, all_of_them: bool = False) -> Iterator["_Entry"]:
        """Each file that the patterns mean; at most MAX_ENTRIES of whatever is there are asked."""
        left = sys.maxsize if all_of_them else MAX_ENTRIES
        below = [("", self.patterns.start, self.ignore.start)]
        while below:
            folder, wanted, ignored = below.pop()
            for entry in _scan(self.directory / folder, left):
                left -= 1
                path = f"{folder}{entry.name}"
                on = self.patterns.step(wanted, entry.name)
                off = self.ignore.step(ignored, entry.name)
                if not on or self.ignore.matched(off):
                    continue
                if _is_folder(entry):
                    if self.directory / path == self.leave:
                        continue
                    below.append((f"{path}/", on, off))
                elif self.patterns.matched(on) and (result := _regular(entry)):
                    yield path, result
            if left <= 0:
                self.cut = True
                return


def of_order(
    order: AttemptOrder, directory: Path, attempts_dir: Path, leave: Path
) -> Outputs | None:
    """Those of an attempt; None: nothing is to be looked for.

    Args:
        directory: where its command runs.
        attempts_dir: of the agent's state.
        leave: what lies below is sent otherwise.
    """
    if not order.outputs:
        return None
    ignore = Globs(order.ignore, everywhere=True)
    return Outputs(directory, Globs(order.outputs), ignore, attempts_dir / order.id, leave)


_Entry = tuple[str, os.stat_result]


@dataclass(frozen=True)
class _Before:
    """What was there when the attempt started."""

    directory: str
    marks: dict[str, str]
    noted_ns: int | None  # None: all that was there is in `marks`

    @classmethod
    def read(cls, path: Path, directory: Path) -> "_Before":
        try:
            noted = json.loads(path.read_bytes())
            when = path.stat().st_mtime_ns if noted["cut"] else None
            return cls(noted["directory"], noted["marks"], when)
        except (OSError, ValueError, KeyError):  # the state folder was emptied: nothing is ours
            return cls(os.path.realpath(directory), {}, 2**63)

    def is_new(self, name: str, result: os.stat_result) -> bool:
        if name in self.marks:
            return self.marks[name] != str(Mark.of(result))
        touched = max(result.st_mtime_ns, result.st_ctime_ns)
        return self.noted_ns is None or touched >= self.noted_ns


def _scan(folder: Path, most: int) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return list(islice(entries, most))
    except OSError:
        return []  # gone, or closed to this user


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """No link to one: it may lead round in circles, or out."""
    with suppress(OSError):
        return entry.is_dir(follow_symlinks=False)
    return False


def _regular(entry: "os.DirEntry[str]") -> os.stat_result | None:
    with suppress(OSError):
        result = entry.stat()
        return result if stat.S_ISREG(result.st_mode) else None
    return None


def _write(path: Path, content: object) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.rename(path)
