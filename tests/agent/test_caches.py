"""Clones and environments kept for later runs go by age and size, and never under a run."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import users, uvproject, wire
from agent.code import caches
from agent.code.caches import DAY_SECONDS, Caches, bytes_on_disk
from agent.code.git import clone_of
from agent.errors import StartFailed
from agent.journal import Attempt, Journal
from agent.store import Store
from tests.agent.conftest import AgentProcess
from tests.agent.server import FakeServer, make_order
from tests.agent.test_packages import FAKE_UV
from tests.e2e.test_code import git, write

URL = "https://git.invalid/lab/digits"


class Host:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.attempts: list[Attempt] = []
        self.refused = False
        self.store = Store(folder / "agent.sqlite3")
        self.caches = Caches(self.store, lambda: self.attempts, self._rights)

    def _rights(self, user: str) -> AbstractContextManager[None]:
        if self.refused:
            raise StartFailed("There is no Unix user of that name")
        return nullcontext()

    def made(self, name: str, size: int = 4096) -> Path:
        path = self.folder / "uv" / name
        write(path / "lib" / "a", b"x" * size)
        self.caches.note(path, users.own())
        return path

    def days(self, count: float) -> None:
        """The agent ran for so long, with a look at the beginning and at the end."""
        self.caches.look(1.0)
        self.caches.look(count * DAY_SECONDS)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.store.close()


def attempt(host: Host, prefix: Path | None = None, **order: Any) -> Attempt:
    """One that is under way."""
    read = wire.decode(wire.AttemptOrder, make_order(**order))
    journal = Journal(host.store)
    journal.accept(read)
    found = journal.find(read.id)
    assert found is not None
    facts = {"prefix": str(prefix)} if prefix else {}
    return replace(found, facts=facts, run_dir=str(host.folder / "digits"))


def test_what_no_run_has_used_for_a_month_goes(host: Host) -> None:
    old, used = host.made("old"), host.made("used")

    host.days(29)
    host.caches.note(used, users.own())
    host.days(1.5)

    assert (old.exists(), used.exists()) == (False, True)
    assert not old.with_name("old.gone").exists()


def test_what_a_run_that_is_under_way_uses_stays_however_long(host: Host) -> None:
    environment = host.made("environment")
    source = {"kind": "git", "url": URL, "commit": "3fd1525"}
    clone = clone_of(URL, host.folder / "digits" / ".code")
    write(clone / "HEAD", "ref: refs/heads/main\n")
    host.caches.note(clone, users.own())
    host.attempts = [attempt(host, environment), attempt(host, source=source)]

    host.days(100)
    kept = environment.exists(), clone.exists()
    host.attempts = []
    host.days(31)

    assert kept == (True, True)
    assert (environment.exists(), clone.exists()) == (False, False)


def test_when_all_is_too_large_the_longest_unused_go_but_none_of_the_last_days(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "MOST_BYTES", 150_000)
    oldest = host.made("oldest", 100_000)
    host.days(1)
    newest = host.made("newest", 100_000)

    host.days(1)
    early = [path.exists() for path in (oldest, newest)]
    host.days(1.5)

    assert early == [True, True]  # too much, and a run may wait to go on with either
    assert [path.exists() for path in (oldest, newest)] == [False, True]


def test_what_uv_has_fetched_may_go_sooner_as_only_a_start_needs_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "MOST_BYTES", 150_000)
    environment = host.made("environment", 100_000)
    fetched = host.made(uvproject.FETCHED, 100_000)

    host.caches.look(DAY_SECONDS)  # it was noted just now
    before = fetched.exists()
    host.caches.look(DAY_SECONDS)

    assert (before, fetched.exists(), environment.exists()) == (True, False, True)


def test_a_removal_that_was_cut_short_is_finished_by_the_next_look(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = host.made("old")
    with monkeypatch.context() as patched:
        patched.setattr("agent.code.folders.remove_whole", lambda path: None)
        host.days(31)
    gone = old.with_name("old.gone")
    assert (old.exists(), gone.exists()) == (False, True)

    host.caches.look(60)

    assert not gone.exists()


def test_what_is_needed_again_while_it_is_being_removed_is_made_anew(host: Host) -> None:
    old = host.made("old")
    host.days(29)
    [cache] = host.caches._all()

    host.caches.note(old, users.own())
    host.caches._remove(cache)

    assert old.exists()


def test_what_somebody_took_away_by_hand_is_forgotten(host: Host) -> None:
    shutil.rmtree(host.made("old"))

    host.days(31)

    assert host.caches._all() == []


def test_of_a_user_who_is_gone_nothing_is_touched_and_nothing_breaks(host: Host) -> None:
    theirs = host.made("theirs")
    host.refused = True

    host.days(31)

    assert theirs.exists() or theirs.with_name("theirs.gone").exists()


def test_one_that_cannot_be_removed_keeps_none_of_the_others(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, other = host.made("a stuck one"), host.made("b other")
    (stuck.parent / "a stuck one.gone" / "full").mkdir(parents=True)  # it has no name to take

    host.days(31)

    assert (stuck.exists(), other.exists()) == (True, False)


def test_a_file_of_several_names_counts_for_its_part(tmp_path: Path) -> None:
    write(tmp_path / "fetched" / "a", b"x" * 8192)
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "a").hardlink_to(tmp_path / "fetched" / "a")

    sizes = [bytes_on_disk(str(tmp_path / name)) for name in ("fetched", "environment")]

    assert sizes[0] == sizes[1] > 0
    assert sum(sizes) == (tmp_path / "fetched" / "a").stat().st_blocks * 512


# --- which an agent notes ------------------------------------------------------------------------


def test_an_agent_notes_clones_and_environments_before_it_uses_them(
    tmp_path: Path, server: FakeServer, agent: AgentProcess
) -> None:
    top = tmp_path / "project"
    top.mkdir()
    write(top / "uv.lock", "version = 1\n")
    write(top / "pyproject.toml", "[project]\nname = 'x'\n")
    write(tmp_path / "bin" / "uv", FAKE_UV, 0o755)
    git(top, "init", "-q", "-b", "main")
    git(top, "add", ".")
    git(top, "commit", "-qm", "first")
    source = {"kind": "git", "url": f"file://{top}", "commit": git(top, "rev-parse", "HEAD")}
    path = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    agent.start()

    order = server.order(source=source, python="uv", command=["true"], environment=path)
    server.wait_event(order["id"], "exited")

    [database] = agent.state.glob("**/journal.sqlite3")
    kept = {row["path"] for row in Store(database)._db.execute("SELECT path FROM caches")}
    clone = clone_of(source["url"], agent.run_dir(order["project"]) / ".code")
    assert str(clone) in kept
    assert str(database.parent / "uv" / uvproject.FETCHED) in kept
    assert len(kept) == 3
