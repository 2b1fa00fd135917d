"""A server that comes back from an older backup gets again what it had acknowledged since, of runs
that had ended and been settled; whichever of database and files was restored."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass

import pytest
from django.core.management import call_command

from agent.files.audit import Audit, lacking
from agent.files.filejournal import FileJournal, Sent
from agent.files.filesync import FileSync
from agent.journal import Attempt, Journal
from agent.store import Store
from agent.transport import Transport
from experiments import leases
from experiments.models import Attempt as Row
from experiments.models import Project
from experiments.states import Outcome
from labsite.clock import database_now
from sync import status, storage, tasks, verify
from sync.models import SyncFile, What
from sync.trash import put_away
from tests import make
from tests.sync.conftest import TOKEN, Run
from tests.sync.test_with_agent import Side, wait_for

CSV = b"epoch,loss\n1,0.5\n"
LATER = {
    "run_001.csv": CSV + b"2,0.4\n",
    "run_001.pt": b"second",  # of the length of the first
    "run_001/images/1.png": b"png",
}


@pytest.fixture
def side(live_server, run: Run, tmp_path) -> Side:
    folder = tmp_path / "work" / "digits"
    folder.mkdir(parents=True)
    return Side(live_server.url, run, folder)


@dataclass
class Server:
    """The server's data as they were at a moment."""

    side: Side

    def __post_init__(self) -> None:
        self._logs = self.side.run.target().place.path.parents[1]
        self._copy = self._logs.with_name("copy")
        shutil.copytree(self._logs, self._copy)
        self._rows = list(SyncFile.objects.all())

    def restore(self, what: str) -> None:
        if what in ("database", "both"):
            SyncFile.objects.all().delete()
            SyncFile.objects.bulk_create(self._rows)
        if what in ("files", "both"):
            shutil.rmtree(self._logs)
            shutil.copytree(self._copy, self._logs)


@contextmanager
def auditing(side: Side, sync: FileSync) -> Iterator[Audit]:
    """The audit of an agent that has settled the attempt of `side`."""
    folder = side.folder.parent
    with closing(Store(folder / "journal.sqlite3")) as attempts:
        journal, order = Journal(attempts), leases.order(side.attempt, side.attempt.device)
        journal.accept(order)
        journal.own(str(side.folder), order)
        journal.exited(order.id, exit_code=0)
        journal.finish(order.id)

        def offer_again(attempt: Attempt, names: set[str]) -> None:
            sync.watch(*watched, side.attempt.number, side.folder)
            sync.exited(attempt.id)
            sync.doubt(attempt.id, names)

        job = side.attempt.job
        watched = (side.id, job.uid, job.project.name, job.run_name)
        with closing(Store(folder / "files.sqlite3")) as files:
            yield Audit(
                lambda: Transport(side.url, TOKEN), journal, FileJournal(files), offer_again
            )


def ask(side: Side, audit: Audit) -> None:
    with closing(Transport(side.url, TOKEN)) as transport:
        audit.ask(transport, threading.Event())


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("what", ["database", "files", "both"])
def test_what_a_restored_server_lacks_of_a_settled_run_is_sent_again(side: Side, what: str):
    side.path("run_001.csv").write_bytes(CSV)
    side.path("run_001.pt").write_bytes(b"first.")
    with side.agent() as sync, auditing(side, sync) as audit:
        side.arrives("run_001.csv", CSV)
        side.arrives("run_001.pt", b"first.")
        backup = Server(side)
        for name, content in LATER.items():
            side.path(name).write_bytes(content)
        side.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
        side.ends(sync)
        sync.leave(side.id)

        backup.restore(what)
        if what == "files":
            call_command("checkfiles")  # an older file of the same length
        ask(side, audit)

        wait_for(lambda: sync.settled(side.id), "all is settled again")
        assert {name: side.acknowledged(name) for name in LATER} == LATER
        assert side.stored() == side.local()
        sync.leave(side.id)
        ask(side, audit)
        assert sync.reports(side.id) == {}  # nothing is offered a second time
    assert side.generation("run_001.csv") == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("by_hand", [b"other.", b"of another length"])
def test_what_somebody_put_in_the_place_of_a_checkpoint_is_found_out(side: Side, by_hand: bytes):
    """I12: what is said to be synced is equal on both sides."""
    side.path("run_001.pt").write_bytes(b"mine..")
    with side.agent() as sync, auditing(side, sync) as audit:
        side.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
        side.ends(sync)
        sync.leave(side.id)

        side.run.full(by_hand)
        assert side.generation("run_001.pt") == 2
        ask(side, audit)

        wait_for(lambda: sync.settled(side.id), "all is settled again")
        assert side.stored() == side.local()
        sync.leave(side.id)
        ask(side, audit)
        assert sync.reports(side.id) == {}  # nothing is offered a second time


@pytest.mark.django_db(transaction=True)
def test_a_checkpoint_of_a_run_that_goes_on_is_sent_again_too(side: Side):
    with side.agent() as sync:
        side.path("run_001.pt").write_bytes(b"weights")
        side.arrives("run_001.pt", b"weights")
        SyncFile.objects.all().delete()

        sync.doubt(side.id, {"run_001.pt"})

        wait_for(lambda: side.acknowledged("run_001.pt") == b"weights", "it is there again")
    assert side.generation("run_001.pt") == 1


@pytest.mark.django_db(transaction=True)
def test_files_whose_results_are_another_try_s_are_not_offered(side: Side):
    side.path("run_001.csv").write_bytes(CSV)
    with side.agent() as sync, auditing(side, sync) as audit:
        side.attempt.end(Outcome.HOST_REBOOTED, database_now())
        side.ends(sync)
        sync.leave(side.id)
        make.attempt(Row.objects.get().job, side.attempt.device)
        SyncFile.objects.all().delete()

        ask(side, audit)

        assert sync.reports(side.id) == {}


@pytest.mark.django_db(transaction=True)
def test_what_does_not_lie_here_any_more_is_not_offered(side: Side, caplog):
    side.path("run_001.csv").write_bytes(CSV)
    with side.agent() as sync, auditing(side, sync) as audit:
        side.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
        side.ends(sync)
        sync.leave(side.id)
        SyncFile.objects.all().delete()
        os.unlink(side.path("run_001.csv"))

        ask(side, audit)

    assert "lacks" not in caplog.text


WHOLE = Sent(generation=2, acked_bytes=10, sha256="a" * 64, complete=True)
GROWS = Sent(generation=2, acked_bytes=10, sha256="a" * 64)
THERE = {"attempt": 1, "generation": 2, "size": 10, "complete": True}


@pytest.mark.parametrize(
    ("sent", "there", "lacks"),
    [
        (WHOLE, THERE, False),
        (WHOLE, None, True),
        (WHOLE, THERE | {"complete": False}, True),
        (WHOLE, THERE | {"generation": 1}, True),
        (WHOLE, THERE | {"sha256": "a" * 64}, False),
        (WHOLE, THERE | {"sha256": "b" * 64}, True),  # somebody sent another one by hand
        (WHOLE, THERE | {"generation": 3, "complete": False}, True),
        (WHOLE, THERE | {"generation": 3, "sha256": "a" * 64}, False),  # or the same
        (WHOLE, THERE | {"generation": 1, "sha256": "a" * 64}, False),
        (WHOLE, THERE | {"attempt": 2}, False),
        (WHOLE, THERE | {"attempt": 0}, True),
        (GROWS, THERE | {"generation": 3, "size": 9}, False),  # its next delta finds out
        (GROWS, THERE | {"complete": False}, False),
        (GROWS, THERE | {"complete": False, "size": 9}, True),
        (Sent(generation=2), None, False),  # nothing was acknowledged
        (Sent(generation=2, acked_bytes=10, deleted=True), None, False),
    ],
)
def test_what_counts_as_lacking(sent: Sent, there: dict | None, lacks: bool):
    told = {"attempt": 1, "files": {"f": there} if there else {}}

    assert lacking(told, 1, {"f": sent}) == ({"f"} if lacks else set())
    assert lacking(told | {"attempt": 2}, 1, {"f": sent}) is None


@pytest.mark.django_db
def test_what_the_disk_has_lost_is_not_told_as_stored(run: Run):
    run.full(b"weights", generation=1)
    run.target("run_001.pt").place.path.write_bytes(b"wei")

    job = run.attempt.job
    told = status.as_json(job, status.of(job, database_now()))["files"]["run_001.pt"]

    assert (told["size"], told["complete"]) == (3, False)


@pytest.mark.django_db
def test_checkfiles_names_what_differs_and_leaves_the_rest(run: Run, capsys):
    run.full(b"weights", generation=1)
    run.delta(b"abc", generation=1, offset=0)
    run.target("run_001.pt").place.path.write_bytes(b"weightS")

    call_command("checkfiles")

    assert "run_001.pt" in capsys.readouterr().out
    assert (run.row("run_001.pt").complete, run.row("run_001.pt").outdated) == (False, True)
    assert (run.row().size, run.row().outdated) == (3, False)


@pytest.mark.django_db
def test_checkfiles_leaves_what_lies_in_the_trash(run: Run, capsys):
    run.full(b"weights", generation=1)
    [project] = Project.objects.all()
    put_away(project, What.CHECKPOINTS, [run.row("run_001.pt")], [], database_now())
    tasks.tidy()

    call_command("checkfiles")

    assert "0 files read" in capsys.readouterr().out


@pytest.mark.django_db
def test_checkfiles_leaves_what_is_deleted_while_it_waits_for_it(run: Run, monkeypatch):
    row = run.full(b"weights", generation=1).row
    [project] = Project.objects.all()
    locked = storage.locked

    def meanwhile(place: storage.Place, **more: float) -> AbstractContextManager[None]:
        put_away(project, What.CHECKPOINTS, [row], [], database_now())
        place.path.unlink()
        return locked(place, **more)

    monkeypatch.setattr(storage, "locked", meanwhile)

    assert list(verify.check_all()) == [(row, True)]
