"""What a job wishes to have at the server of what its run leaves (`sync:` of its config)."""

import re
from collections import defaultdict
from collections.abc import Iterable

from agent.files.runfiles import finished_name, is_unfinished
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
    its name (`best.ckpt.tmp`) is none.
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
    unfinished: list[Tracked] = []
    checkpoints: dict[str, list[Tracked]] = defaultdict(list)
    for file in files:
        if is_unfinished(file.name):
            unfinished.append(file)
        elif file.name != f"{file.run.run_name}.pt":
            checkpoints[_checkpoint_of(file.name)].append(file)
    ages = {name: max(one.seen.mtime_ns for one in of) for name, of in checkpoints.items()}
    whole = [
        name
        for name, of in checkpoints.items()
        if all(one.is_still and not one.is_torn for one in of)
    ]
    if not whole:
        return unfinished
    newest = max(whole, key=lambda name: (ages[name], name))
    older = [name for name in checkpoints if (ages[name], name) < (ages[newest], newest)]
    return unfinished + [file for name in older for file in checkpoints[name]]


def _checkpoint_of(name: str) -> str:
    """The outermost folder that is one checkpoint; else the file is one by itself."""
    *folders, _last = name.split("/")
    for depth, folder in enumerate(folders, 1):
        if _FOLDER.fullmatch(folder):
            return "/".join(folders[:depth])
    return name
