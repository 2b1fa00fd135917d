"""The code that an attempt runs in, when its order names one: laid down for it, and taken away."""

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent.code import folders, snapshots
from agent.code.cache import CodeCache
from agent.code.folders import CodeFolder
from agent.code.git import Git, GivenUp, clone_of
from agent.errors import StartFailed
from agent.transport import Transport
from agent.users import User
from agent.wire import AttemptOrder


@dataclass(frozen=True)
class CodeLaying:
    """Each step may be repeated, after a cut line as after a kill -9."""

    connect: Callable[[], Transport]
    cache: CodeCache
    attempts_dir: Path
    rights_in: Callable[[Path], AbstractContextManager[None]]  # of whose folder of runs it is
    kept: Callable[[Path, User], None]  # told of a clone before it is used

    def lay(
        self, order: AttemptOrder, run_dir: Path, user: User, gone: Callable[[], bool]
    ) -> Path | None:
        """Lay it down unless it lies there. Return where in it the command runs; None: `gone`.

        Raises:
            ServerUnreachable: cut off; ask again.
            Rejected: the server does not have it.
            StartFailed: it cannot be laid down here.
        """
        assert order.source is not None
        folder = self._folder(order, run_dir)
        if not folder.is_complete():
            try:
                self._lay(order, folder, user, gone)
            except GivenUp:
                return None
            except OSError as exc:
                words = f"The code cannot be laid into {folder.path}: {exc.strerror}"
                raise StartFailed(words) from exc
        return folder.path / order.source.folder

    def remove(self, order: AttemptOrder, run_dir: Path) -> None:
        """The attempt is settled: nobody asks for its folder any more."""
        if order.source is not None:
            self._folder(order, run_dir).remove()

    def _lay(
        self, order: AttemptOrder, folder: CodeFolder, user: User, gone: Callable[[], bool]
    ) -> None:
        code = order.source
        assert code is not None
        if code.kind not in ("snapshot", "git"):
            raise StartFailed(
                f"This agent cannot run code of the kind {code.kind!r}: install the server's "
                "release on this host, or submit the job without its code"
            )
        folder.begin()
        if code.kind == "git":
            self.kept(clone_of(code.url, folder.above), user)
            Git(user, gone).lay(code, folder)
        else:
            with closing(self.connect()) as transport:
                snapshots.restore(transport, order, self.cache, folder.path, folder.rights)
        with folder.rights():
            folders.lay_links(code.links, folder.path)
        folder.finish()

    def _folder(self, order: AttemptOrder, run_dir: Path) -> CodeFolder:
        rights = partial(self.rights_in, run_dir)
        return CodeFolder(order, run_dir, self.attempts_dir / order.id, rights)
