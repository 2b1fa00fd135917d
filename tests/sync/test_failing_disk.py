"""A disk that fails at each of its calls, on the server and under the agent's journal: what was
acknowledged stays, nothing half is ever seen, and the same again succeeds once the disk does."""

import errno
import itertools
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import settings

from agent.files.filejournal import FileJournal
from agent.files.growing import Growing
from agent.files.regular import Mark
from agent.files.runfiles import RunFiles
from agent.store import Store
from sync import storage
from sync.errors import DiskFull
from sync.models import SyncFile
from tests.agent.filehost import UID, Direct, FileHost
from tests.faults.disk import Disk, Failing
from tests.sync.conftest import Run

pytestmark = pytest.mark.django_db
FIRST, SECOND = b"epoch,loss\n1,0.5\n", b"epoch,loss,lr\n1,0.5,0.1\n"
WHOLE, NEWER = b"0123456789", b"abcdefghijkl"
MOST_CALLS = 60
#: How it fails, and whether for good. None: a write that is short, which is no error.
FAILS = [(errno.ENOSPC, False), (errno.EIO, True), (None, False)]

#: What was there before, and then comes, is (name, how, what the file then holds).
Send = tuple[str, Callable[[Run], object], bytes]
SENDS: dict[str, list[Send]] = {
    "rows": [
        ("run_001.csv", lambda run: run.delta(FIRST[:11], generation=1, offset=0), FIRST[:11]),
        ("run_001.csv", lambda run: run.delta(FIRST[11:], generation=1, offset=11), FIRST),
    ],
    "another version": [
        ("run_001.csv", lambda run: run.delta(FIRST, generation=1, offset=0), FIRST),
        ("run_001.csv", lambda run: run.delta(SECOND, generation=2, offset=0), SECOND),
    ],
    "a whole file": [
        ("run_001.pt", lambda run: run.full(WHOLE, generation=1), WHOLE),
        ("run_001.pt", lambda run: run.full(NEWER, generation=2), NEWER),
    ],
    "a rewritten whole": [
        ("run_001.csv", lambda run: run.full(FIRST, "run_001.csv", generation=1), FIRST),
        ("run_001.csv", lambda run: run.full(SECOND, "run_001.csv", generation=2), SECOND),
    ],
    "an artifact": [
        ("run_001/a/b.png", lambda run: run.full(WHOLE, "run_001/a/b.png"), WHOLE),
    ],
    "chunks": [
        ("run_001.pt", lambda run: run.full(WHOLE, generation=1), WHOLE),
        (
            "run_001.pt",
            lambda run: [run.chunk(NEWER, at, 6, generation=2) for at in (0, 6)],
            NEWER,
        ),
    ],
}


@pytest.mark.parametrize(("error", "for_good"), FAILS, ids=["full", "broken", "short"])
@pytest.mark.parametrize("what", SENDS)
def test_whatever_call_fails_what_was_acknowledged_stays(
    run: Run, monkeypatch, what, error, for_good
):
    *before, (name, send, after) = SENDS[what]
    for number in itertools.count(1):
        SyncFile.objects.all().delete()
        settings.LAB_LOGS_DIR = settings.LAB_LOGS_DIR.parent / f"logs{number}"
        disk = Disk(settings.LAB_LOGS_DIR)
        monkeypatch.setattr(storage, "os", disk)
        for _, earlier, _ in before:
            earlier(run)
        was = before[-1][2] if before else b""
        failing = disk.on_point = Failing(number, error, for_good=for_good)

        try:
            send(run)
        except DiskFull:
            check_nothing_is_half(run, name, was, after)
        disk.on_point = lambda point: None
        send(run)

        assert run.stored(name) == after
        assert leftovers() == []
        if failing.calls < number:
            break
    assert 1 < number < MOST_CALLS


def check_nothing_is_half(run: Run, name: str, was: bytes, after: bytes) -> None:
    """A reader gets the old, or the new when it had just taken its place; of what grows, a
    beginning of either, and of nothing only what is laid aside."""
    got = read(run, name)
    if name.endswith(".csv"):
        kept = run.target(name).place.path.with_name("run_001.csv.g1")
        assert was.startswith(got) or after.startswith(got)
        assert len(got) >= len(was) or kept.read_bytes() == was
    else:
        assert got in (was, after)


def read(run: Run, name: str) -> bytes:
    row = SyncFile.objects.filter(name=name).first()
    try:
        with storage.open_file(run.target(name).place) as file:
            return file.read(storage.readable_size(name, row.size if row else 0, file))
    except FileNotFoundError:
        return b""


def leftovers() -> list[Path]:
    uploads = settings.LAB_LOGS_DIR / storage.UPLOADS
    return [
        *settings.LAB_LOGS_DIR.rglob("*.part"),
        *(uploads.iterdir() if uploads.exists() else []),
    ]


# --- under the agent's journal -------------------------------------------------------------------


class BadDatabase:
    """A connection whose n-th statement that changes something fails, before or after it."""

    def __init__(self, db: sqlite3.Connection, number: int) -> None:
        self._db, self._number, self.calls = db, number, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)

    def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
        if sql.startswith(("BEGIN", "COMMIT", "INSERT", "DELETE")):
            self.calls += 1
            if self.calls == self._number:
                raise sqlite3.OperationalError("disk I/O error")
        return self._db.execute(sql, *parameters)


def test_whatever_statement_of_the_journal_fails_each_row_arrives_once(tmp_path):
    for number in itertools.count(1):
        store, host = Store(Path(":memory:")), FileHost()
        bad = store._db = BadDatabase(store._db, number)
        path = tmp_path / "run_001.csv"
        path.write_bytes(FIRST)
        run = RunFiles("a1", UID, "digits", "run_001", 1, tmp_path)
        file = None
        for step in range(12):
            if step == 6:
                path.write_bytes(FIRST + b"2,0.4\n")
                run.exited = True
            try:
                file = file or Growing(run, path.name, FileJournal(store), threading.Event())
            except sqlite3.OperationalError:
                continue
            file.see(Mark.of(path.stat()), 0.0)
            file.work(Direct(host))

        assert file.settled
        assert host.results[path.name].content == FIRST + b"2,0.4\n"
        assert host.results[path.name].generation == 1
        if bad.calls < number:
            break
    assert number > 9
