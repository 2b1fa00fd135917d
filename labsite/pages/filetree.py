"""A run's files one folder at a time: what lies there, and what its folders hold together."""

from collections.abc import Iterable
from dataclasses import dataclass

from labsite.pages.runfiles import File, LeftOut
from labsite.pages.states import Badge

#: So many files of a folder, or that were looked for, are shown; the others are counted.
SHOWN = 300
#: Of several states the first of these is a folder's.
_WORST = ("behind", "syncing", "synced")


@dataclass(frozen=True)
class Folder:
    name: str  # within the folder that is shown
    path: str
    count: int  # of files, in it and beneath it
    size: int
    badge: Badge | None


@dataclass(frozen=True)
class Level:
    """What is shown of the files at once."""

    folder: str  # empty: the outermost
    sought: str
    above: list[tuple[str, str]]  # name and path of each folder that leads here
    folders: list[Folder]
    files: list[File]
    others: int  # files that are not shown
    left_out: list[LeftOut]
    count: int  # of all files of the run
    size: int


def level(files: list[File], left_out: list[LeftOut], folder: str, sought: str) -> Level:
    """Args:
    folder: a path without a slash at its end; one that does not exist is empty.
    sought: a part of names; if there is one, files of all folders beneath are shown.
    """
    beneath = f"{folder}/" if folder else ""
    inside = [file for file in files if file.name.startswith(beneath)]
    if sought:
        here = [file for file in inside if sought.lower() in file.name.lower()]
        folders = []
    else:
        here = [file for file in inside if "/" not in file.name[len(beneath) :]]
        folders = _folders(inside, beneath)
    return Level(
        folder=folder,
        sought=sought,
        above=_above(folder),
        folders=folders,
        files=here[:SHOWN],
        others=len(here[SHOWN:]),
        left_out=[one for one in left_out if one.name.startswith(beneath)],
        count=len(files),
        size=sum(file.size for file in files),
    )


def _folders(inside: Iterable[File], beneath: str) -> list[Folder]:
    held: dict[str, list[File]] = {}
    for file in inside:
        name, slash, _rest = file.name[len(beneath) :].partition("/")
        if slash:
            held.setdefault(name, []).append(file)
    return [
        Folder(name, beneath + name, len(files), sum(file.size for file in files), _worst(files))
        for name, files in held.items()
    ]


def _worst(files: list[File]) -> Badge | None:
    badges = {file.badge.state: file.badge for file in files if file.badge}
    return next((badges[state] for state in _WORST if state in badges), None)


def _above(folder: str) -> list[tuple[str, str]]:
    parts = folder.split("/") if folder else []
    return [(part, "/".join(parts[: at + 1])) for at, part in enumerate(parts)]
