"""The folders that attempts run in when their code is laid down for them.

    {run_dir}/.code/{experiment_uid}-{number}/     one attempt's; gone when it is settled
    {run_dir}/.code/.git-{hash of a URL}/          clones (agent.code.git)

All in the project's folder of whoever runs the job, and with that user's rights: there a user may
put anything, such as a link that leads elsewhere, and harms only what he could harm anyway.
"""

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from agent import shim
from agent.code.manifest import folders_above, is_path
from agent.errors import StartFailed
from agent.wire import AttemptOrder

logger = logging.getLogger(__name__)

NAME = ".code"
MARK = "code"  # in the attempt's own folder: the boot in which its code was complete

Rights = Callable[[], AbstractContextManager[None]]


class CodeFolder:
    """One attempt's. Between begin() and remove() the agent may be killed anywhere."""

    def __init__(self, order: AttemptOrder, run_dir: Path, notes: Path, rights: Rights) -> None:
        """
        Args:
            notes: a folder of the attempt that is the agent's alone.
            rights: within it this thread has those of the job's user.
        """
        name = f"{order.experiment_uid}-{order.number}"
        self.above = run_dir / NAME
        self.path = self.above / name
        self.rights = rights
        self._mark = notes / MARK

    def is_complete(self) -> bool:
        """Whether it was made, and in this boot: a supervisor that is being born may run in it.

        After another boot it is made anew, since its last bytes may not have reached the disk.
        """
        try:
            if self._mark.read_text() != shim.boot_id():
                return False
            with self.rights():  # root of this host may be nobody where a home lies
                return self.path.is_dir()
        except OSError:
            return False

    def begin(self) -> None:
        """Make it an empty folder, which nobody runs in."""
        self.remove()
        with self.rights():
            self.above.mkdir(mode=0o700, exist_ok=True)
            self.path.mkdir(mode=0o700)

    def finish(self) -> None:
        """All of it lies there."""
        part = self._mark.with_suffix(".part")
        part.write_text(shim.boot_id())
        part.rename(self._mark)

    def remove(self) -> None:
        """Whatever there is of it, also what the job has put there."""
        self._mark.unlink(missing_ok=True)
        with self.rights():
            remove_whole(self.path)
            if os.path.lexists(self.path):
                logger.warning("%s cannot be removed: take it away by hand", self.path)


def remove_whole(path: Path) -> None:
    """A folder with all that lies in it, as far as that can be removed."""
    if os.path.lexists(path):
        shutil.rmtree(path, onerror=_insist)


def _insist(
    act: Callable[..., Any], path: str, info: tuple[type, BaseException, TracebackType]
) -> None:
    """A job may have closed its folders to itself."""
    try:
        os.chmod(os.path.dirname(path), 0o700)
        if act in (os.scandir, os.open, os.lstat):
            os.chmod(path, 0o700)
            shutil.rmtree(path, ignore_errors=True)
        else:
            act(path)
    except OSError as exc:
        logger.debug("%s cannot be removed: %s", path, exc)


def lay_links(links: Mapping[str, str], folder: Path) -> None:
    """Lay `links` (path -> where it leads) into a folder that holds code and nothing else.

    Raises:
        StartFailed: one would hide a file of the code.
    """
    for path, target in links.items():
        if not is_path(path):
            raise StartFailed(f"links: {path[:80]!r} must be a path within the code")
        for above in [path, *folders_above(path)]:
            if (folder / above).is_symlink():
                raise StartFailed(f"links: {above!r} is a link in the code already: leave it out")
        if os.path.lexists(folder / path):
            raise StartFailed(
                f"links: {path!r} is in the code already, and a link would hide it: leave the "
                "link out, or take that out of the code (.gitignore)"
            )
        try:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(target, folder / path)
        except OSError as exc:
            raise StartFailed(f"links: {path!r} cannot be laid: {exc.strerror}") from exc
