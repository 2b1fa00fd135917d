"""What this agent has taken on, and what it still has to tell the server.

An attempt is written here before the server hears that it was accepted, each event before it is
sent. An attempt is done when nothing is left to do for it: its end and the release of its GPUs
are acknowledged and its files are settled. Done ones are remembered for a while: a server that was
restored from a backup may have forgotten what it acknowledged, and is told again.
"""

import json
import sqlite3
import uuid
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from agent import wire
from agent.store import Store

_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    attempt_order TEXT NOT NULL,   -- JSON of wire.AttemptOrder, without its secrets
    boot_id TEXT,                  -- of the host when the process was started
    pid INTEGER,
    started_at TEXT,
    exit_code INTEGER,
    stop_reason TEXT,              -- the server's wish to stop it
    run_dir TEXT,                  -- where its files lie; none before it was prepared
    facts TEXT NOT NULL DEFAULT '{}',  -- JSON: what its metadata says of the start
    gpu_memory_before TEXT NOT NULL DEFAULT '{}'  -- JSON: uuid -> bytes in use before the start
);
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    attempt_id TEXT NOT NULL,
    type TEXT NOT NULL,
    body TEXT NOT NULL,
    settled INTEGER NOT NULL DEFAULT 0,
    UNIQUE (attempt_id, type)      -- each may be said once, however often a step is repeated
);
CREATE TABLE IF NOT EXISTS owners (
    run_dir TEXT NOT NULL,
    run_name TEXT NOT NULL,
    experiment_uid TEXT NOT NULL,
    attempt_id TEXT NOT NULL,
    PRIMARY KEY (run_dir, run_name)
);
CREATE TABLE IF NOT EXISTS moves (
    run_dir TEXT NOT NULL,
    run_name TEXT NOT NULL,
    aside TEXT NOT NULL,           -- where the files of that name are being moved to
    PRIMARY KEY (run_dir, run_name)
);
CREATE TABLE IF NOT EXISTS done (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    attempt_id TEXT NOT NULL UNIQUE
);
CREATE VIEW IF NOT EXISTS under_way AS
    SELECT * FROM attempts WHERE id NOT IN (SELECT attempt_id FROM done) ORDER BY rowid;
"""
#: Of the done ones. A backup that is older than a thousand jobs of one host is another matter.
REMEMBERED = 1000


@dataclass(frozen=True)
class Attempt:
    """A row as it was when it was read."""

    id: str
    state: wire.AttemptState
    order: wire.AttemptOrder
    boot_id: str | None
    pid: int | None
    started_at: str | None
    exit_code: int | None
    stop_reason: str | None
    run_dir: str | None
    facts: dict[str, Any]
    gpu_memory_before: dict[str, int]


@dataclass(frozen=True)
class Outgoing:
    """An event that waits to be acknowledged."""

    seq: int
    attempt_id: str
    event: wire.AttemptEvent


class Journal:
    def __init__(self, store: Store) -> None:
        self._store = store
        store.register(_SCHEMA)

    # --- attempts ---

    def attempts(self) -> list[Attempt]:
        with self._store.transaction() as db:
            return [_attempt(row) for row in db.execute("SELECT * FROM under_way")]

    def find(self, attempt_id: str) -> Attempt | None:
        with self._store.transaction() as db:
            row = db.execute("SELECT * FROM under_way WHERE id = ?", (attempt_id,)).fetchone()
        return None if row is None else _attempt(row)

    def accept(
        self,
        order: wire.AttemptOrder,
        state: wire.AttemptState = wire.AttemptState.ACCEPTED,
        boot_id: str | None = None,
    ) -> None:
        """Take an order on. To be durable before the server hears of it."""
        with self._store.transaction() as db:
            _insert(db, order, state, boot_id)

    def accept_lost(self, order: wire.AttemptOrder, boot_id: str) -> None:
        """Take on what the server says we accepted, and of which we know nothing: as something
        that ran, so that it is never started a second time."""
        self.accept(order, wire.AttemptState.RUNNING, boot_id)

    def adopt(
        self, order: wire.AttemptOrder, boot_id: str, run_dir: str, facts: dict[str, Any]
    ) -> None:
        """Take on what we know nothing of and whose processes were found, as just started."""
        with self._store.transaction() as db:
            _insert(db, order, wire.AttemptState.STARTING, boot_id)
            db.execute("UPDATE attempts SET facts = ? WHERE id = ?", (json.dumps(facts), order.id))
            _own(db, run_dir, order)

    def starting(
        self, attempt_id: str, boot_id: str, facts: dict[str, Any], memory: dict[str, int]
    ) -> None:
        with self._store.transaction() as db:
            db.execute(
                "UPDATE attempts SET state = ?, boot_id = ?, facts = ?, gpu_memory_before = ?"
                " WHERE id = ?",
                (
                    wire.AttemptState.STARTING.value,
                    boot_id,
                    json.dumps(facts),
                    json.dumps(memory),
                    attempt_id,
                ),
            )

    def not_started(self, attempt_id: str) -> None:
        """The agent died between `starting` and the supervisor's birth: as only accepted."""
        with self._store.transaction() as db:
            _set_state(db, attempt_id, wire.AttemptState.ACCEPTED)

    def wish_stop(self, attempt_id: str, reason: str) -> None:
        """Keep the first reason given."""
        with self._store.transaction() as db:
            db.execute(
                "UPDATE attempts SET stop_reason = coalesce(stop_reason, ?) WHERE id = ?",
                (reason, attempt_id),
            )

    def running(self, attempt_id: str, pid: int, started_at: str) -> None:
        with self._store.transaction() as db:
            _set_state(db, attempt_id, wire.AttemptState.RUNNING)
            db.execute(
                "UPDATE attempts SET pid = ?, started_at = ? WHERE id = ?",
                (pid, started_at, attempt_id),
            )
            seen = _environment(db, attempt_id)
            kind = wire.EventType.STARTED
            _say(db, attempt_id, kind, pid=pid, started_at=started_at, environment=seen)

    def learn(self, attempt_id: str, facts: dict[str, Any]) -> None:
        """Of its environment, more than was known at the start."""
        with self._store.transaction() as db:
            db.execute(
                "UPDATE attempts SET facts = ? WHERE id = ?", (json.dumps(facts), attempt_id)
            )

    def exited(self, attempt_id: str, **event: Any) -> None:
        """Its process is gone. `event` holds fields of wire.AttemptEvent."""
        with self._store.transaction() as db:
            _set_state(db, attempt_id, wire.AttemptState.EXITED)
            db.execute(
                "UPDATE attempts SET exit_code = ? WHERE id = ?",
                (event.get("exit_code"), attempt_id),
            )
            seen = _environment(db, attempt_id)
            _say(db, attempt_id, wire.EventType.EXITED, environment=seen, **event)

    def start_failed(self, attempt_id: str, **event: Any) -> None:
        """It never ran. `event` holds fields of wire.AttemptEvent."""
        with self._store.transaction() as db:
            _set_state(db, attempt_id, wire.AttemptState.EXITED)
            _say(db, attempt_id, wire.EventType.START_FAILED, **event)

    def released(self, attempt_id: str, gpu_uuids: list[str]) -> None:
        with self._store.transaction() as db:
            _say(db, attempt_id, wire.EventType.RELEASED, gpu_uuids=gpu_uuids)

    def finish(self, attempt_id: str) -> list[str]:
        """It is done. Forget the oldest of those that are, and return their ids."""
        with self._store.transaction() as db:
            db.execute("INSERT OR IGNORE INTO done (attempt_id) VALUES (?)", (attempt_id,))
            newest_first = "SELECT attempt_id FROM done ORDER BY seq DESC LIMIT -1 OFFSET ?"
            forgotten = [tuple(row) for row in db.execute(newest_first, (REMEMBERED,))]
            db.executemany("DELETE FROM done WHERE attempt_id = ?", forgotten)
            db.executemany("DELETE FROM events WHERE attempt_id = ?", forgotten)
            db.executemany("DELETE FROM attempts WHERE id = ?", forgotten)
        return [attempt_id for (attempt_id,) in forgotten]

    def done(self) -> list[Attempt]:
        """Those that are done and remembered, the last one first."""
        with self._store.transaction() as db:
            rows = db.execute(
                "SELECT attempts.* FROM attempts JOIN done ON id = attempt_id ORDER BY seq DESC"
            )
            return [_attempt(row) for row in rows]

    def reopen(self, attempt_id: str) -> None:
        """Its files are under way again. What was said of it stays acknowledged."""
        with self._store.transaction() as db:
            db.execute("DELETE FROM done WHERE attempt_id = ?", (attempt_id,))

    def revive(self, attempt_id: str) -> Attempt | None:
        """A done attempt that the server believes to run: all of it is to be said again.

        None: there is none of that id among those remembered.
        """
        with self._store.transaction() as db:
            done = db.execute("DELETE FROM done WHERE attempt_id = ?", (attempt_id,)).rowcount
            if done:
                db.execute("UPDATE events SET settled = 0 WHERE attempt_id = ?", (attempt_id,))
        return self.find(attempt_id) if done else None

    # --- events ---

    def outgoing(self) -> list[Outgoing]:
        """The oldest unsettled event of each attempt: the next may go when it is settled."""
        with self._store.transaction() as db:
            rows = db.execute(
                "SELECT min(seq) AS seq, attempt_id, body FROM events WHERE NOT settled"
                " GROUP BY attempt_id ORDER BY seq"
            ).fetchall()
        return [
            Outgoing(
                row["seq"],
                row["attempt_id"],
                wire.decode(wire.AttemptEvent, json.loads(row["body"])),
            )
            for row in rows
        ]

    def settle(self, outgoing: Outgoing) -> None:
        with self._store.transaction() as db:
            db.execute("UPDATE events SET settled = 1 WHERE seq = ?", (outgoing.seq,))

    def said(self, attempt_id: str, kind: wire.EventType) -> bool:
        """Whether that event was written, acknowledged or not."""
        with self._store.transaction() as db:
            return _count(db, "attempt_id = ? AND type = ?", attempt_id, kind.value) > 0

    def all_settled(self, attempt_id: str) -> bool:
        with self._store.transaction() as db:
            return _count(db, "attempt_id = ? AND NOT settled", attempt_id) == 0

    # --- whose files lie in the workspace ---

    def owner(self, run_dir: str, run_name: str) -> tuple[str, str] | None:
        """(experiment_uid, attempt id) of the files `{run_dir}/{run_name}.*`, if known."""
        with self._store.transaction() as db:
            row = db.execute(
                "SELECT experiment_uid, attempt_id FROM owners WHERE run_dir = ? AND run_name = ?",
                (run_dir, run_name),
            ).fetchone()
        return None if row is None else (row["experiment_uid"], row["attempt_id"])

    def own(self, run_dir: str, order: wire.AttemptOrder) -> None:
        """The files of that name are this attempt's from now on."""
        with self._store.transaction() as db:
            _own(db, run_dir, order)

    def move(self, run_dir: str, run_name: str, aside: str) -> None:
        """The files of that name are going to lie `aside`; for their owner they do from now on."""
        owner = self.owner(run_dir, run_name)
        with self._store.transaction() as db:
            if owner:
                db.execute("UPDATE attempts SET run_dir = ? WHERE id = ?", (aside, owner[1]))
            db.execute("INSERT OR REPLACE INTO moves VALUES (?, ?, ?)", (run_dir, run_name, aside))

    def moves(self) -> list[tuple[str, str, str]]:
        """(run_dir, run_name, aside) of each move that was begun and may not be finished."""
        with self._store.transaction() as db:
            rows = db.execute("SELECT run_dir, run_name, aside FROM moves").fetchall()
        return [(row["run_dir"], row["run_name"], row["aside"]) for row in rows]

    def moved(self, run_dir: str, run_name: str) -> None:
        """All files of that name lie aside: nobody owns the name any more."""
        with self._store.transaction() as db:
            for table in ("moves", "owners"):
                db.execute(
                    f"DELETE FROM {table} WHERE run_dir = ? AND run_name = ?",  # noqa: S608
                    (run_dir, run_name),
                )


def _attempt(row: sqlite3.Row) -> Attempt:
    return Attempt(
        id=row["id"],
        state=wire.AttemptState(row["state"]),
        order=wire.decode(wire.AttemptOrder, json.loads(row["attempt_order"])),
        boot_id=row["boot_id"],
        pid=row["pid"],
        started_at=row["started_at"],
        exit_code=row["exit_code"],
        stop_reason=row["stop_reason"],
        run_dir=row["run_dir"],
        facts=json.loads(row["facts"]),
        gpu_memory_before=json.loads(row["gpu_memory_before"]),
    )


def _insert(
    db: sqlite3.Connection,
    order: wire.AttemptOrder,
    state: wire.AttemptState,
    boot_id: str | None,
) -> None:
    text = json.dumps(asdict(replace(order, secrets={})))
    db.execute(
        "INSERT OR IGNORE INTO attempts (id, state, attempt_order, boot_id) VALUES (?, ?, ?, ?)",
        (order.id, state.value, text, boot_id),
    )


def _own(db: sqlite3.Connection, run_dir: str, order: wire.AttemptOrder) -> None:
    db.execute("UPDATE attempts SET run_dir = ? WHERE id = ?", (run_dir, order.id))
    db.execute(
        "INSERT OR REPLACE INTO owners VALUES (?, ?, ?, ?)",
        (run_dir, order.run_name, order.experiment_uid, order.id),
    )


def _environment(db: sqlite3.Connection, attempt_id: str) -> wire.Environment | None:
    """What its facts tell of what it runs in; nothing, if it never came to that."""
    row = db.execute("SELECT facts FROM attempts WHERE id = ?", (attempt_id,)).fetchone()
    facts = json.loads(row["facts"]) if row else {}
    names = [field.name for field in fields(wire.Environment)]
    known = {name: facts[name] for name in names if facts.get(name)}
    try:
        return wire.decode(wire.Environment, known) if known else None
    except wire.Malformed:  # a folder of a name that cannot be told
        return None


def _set_state(db: sqlite3.Connection, attempt_id: str, state: wire.AttemptState) -> None:
    db.execute("UPDATE attempts SET state = ? WHERE id = ?", (state.value, attempt_id))


def _say(db: sqlite3.Connection, attempt_id: str, kind: wire.EventType, **fields: Any) -> None:
    event = wire.AttemptEvent(event_id=str(uuid.uuid4()), type=kind, **fields)
    db.execute(
        "INSERT OR IGNORE INTO events (attempt_id, type, body) VALUES (?, ?, ?)",
        (attempt_id, kind.value, wire.dumps(event).decode()),
    )


def _count(db: sqlite3.Connection, condition: str, *values: str) -> int:
    query = f"SELECT count(*) FROM events WHERE {condition}"  # noqa: S608 - constants of ours
    return int(db.execute(query, values).fetchone()[0])
