"""The folder in which runs leave their files: `{workdir}/logs_{server}/{project}/run_001.*`."""

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from agent import host, wire
from agent.environment import Places
from agent.errors import ConfigError, StartFailed
from agent.files.regular import open_regular
from agent.files.userfolders import UserFolders
from agent.journal import Journal
from agent.users import User, is_other, own
from agent.wire import AttemptOrder

MAX_METADATA_BYTES = 4 * wire.MAX_CONFIG_BYTES
MARK = ".lab-agent.json"  # in a server's folder: whose it is
#: What a run's metadata tells of its start, besides who it is.
FACTS = (
    "host",
    "unix_user",
    "gpus",
    "command",
    "working_directory",
    "code",
    "python",
    "torch",
    "resumed_from",
    "driver",
    "cuda",
    "torch_cuda",
    "prefix",
    "packages",
)


class Workspace:
    """One server's folder beneath the agent's --workdir.

    A run's name is bound to the attempt that writes it: what an earlier attempt, or another job
    after a fresh start of the server, left under that name is put aside, never written to
    and never lost.
    """

    def __init__(self, root: Path, journal: Journal) -> None:
        """`root` as claim() gives it."""
        self.root = root
        self._journal = journal
        self._folders = UserFolders(root)

    def places(self, order: AttemptOrder) -> Places:
        """Where the files of this attempt are. Touches nothing."""
        run_dir = run_dir_of(order, self.root)
        config = run_dir / f"{order.experiment_uid}_config.yaml" if order.config_sha256 else None
        resume = order.resume.checkpoint if order.resume else None
        return Places(run_dir, order.run_name, config, run_dir / resume if resume else None)

    def prepare(
        self,
        order: AttemptOrder,
        config: bytes | None,
        moved: Callable[[str, Path], None],
        user: User | None = None,
    ) -> Places:
        """Make the attempt's places: folder, config, no file of anybody else.

        Args:
            config: the job's YAML as the server has it; None: it has none.
            moved: told (attempt id, folder) when what an earlier attempt left was put aside.
            user: who runs the job; None: the agent's own.

        Raises:
            StartFailed: a name is not allowed, the config is not the one ordered, or the
                folder cannot be written.
        """
        for name in (order.project, order.run_name, order.experiment_uid):
            if not wire.is_name(name):
                raise StartFailed(f"{name!r} may not name a folder or file here: rename it")
        if (config and hashlib.sha256(config).hexdigest()) != order.config_sha256:
            raise StartFailed("The config that arrived is not the one ordered: requeue the job")
        places = self.places(order)
        try:
            self._make(places.run_dir, order.project, user or own())
            self._put_aside(order, places, moved)
            if places.config is not None and config is not None:
                with self._rights_in(places.run_dir):
                    replace_file(places.config, config)
        except OSError as exc:
            by = f" by {user.name!r}" if user and not user.is_own else ""
            raise StartFailed(f"{places.run_dir} cannot be written{by}: {exc.strerror}") from exc
        return places

    def _make(self, run_dir: Path, project: str, user: User) -> None:
        if not user.is_own:
            self._folders.make(user, project)
            return
        run_dir.mkdir(parents=True, exist_ok=True)
        if run_dir.is_symlink() or not os.access(run_dir, os.W_OK):
            raise StartFailed(f"{run_dir} is a link or not writable: repair it there")

    def _rights_in(self, run_dir: Path) -> contextlib.AbstractContextManager[None]:
        """The user's, for whatever touches files of a run; the journal is not touched in it."""
        return self._folders.rights_in(run_dir)

    def finish_moves(self) -> None:
        """Carry to their end the moves that an earlier agent was killed in.

        To be called before anybody looks at the files: the journal already names the new place.

        Raises:
            ConfigError: a folder cannot be read or written now.
        """
        for run_dir, run_name, aside in self._journal.moves():
            try:
                self._move(Path(run_dir), run_name, Path(aside))
            except OSError as exc:
                raise ConfigError(
                    f"{run_dir} cannot be written ({exc.strerror}): repair it, then start again"
                ) from exc

    def _put_aside(
        self, order: AttemptOrder, places: Places, moved: Callable[[str, Path], None]
    ) -> None:
        """The journal says where the files will be before the first of them is moved."""
        run_dir, run_name = places.run_dir, order.run_name
        owner = self._journal.owner(str(run_dir), run_name)
        if owner == (order.experiment_uid, order.id):
            return  # a start that is repeated
        self._refuse_if_written(owner, run_name)
        with self._rights_in(run_dir):
            aside = self._aside(run_dir, run_name, owner)
        if aside is not None:
            self._journal.move(str(run_dir), run_name, str(aside))
            self._move(run_dir, run_name, aside)
            if owner:
                moved(owner[1], aside)
        self._journal.own(str(run_dir), order)

    @staticmethod
    def _aside(run_dir: Path, run_name: str, owner: tuple[str, str] | None) -> Path | None:
        """A new folder for what lies there under that name; None: nothing does, nor did."""
        if not (owner or _files_of(run_dir, run_name)):
            return None
        return _new_folder(run_dir / ".old", "-".join(owner) if owner else "unknown")

    def _move(self, run_dir: Path, run_name: str, aside: Path) -> None:
        with self._rights_in(run_dir):
            for path in _files_of(run_dir, run_name):
                taken = (aside / path.name).exists()  # a stray process wrote it anew since
                target = _new_folder(aside.parent, aside.name) if taken else aside
                path.rename(target / path.name)
        self._journal.moved(str(run_dir), run_name)

    def _refuse_if_written(self, owner: tuple[str, str] | None, run_name: str) -> None:
        """A name comes twice from a server whose database was restored from an older backup."""
        writer = self._journal.find(owner[1]) if owner else None
        if owner and writer and writer.state.alive:
            raise StartFailed(
                f"{run_name} is being written here by the job {owner[0]}, of which this server "
                "does not know: was it restored from a backup? Queue the job again for a new name"
            )

    def write_metadata(self, order: AttemptOrder, places: Places, facts: dict[str, Any]) -> None:
        """`run_001.yaml`: what was run, where, with what, how it ended; replaced as a whole."""
        content: dict[str, Any] = {
            "experiment_uid": order.experiment_uid,
            "project": order.project,
            "run": order.run_name,
            "attempt": order.number,
            "attempt_id": order.id,
            "user": order.user,
            **facts,
        }
        with self._rights_in(places.run_dir):
            if places.config is not None:
                with contextlib.suppress(OSError):
                    config = _read(places.config, wire.MAX_CONFIG_BYTES)
                    content["config"] = _Block(config.decode(errors="replace"))
            text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
            replace_file(places.metadata, text.encode())

    def facts(self, order: AttemptOrder) -> dict[str, Any]:
        """What this attempt's `run_001.yaml` says of its start; nothing if that is another's."""
        places = self.places(order)
        try:
            with self._rights_in(places.run_dir):
                content = yaml.safe_load(_read(places.metadata, MAX_METADATA_BYTES))
        except (OSError, yaml.YAMLError):
            return {}
        if not isinstance(content, dict) or content.get("attempt_id") != order.id:
            return {}
        return {name: content[name] for name in FACTS if name in content}


def run_dir_of(order: AttemptOrder, root: Path) -> Path:
    """Where the files of this attempt are, beneath the workspace at `root` or beside it."""
    if order.run_as is not None and is_other(order.run_as):
        return UserFolders(root).run_dir(order.run_as, order.project)
    return root / order.project


def claim(workdir: Path, server_host: str, port: int, server_id: str, host_id: str) -> Path:
    """The server's folder beneath `workdir`: `logs_{host}`, with the port only when that one
    belongs to another server, and with our host id when it is another machine's (a home that
    several share).

    Raises:
        ConfigError: it cannot be made, or another agent of this machine writes there.
    """
    safe = re.sub(r"[^A-Za-z0-9.-]", "-", server_host).strip(".") or "server"
    mine = {"server_id": server_id, "host_id": host_id, "machine_id": host.machine_id()}
    names = [f"logs_{safe}", f"logs_{safe}_{port}", f"logs_{safe}_{port}_{server_id}"]
    for name in [*names, *(f"{name}_{host_id}" for name in names)]:
        if _is_marked(workdir / name, mine):
            return workdir / name  # as before, whatever has become of the others since
    for name in names:
        folder = workdir / name
        mark = _mark(folder, mine)
        if mark == mine:
            return folder
        if mark["server_id"] == server_id:
            return _beside(folder, mark, mine)
    raise ConfigError(f"{workdir} holds workspaces of three other servers: choose a new --workdir")


def _beside(folder: Path, mark: dict[str, str], mine: dict[str, str]) -> Path:
    """The place of another agent of the same server as the one whose `folder` it is."""
    if mark["machine_id"] != mine["machine_id"]:
        folder = folder.with_name(f"{folder.name}_{mine['host_id']}")
        mark = _mark(folder, mine)
    if mark == mine:
        return folder
    raise ConfigError(
        f"{folder} is the workspace of the agent {mark['host_id']!r}: "
        "two agents write the same file names, so give this one its own --workdir"
    )


def _is_marked(folder: Path, mine: dict[str, str]) -> bool:
    return os.path.exists(folder / MARK) and _read_mark(folder) == mine


def _mark(folder: Path, mine: dict[str, str]) -> dict[str, str]:
    """Whose folder it is; ours, if it was nobody's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MARK).exists():
            _write_once(folder / MARK, json.dumps(mine).encode())
    except OSError as exc:
        raise ConfigError(
            f"{folder} cannot be written ({exc.strerror}): choose another --workdir"
        ) from exc
    return _read_mark(folder)


def _read_mark(folder: Path) -> dict[str, str]:
    path = folder / MARK
    try:
        mark = json.loads(path.read_bytes())
        return {name: str(mark[name]) for name in ("server_id", "host_id", "machine_id")}
    except OSError as exc:
        raise ConfigError(
            f"{path} cannot be read ({exc.strerror}): choose another --workdir"
        ) from exc
    except (ValueError, TypeError, KeyError) as exc:
        raise ConfigError(f"{path} is damaged: delete it if no other agent uses it") from exc


def _write_once(path: Path, content: bytes) -> None:
    """Make the file unless there is one: of two agents that start at once, one is the first."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        replace_file(part, content)
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
    finally:
        part.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Readers see the old content or the new. A link at `path` is replaced, not followed."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)


def _read(path: Path, most_bytes: int) -> bytes:
    with open_regular(path) as file:
        return file.read(most_bytes)


def _files_of(run_dir: Path, run_name: str) -> list[Path]:
    """`{run_name}` and `{run_name}.*`, of whomever."""
    with os.scandir(run_dir) as entries:
        names = [entry.name for entry in entries]
    return [
        run_dir / name for name in names if name == run_name or name.startswith(f"{run_name}.")
    ]


def _new_folder(parent: Path, label: str) -> Path:
    parent.mkdir(exist_ok=True)
    number = 1
    folder = parent / label
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            folder = parent / f"{label}-{number}"
        else:
            return folder


class _Block(str):
    """A text that YAML shows line by line."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    _Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
)
