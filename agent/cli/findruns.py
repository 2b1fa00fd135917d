"""Which runs a folder holds, and what files each of them has.

    logs/digits/run_003.csv, .yaml, .pt, run_003/…    what shares a name is one run
    lightning_logs/version_0/, runs/exp1/             a folder that a logger wrote into, all of it

What several runs wrote side by side is told apart: event files beneath a run's folder are its own
if the same process wrote them (add_scalars, add_hparams) or if they are a part of it by name
(train/, val/, checkpoint-500/); else they are another run's. No link is followed.
"""

import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent import wire
from agent.cli import eventfiles
from agent.cli.errors import CliError

MAX_ENTRIES = 500_000
MAX_FILES = 2_000  # of one run, as of one that runs here
#: What loggers call the table of a run.
TABLES = ("metrics.csv", "progress.csv", "results.csv", "history.csv", "metrics.jsonl")
HPARAMS = ("hparams.yaml",)
TRAINER_STATE = "trainer_state.json"
#: A folder called so is a part of the run above it.
_PART = re.compile(r"train|training|val|valid|validation|test|eval|evaluation|checkpoint-\d+")
_NUMBERED = re.compile(r"run_\d+")
#: Beside a table, what makes files of one name a run.
_BESIDE = (".yaml", ".yml", ".pt", ".pth", ".ckpt", ".log")
#: Which file is the config, the most telling first; in the run's own folder.
HYDRA = ".hydra"
CONFIGS = (
    "config.yaml", "config.yml", ".hydra/config.yaml", "hparams.yaml", "args.yaml", "config.json",
    "args.json",
)  # fmt: skip
#: Folders that are no runs' and those that say nothing of a project.
_SKIPPED = {"__pycache__", "node_modules", "wandb", "mlruns"}
_GENERIC = re.compile(
    r"logs?|logs_.*|runs|(lightning|csv|tb|tensorboard)_?logs|tensorboard|tb|outputs?|results?"
    r"|experiments?|exps?|checkpoints?|ckpts?|multirun|default|\d{4}-\d{2}-\d{2}|\d{2}-\d{2}-\d{2}",
    re.IGNORECASE,
)
MAX_TITLE_CHARACTERS = 128  # as the server takes them
NAME, LINK, TOO_MANY, SKIPPED = "name", "link", "too_many", "skipped"


@dataclass(frozen=True)
class LocalFile:
    path: Path
    tail: str  # what follows the run's name: `.csv`, `/checkpoints/last.ckpt`
    result: os.stat_result

    @property
    def size(self) -> int:
        return self.result.st_size

    @property
    def base(self) -> str:
        return self.path.name


@dataclass
class LocalRun:
    """A run as it lies here."""

    folder: Path  # in which it lies; of a folder's run that folder
    parent: Path  # in which others beside it lie
    name: str  # run_003, version_0
    files: list[LocalFile] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)  # tail, why

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def place(self) -> Path:
        """By which people find it: of files beside others what their names begin with."""
        return self.folder if self.folder.parent == self.parent else self.folder / self.name

    def file(self, tail: str) -> LocalFile | None:
        return next((file for file in self.files if file.tail == tail), None)

    @property
    def config(self) -> LocalFile | None:
        tails = (".yaml", ".yml", *(f"/{name}" for name in CONFIGS))
        return next((found for tail in tails if (found := self.file(tail))), None)


def find(top: Path) -> list[LocalRun]:
    """
    Raises:
        CliError: it is no folder, cannot be read, or holds too much.
    """
    if not top.is_dir():
        raise CliError(f"{top} is no folder: name the one that your runs lie in, such as logs/")
    tree = _Folder.read(Path(os.path.abspath(top)))
    return [run for run in _runs_in(tree) if run.files]


# --- the tree -----------------------------------------------------------------------------------


@dataclass
class _Folder:
    path: Path
    files: dict[str, os.stat_result] = field(default_factory=dict)
    folders: dict[str, "_Folder"] = field(default_factory=dict)
    passed: list[tuple[str, str]] = field(default_factory=list)  # name, why it is passed over

    @classmethod
    def read(cls, top: Path) -> "_Folder":
        tree, left = cls(top), MAX_ENTRIES
        below = [tree]
        while below:
            folder = below.pop()
            for entry in _entries(folder.path, must=folder is tree):
                left -= 1
                folder._take(entry)
            below += folder.folders.values()
            if left < 0:
                raise CliError(
                    f"{top} holds more than {MAX_ENTRIES} files and folders: import a part of it"
                )
        return tree

    def _take(self, entry: "os.DirEntry[str]") -> None:
        try:
            result = entry.stat(follow_symlinks=False)
        except OSError:
            return
        if stat.S_ISLNK(result.st_mode):
            self.passed.append((entry.name, LINK))
        elif stat.S_ISDIR(result.st_mode):
            if entry.name in _SKIPPED:
                self.passed.append((f"{entry.name}/", SKIPPED))
            elif entry.name[:1] != "." or entry.name == HYDRA:
                self.folders[entry.name] = _Folder(self.path / entry.name)
        elif stat.S_ISREG(result.st_mode) and entry.name[:1] != ".":
            self.files[entry.name] = result

    @property
    def events(self) -> list[str]:
        return [name for name in self.files if wire.is_event_file(name)]

    @property
    def writers(self) -> set[str]:
        return {eventfiles.writer(name) for name in self.events} - {""}

    @property
    def is_told(self) -> bool:
        """Whether a logger that belongs to one run wrote here."""
        return bool(self.events) or any(n in self.files for n in (*HPARAMS, TRAINER_STATE))

    @property
    def has_table(self) -> bool:
        return any(name in self.files for name in TABLES)

    @property
    def has_parts(self) -> bool:
        return any(_PART.fullmatch(n) and one.is_told for n, one in self.folders.items())


def _entries(path: Path, *, must: bool) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as exc:
        if must:
            raise CliError(f"{path} cannot be read: {exc.strerror}") from None
        return []  # closed to this user


# --- its runs -----------------------------------------------------------------------------------


def _runs_in(folder: _Folder) -> Iterator[LocalRun]:
    stems = _stems(folder)
    for stem in stems:
        yield _named_run(folder, stem)
    beneath = [one for name, one in folder.folders.items() if name not in stems]
    if not stems and (folder.is_told or folder.has_parts):
        yield from _folder_run(folder)
        return
    found = [run for one in beneath for run in _runs_in(one)]
    if folder.has_table and not stems and not found:  # a table over many runs is none itself
        yield from _folder_run(folder)
    yield from found


def _stems(folder: _Folder) -> list[str]:
    """The names of runs whose files lie side by side here."""
    suffixes: dict[str, set[str]] = {}
    for name in folder.files:
        stem, dot, _rest = name.partition(".")
        suffixes.setdefault(stem, set()).add(name[len(stem) :]) if dot else None
    found = {
        stem
        for stem, tails in suffixes.items()
        if _NUMBERED.fullmatch(stem) or (".csv" in tails and tails & set(_BESIDE))
    }
    numbered = {n for n, one in folder.folders.items() if _NUMBERED.fullmatch(n) and one.files}
    return sorted(found | numbered)


def _named_run(folder: _Folder, stem: str) -> LocalRun:
    run = LocalRun(folder.path, folder.path, stem)
    for name, result in folder.files.items():
        if name.startswith(f"{stem}."):
            _add(run, folder.path / name, name[len(stem) :], result)
    if stem in folder.folders:
        _add_all(run, folder.folders[stem], "")
    return run


def _folder_run(folder: _Folder) -> Iterator[LocalRun]:
    run = LocalRun(folder.path, folder.path.parent, folder.path.name or "run")
    others: list[_Folder] = []
    _add_all(run, folder, "", _Split(folder, others))
    yield run
    for one in others:
        yield from _runs_in(one)


@dataclass(frozen=True)
class _Split:
    """Where runs lie within each other's folders: what is whose."""

    nearest: _Folder  # above, in which the run has event files, if any
    others: list[_Folder]  # found so far

    def gives_away(self, name: str, folder: _Folder) -> bool:
        if not (folder.events and self.nearest.events) or _PART.fullmatch(name):
            return False
        return not folder.writers & self.nearest.writers

    def below(self, folder: _Folder) -> "_Split":
        return _Split(folder, self.others) if folder.events else self


def _add_all(run: LocalRun, folder: _Folder, above: str, split: _Split | None = None) -> None:
    """All beneath `folder` that is no other run's."""
    for name, result in folder.files.items():
        _add(run, folder.path / name, f"{above}/{name}", result)
    run.left_out += [(f"{above}/{name}", why) for name, why in folder.passed]
    for name, one in folder.folders.items():
        if split is not None and split.gives_away(name, one):
            split.others.append(one)
        else:
            _add_all(run, one, f"{above}/{name}", split and split.below(one))


def _add(run: LocalRun, path: Path, tail: str, result: os.stat_result) -> None:
    tail = unicodedata.normalize("NFC", tail)
    if not wire.is_file_of("run_001", f"run_001{tail}"):
        run.left_out.append((tail, NAME))
    elif len(run.files) >= MAX_FILES:
        run.left_out.append((tail, TOO_MANY))
    else:
        run.files.append(LocalFile(path, tail, result))


# --- what it is called --------------------------------------------------------------------------


def project_of(run: LocalRun) -> str | None:
    """The nearest folder above it whose name says something; None: there is none."""
    name = next((folder.name for folder in _above(run) if not _is_generic(folder)), "")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")
    return name if wire.is_name(name) else None


def title_of(run: LocalRun) -> str:
    """What people may call it, with the dates of folders above it; empty: its number says it."""
    if _NUMBERED.fullmatch(run.name):
        return ""
    between = []
    for folder in _above(run):
        if not _is_generic(folder):
            break
        between.append(folder.name)
    dates = [name for name in reversed(between) if name[:1].isdigit()]
    title = "/".join([*dates, run.name])
    return "".join(letter for letter in title if letter.isprintable())[:MAX_TITLE_CHARACTERS]


def _above(run: LocalRun) -> Iterator[Path]:
    home = Path.home()
    folder = Path(os.path.abspath(run.parent))
    while folder != folder.parent and folder != home:
        yield folder
        folder = folder.parent


def _is_generic(folder: Path) -> bool:
    return _GENERIC.fullmatch(folder.name) is not None
