"""What jobs require of this host and it has not: found out before a start, told in heartbeats.

    requires: {paths: [/data/imagenet], commands: [ffmpeg]}

The server gives no such job to this host as long as a heartbeat names what it lacks. So what was
missing once is looked for again and again, with the rights of whoever missed it, until it is there
or nobody has asked for a day.
"""

import json
import logging
import os
import shutil
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from agent import users, wire
from agent.backoff import Bell
from agent.errors import StartFailed
from agent.shim import now
from agent.store import Store
from agent.users import User
from agent.wire import AttemptOrder

logger = logging.getLogger(__name__)

LOOK_SECONDS = 20.0
FORGET_SECONDS = 24 * 3600.0
MAX_BYTES = 8 * 1024  # of a heartbeat, which has 64 KiB in all
_KEY = "lacks"  # in the store
_SENTENCE = "This host lacks what the job requires: {}. Another one is looked for"
_EFFECTIVE = os.access in os.supports_effective_ids


class Lacking(StartFailed):
    """The host has not what the job requires: no fault of the job."""

    def __init__(self, message: str, lacks: list[wire.Lack], search_path: str) -> None:
        """`search_path`: where commands were looked for."""
        super().__init__(message)
        self.lacks = lacks
        self.search_path = search_path


def check_paths(order: AttemptOrder, user: User) -> None:
    """Before all else of a start, with `user.rights()`: code, folder and Python may lie there.

    Raises:
        Lacking: the host has not all of them.
    """
    missing = [name for name in order.requires.paths if not _has_path(name, user)]
    if missing:
        lacks = [wire.Lack(name, order.run_as or "") for name in missing]
        what = f"{', '.join(missing)} cannot be read here by {user.name!r}"
        raise Lacking(_SENTENCE.format(what), lacks, "")


def check_commands(order: AttemptOrder, search_path: str) -> None:
    """Before the start, once it is known where the job looks for them, likewise.

    Raises:
        Lacking: the host has not all of them.
    """
    missing = [name for name in order.requires.commands if not _has_command(name, search_path)]
    if missing:
        lacks = [wire.Lack(name, order.run_as or "", order.python or "") for name in missing]
        what = f"{', '.join(missing)} is not on the PATH of jobs here"
        raise Lacking(_SENTENCE.format(what), lacks, search_path)


def _has_path(name: str, user: User) -> bool:
    path = user.home / name[2:] if name.startswith("~/") else Path(name)
    return os.access(path, os.R_OK, effective_ids=_EFFECTIVE)


def _has_command(name: str, search_path: str) -> bool:
    found = shutil.which(name, path=search_path)
    return found is not None and os.access(found, os.X_OK, effective_ids=_EFFECTIVE)


@dataclass
class _Known:
    lack: wire.Lack
    search_path: str
    asked_at: float  # CLOCK_BOOTTIME seconds of when a job last missed it


class Lacks:
    """What this host is known to lack. Outlives the agent, in its store."""

    def __init__(self, store: Store, *, as_submitter: bool = False) -> None:
        self._store = store
        self._as_submitter = as_submitter
        self._turn = threading.Lock()
        self._bell = Bell()
        self._known = {one.lack: one for one in _read(store.get(_KEY))}

    def latest(self) -> list[wire.Lack]:
        """For a heartbeat: the newest, as many as it has room for."""
        with self._turn:
            newest = sorted(self._known.values(), key=lambda one: -one.asked_at)
        told, left = [], MAX_BYTES
        for lack in (one.lack for one in newest):
            left -= len(json.dumps(asdict(lack)))
            if left >= 0:
                told.append(lack)
        return told

    def note(self, why: Lacking) -> None:
        """A job was refused for it."""
        with self._turn:
            for lack in why.lacks:
                self._known[lack] = _Known(lack, why.search_path, now())
            self._keep()
        self._bell.ring()

    def run(self, stop: threading.Event) -> None:
        """Block until `stop`, looking again for what is missing."""
        while not stop.is_set():
            self.look_again()
            self._bell.wait(LOOK_SECONDS if self._known else None)

    def nudge(self) -> None:
        self._bell.ring()

    def look_again(self) -> None:
        with self._turn:
            known = list(self._known.values())
        over = [one.lack for one in known if self._is_over(one)]
        if over:
            with self._turn:
                for lack in over:
                    self._known.pop(lack, None)
                self._keep()

    def _is_over(self, one: _Known) -> bool:
        if not 0 <= now() - one.asked_at < FORGET_SECONDS:  # below 0: the host was rebooted
            return True
        try:
            user = users.of_order(one.lack.user or None, as_submitter=self._as_submitter)
            with user.rights():
                there = _is_there(one, user)
        except (OSError, StartFailed):
            return False
        if there:
            logger.info("%s is here now: jobs that require it may come", one.lack.name)
        return there

    def _keep(self) -> None:
        rows = [[asdict(one.lack), one.search_path, one.asked_at] for one in self._known.values()]
        self._store.put(_KEY, json.dumps(rows))


def _is_there(one: _Known, user: User) -> bool:
    name = one.lack.name
    return _has_path(name, user) if "/" in name else _has_command(name, one.search_path)


def _read(text: str | None) -> list[_Known]:
    return [
        _Known(wire.decode(wire.Lack, lack), search_path, asked_at)
        for lack, search_path, asked_at in json.loads(text or "[]")
    ]
