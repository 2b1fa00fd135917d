"""What this host keeps so that the next run starts sooner, and lets go of by age and size.

Clones of repositories (agent.code.git), environments that uv has made and what uv has fetched for
them (agent.uvproject): each could be made again, at the cost of a fetch. So each is noted here
whenever an attempt is about to use it, and removed when none has for long, or, the longest unused
first, when all of them together are too large. What an attempt that is under way uses stays, and
so does what one has used lately: its job may wait to go on. Days are those on which the agent ran.
"""

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent import shim, uvproject
from agent.backoff import Bell
from agent.code import folders, git
from agent.errors import StartFailed
from agent.journal import Attempt
from agent.store import Store
from agent.users import User

logger = logging.getLogger(__name__)

DAY_SECONDS = 86_400.0
LOOK_SECONDS = 3600.0
KEEP_SECONDS = 30 * DAY_SECONDS
MOST_BYTES = 30 * 1024**3
#: For size alone nothing goes that was used so lately; of what uv has fetched, which a run needs
#: while it starts only.
LATELY_SECONDS = 3 * DAY_SECONDS
LATELY_FETCHED_SECONDS = 6 * LOOK_SECONDS
_SCHEMA = """
CREATE TABLE IF NOT EXISTS caches (
    path TEXT PRIMARY KEY,
    user TEXT NOT NULL,               -- with whose rights it is touched; empty: the agent's own
    idle_seconds REAL NOT NULL DEFAULT 0,
    bytes INTEGER,                    -- on the disk, when it was last looked at; null: never yet
    gone INTEGER NOT NULL DEFAULT 0   -- it has its last name, by which nobody finds it
);
"""

#: By a user's name; empty: the agent's own.
RightsOf = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Cache:
    """A row as it was when it was read."""

    path: str
    user: str
    idle_seconds: float
    bytes: int | None
    gone: int

    @property
    def lately_seconds(self) -> float:
        is_fetched = Path(self.path).name == uvproject.FETCHED
        return LATELY_FETCHED_SECONDS if is_fetched else LATELY_SECONDS


class Caches:
    def __init__(
        self, store: Store, attempts: Callable[[], Iterable[Attempt]], rights_of: RightsOf
    ) -> None:
        """`attempts`: those under way."""
        self._store = store
        self._attempts = attempts
        self._rights_of = rights_of
        self._bell = Bell()
        store.register(_SCHEMA)

    def note(self, path: Path, user: User) -> None:
        """An attempt is about to use it, or to make it: from now on it is not removed."""
        with self._store.transaction() as db:
            db.execute(
                "INSERT INTO caches (path, user) VALUES (?, ?)"
                " ON CONFLICT (path) DO UPDATE SET idle_seconds = 0",
                (str(path), "" if user.is_own else user.name),
            )

    def adopt(self, paths: Iterable[Path]) -> None:
        """What an earlier release has left: unused from now on."""
        with self._store.transaction() as db:
            for path in paths:
                db.execute(
                    "INSERT OR IGNORE INTO caches (path, user) VALUES (?, '')", (str(path),)
                )

    def run(self, stop: threading.Event) -> None:
        """Block until `stop`, looking each hour."""
        began = shim.now()
        while not stop.is_set():
            self._bell.wait(LOOK_SECONDS)
            if stop.is_set():
                return  # a look may take seconds
            now = shim.now()
            try:
                self.look(now - began)
            except (OSError, sqlite3.Error) as exc:
                logger.warning("what is kept for later runs cannot be looked at now: %s", exc)
            began = now

    def nudge(self) -> None:
        self._bell.ring()

    def look(self, seconds: float) -> None:
        """So much time has passed: remove what nobody needs."""
        used = [(path,) for path in self._used()]
        for cache in self._all():
            if cache.bytes is None or cache.idle_seconds == 0:
                self._do(self._measure, cache)
        with self._store.transaction() as db:
            db.execute(
                # What was noted since the last look: perhaps this very second.
                "UPDATE caches SET idle_seconds ="
                " CASE idle_seconds WHEN 0 THEN 1 ELSE idle_seconds + ? END",
                (seconds,),
            )
            db.executemany("UPDATE caches SET idle_seconds = 0 WHERE path = ?", used)
        for cache in self._due():
            self._do(self._remove, cache)

    # --- inside ---

    def _do(self, act: Callable[[Cache], None], cache: Cache) -> None:
        """One that cannot be touched keeps none of the others."""
        try:
            act(cache)
        except OSError as exc:
            logger.warning("%s cannot be looked after: %s", cache.path, exc.strerror)

    def _used(self) -> Iterator[str]:
        """By attempts that are under way."""
        for attempt in self._attempts():
            code, prefix = attempt.order.source, attempt.facts.get("prefix")
            if code is not None and code.kind == "git" and attempt.run_dir:
                above = Path(attempt.run_dir) / folders.NAME
                yield str(git.clone_of(code.url, above))
            if prefix:
                yield str(prefix)

    def _all(self) -> list[Cache]:
        """The longest unused first."""
        with self._store.transaction() as db:
            rows = db.execute("SELECT * FROM caches ORDER BY idle_seconds DESC, path").fetchall()
        return [Cache(**dict(row)) for row in rows]

    def _due(self) -> Iterator[Cache]:
        found = self._all()
        too_much = sum(cache.bytes or 0 for cache in found) - MOST_BYTES
        for cache in found:
            is_too_much = too_much > 0 and cache.idle_seconds >= cache.lately_seconds
            if cache.gone or cache.idle_seconds >= KEEP_SECONDS or is_too_much:
                too_much -= cache.bytes or 0
                yield cache

    def _measure(self, cache: Cache) -> None:
        with self._rights(cache) as may:
            found = bytes_on_disk(cache.path) if may else 0
        with self._store.transaction() as db:
            db.execute("UPDATE caches SET bytes = ? WHERE path = ?", (found, cache.path))

    def _remove(self, cache: Cache) -> None:
        """Under another name first: who comes meanwhile finds all of it, or nothing."""
        path = cache.path if cache.gone else self._renamed(cache)
        if path is None:
            return
        with self._rights(cache) as may:
            if may:
                folders.remove_whole(Path(path))
            is_left = may and os.path.lexists(path)
        if not is_left:
            with self._store.transaction() as db:
                db.execute("DELETE FROM caches WHERE path = ?", (path,))
            logger.info("%s was removed: no run has used it for long", cache.path)

    def _renamed(self, cache: Cache) -> str | None:
        """None: somebody has noted it since, or it cannot be renamed now."""
        gone = f"{cache.path}.gone"
        with self._store.transaction() as db, self._rights(cache) as may:
            changed = db.execute(
                "UPDATE OR REPLACE caches SET path = ?, gone = 1"
                " WHERE path = ? AND idle_seconds >= ?",
                (gone, cache.path, cache.idle_seconds),
            ).rowcount
            if changed and may and os.path.lexists(cache.path):
                os.rename(cache.path, gone)
        return gone if changed else None

    def _rights(self, cache: Cache) -> "_Rights":
        return _Rights(self._rights_of, cache.user)


class _Rights:
    """Those of a cache's user; False within: there is no such user any more."""

    def __init__(self, rights_of: RightsOf, user: str) -> None:
        self._rights_of, self._user = rights_of, user
        self._taken: AbstractContextManager[None] | None = None

    def __enter__(self) -> bool:
        try:
            self._taken = self._rights_of(self._user)
            self._taken.__enter__()
        except StartFailed:
            self._taken = None
        return self._taken is not None

    def __exit__(self, *exc_info: object) -> None:
        if self._taken is not None:
            self._taken.__exit__(*exc_info)  # type: ignore[arg-type]


def bytes_on_disk(path: str) -> int:
    """Of all below it. A file that has several names, as uv gives them, counts for its part."""
    total = 0.0
    for folder, _folders, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                found = os.lstat(os.path.join(folder, name))
                total += found.st_blocks * 512 / max(1, found.st_nlink)
    return int(total)
