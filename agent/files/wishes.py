"""What a job wishes to have at the server of what its run leaves (`sync:` of its config)."""

import re
from collections import defaultdict
from collections.abc import Iterable

from agent import wire
from agent.files.runfiles import finished_name
from agent.files.tracked import Tracked
from agent.wire import Checkpoints, SyncPolicy, WhyLeftOut

CHECKPOINTS = (".pt", ".pth", ".ckpt", ".safetensors")
#: Files in such a folder are one checkpoint together: checkpoint-500/, global_step500/, epoch=3/.
_FOLDER = re.compile(r"(checkpoint|ckpt|epoch|(global_?)?step|iter)[-_=]?\d+", re.IGNORECASE)


def left_out(files: Iterable[Tracked], policy: SyncPolicy) -> dict[str, WhyLeftOut]:
    """Name → why it is not sent. `files`: those of one run, less its curves and logs.

    Of `checkpoints: last` the newest is that which changed last, of those that have held still and
    are whole; a newer one that is still being written, or was cut off, leaves nothing out.
    `run_001.pt`, from which a next attempt resumes, is always one of the last; one that never got
    its name (`best.ckpt.tmp`) is none, and what lies in a hidden or temporary folder
    (`.tmp_7/best.ckpt`) is one only where there is no other.
    """
    files = list(files)
    most = policy.max_file_bytes
    out = {
        file.name: WhyLeftOut.TOO_LARGE
        for file in files
        if most is not None and file.seen.size > most
    }
    checkpoints = [file for file in files if is_checkpoint(file.name)]
    fit = [file for file in checkpoints if file.name not in out]
    if policy.checkpoints is Checkpoints.NONE:
        out |= {file.name: WhyLeftOut.NOT_WISHED for file in fit}
    elif policy.checkpoints is Checkpoints.LAST:
        out |= {file.name: WhyLeftOut.NOT_WISHED for file in _overtaken(fit)}
    return out


def is_checkpoint(name: str) -> bool:
    return finished_name(name).lower().endswith(CHECKPOINTS)


def _overtaken(files: list[Tracked]) -> list[Tracked]:
    kinds: dict[str, list[Tracked]] = defaultdict(list)
    for file in files:
        kinds[_kind(file)].append(file)
    named, aside = _Checkpoints(kinds["named"]), _Checkpoints(kinds["aside"])
    if named.newest or _Checkpoints(kinds["own"]).newest:
        return [*kinds["unfinished"], *kinds["aside"], *named.older()]
    return [*kinds["unfinished"], *aside.older()]


def _kind(file: Tracked) -> str:
    if wire.is_unfinished(file.name):
        return "unfinished"
    if wire.lies_aside(file.name):
        return "aside"
    return "own" if file.name == f"{file.run.run_name}.pt" else "named"


class _Checkpoints:
    """Some of a run's, by name, each with its files."""

    def __init__(self, files: list[Tracked]) -> None:
        self._files: dict[str, list[Tracked]] = defaultdict(list)
        for file in files:
            self._files[_checkpoint_of(file.name)].append(file)
        whole = [
            name
            for name, of in self._files.items()
            if all(one.is_still and not one.is_torn for one in of)
        ]
        self.newest = max(whole, key=self._age, default=None)

    def older(self) -> list[Tracked]:
        """Files of those that were written before the newest whole one."""
        if self.newest is None:
            return []
        newest = self._age(self.newest)
        return [one for name, of in self._files.items() if self._age(name) < newest for one in of]

    def _age(self, name: str) -> tuple[int, str]:
        return max(one.seen.mtime_ns for one in self._files[name]), name


def _checkpoint_of(name: str) -> str:
    """The outermost folder that is one checkpoint; else the file is one by itself."""
    *folders, _last = name.split("/")
    for depth, folder in enumerate(folders, 1):
        if _FOLDER.fullmatch(folder):
            return "/".join(folders[:depth])
    return name
