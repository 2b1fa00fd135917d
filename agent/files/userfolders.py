"""The folders of runs whose user is not the agent's (docs/adr/0014).

    {workdir}/users/                              root's
    {workdir}/users/{user}/                       root's, closed to all but the user's group
    {workdir}/users/{user}/logs_{server}/         root's
    {workdir}/users/{user}/logs_{server}/{project}/    the user's: here lie run_001.*

So each user has a workdir like the agent's. Users write in the last folder only, and what is above
it nobody but root can change. In it the agent acts with its owner's rights: what a user plants
there, such as a link to a file of root's, leads nowhere that the user could not go alone.
"""

import os
import stat
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from agent import users
from agent.errors import ConfigError, StartFailed
from agent.users import User

NAME = "users"
_DEPTH = 3  # of a project's folder: user, server, project


class UserFolders:
    def __init__(self, root: Path) -> None:
        """`root`: the agent's own folder for the server, as agent.workspace.claim() gives it."""
        self._users = root.parent / NAME
        self._server = root.name

    def run_dir(self, user_name: str, project: str) -> Path:
        return self._users / user_name / self._server / project

    def make(self, user: User, project: str) -> Path:
        """
        Raises:
            OSError: it cannot be made, or the user cannot reach it.
            StartFailed: it is somebody else's.
        """
        run_dir = self.run_dir(user.name, project)
        _make_ours(self._users, 0o755, 0)
        _make_ours(run_dir.parents[1], 0o750, user.gid)
        _make_ours(run_dir.parent, 0o755, 0)
        _make_theirs(run_dir, user)
        with user.rights():
            os.scandir(run_dir).close()
        return run_dir

    def rights_in(self, folder: Path) -> AbstractContextManager[None]:
        """Within the block this thread has, in this folder of runs, its user's rights and no
        others. Whose it is stands in a place that no user can write to. With all groups: the
        run's outputs may lie where only one of them is let in."""
        try:
            parts = folder.relative_to(self._users).parts
            owned = os.lstat(self._users.joinpath(*parts[:_DEPTH]))
        except (ValueError, FileNotFoundError):
            return nullcontext()  # it is not a user's, or there is nothing
        return users.acting_as(owned.st_uid, owned.st_gid, users.groups_of(owned.st_uid))


def check_workdir(workdir: Path) -> None:
    """
    Raises:
        ConfigError: somebody else than root could put another folder in its place.
    """
    if (folder := open_to_others(workdir)) is not None:
        raise ConfigError(
            f"With --run-as submitter none but root may write to {folder}: name another "
            "--workdir, such as /srv/lab-runs, which root makes"
        )


def open_to_others(folder: Path) -> Path | None:
    """`folder` or the one above it by which somebody else than root could change what is in it."""
    for one in filter(Path.exists, (folder, *folder.parents)):
        found = os.stat(one)
        keeps_names = one != folder and found.st_mode & stat.S_ISVTX  # as /tmp does
        if found.st_uid != 0 or (found.st_mode & 0o022 and not keeps_names):
            return one
    return None


def _make_ours(folder: Path, mode: int, gid: int) -> None:
    folder.mkdir(exist_ok=True)
    _refuse_others(folder, 0)
    os.chown(folder, 0, gid, follow_symlinks=False)
    folder.chmod(mode)


def _make_theirs(folder: Path, user: User) -> None:
    """Once it is the user's, its mode is the user's business as well."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if _refuse_others(folder, 0, user.uid).st_uid == 0:
        folder.chmod(0o750)
        os.chown(folder, user.uid, user.gid, follow_symlinks=False)


def _refuse_others(folder: Path, *uids: int) -> os.stat_result:
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in uids:
        raise StartFailed(
            f"{folder} is no folder, or belongs to another account (uid {found.st_uid}): set it "
            "aside on this host"
        )
    return found
