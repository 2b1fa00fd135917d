"""What is deleted and what is full, with the real agent on the other side."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection

from experiments.errors import LostRace
from experiments.models import Project
from experiments.states import Outcome
from labsite.clock import database_now
from labsite.errors import Refused
from sync import freeing, retention, room, tasks, trash
from sync.errors import Deleted, QuotaFull
from sync.freeing import Rule
from sync.models import SyncFile, Trash, What
from tests.sync.conftest import Run
from tests.sync.test_with_agent import Side, side, wait_for  # noqa: F401 - a fixture

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_checkpoint_that_was_freed_is_not_sent_again_and_comes_back_as_it_was(side: Side):  # noqa: F811
    contents = {"run_001/epoch1.pt": b"first", "run_001/epoch2.pt": b"second"}
    with side.agent() as sync:
        for name, content in contents.items():
            side.path(name).write_bytes(content)
            side.arrives(name, content)
        side.ends(sync)
    side.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    project, rule = side.attempt.job.project, Rule(What.CHECKPOINTS)
    plan = freeing.plan(project, rule, database_now())
    freeing.free(project, rule, plan.digest, database_now())
    tasks.tidy()
    [gone] = plan.files

    with side.agent(journal="new.sqlite3") as sync:  # one that has forgotten all
        sync.exited(side.id)
        wait_for(lambda: sync.settled(side.id), "what was deleted is settled")

    assert side.acknowledged(gone.name) is None
    assert {row.name for row in SyncFile.objects.results()} == set(contents) - {gone.name}
    Trash.objects.get().restore(database_now())
    tasks.tidy()
    assert {name: side.acknowledged(name) for name in contents} == contents
    assert retention.recount(project) == len(b"firstsecond")


def test_a_checkpoint_waits_for_room_while_the_curve_goes_on(side: Side, settings, monkeypatch):  # noqa: F811
    settings.LAB_QUOTA_RESERVE_BYTES = 1000
    Project.objects.update(quota_bytes=100)
    refused, real = [], room.check_quota

    def noting(target, length, **also) -> None:
        try:
            real(target, length, **also)
        except QuotaFull:
            refused.append(target.name)
            raise

    monkeypatch.setattr(room, "check_quota", noting)
    with side.agent() as sync:
        side.path("run_001.pt").write_bytes(b"x" * 500)
        side.path("run_001.csv").write_bytes(b"epoch,loss\n0,0.5\n")
        side.arrives("run_001.csv", b"epoch,loss\n0,0.5\n")
        wait_for(lambda: refused, "the checkpoint is refused")
        assert set(refused) == {"run_001.pt"}
        assert side.acknowledged("run_001.pt") is None

        Project.objects.update(quota_bytes=None)
        sync.nudge()  # as if Retry-After had passed
        side.ends(sync)

    assert side.acknowledged("run_001.pt") == b"x" * 500


def test_what_a_project_takes_is_right_when_all_happens_at_once(run: Run):
    """Writers of a dozen files, and somebody who deletes and restores them all the while."""
    project = run.attempt.job.project
    begun = threading.Barrier(5)

    def writes(number: int) -> None:
        begun.wait()
        for turn in range(12):
            name = f"run_001/{number}-{turn % 3}.csv"
            try:
                run.delta(b"0123456789", name=name)
                run.full(b"0" * turn, name=name)
            except (Deleted, LostRace):
                continue
        connection.close()

    def deletes() -> None:
        begun.wait()
        for _turn in range(10):
            rows = list(SyncFile.objects.present()[:3])
            try:
                trash.put_away(project, What.CHECKPOINTS, rows, [], database_now())
                tasks.tidy()
                Trash.objects.kept().first().restore(database_now())
                tasks.tidy()
            except Refused:
                continue
        connection.close()

    with ThreadPoolExecutor(5) as pool:
        done = [pool.submit(writes, number) for number in range(4)] + [pool.submit(deletes)]
    for one in done:
        one.result()

    before = Project.objects.get().used_bytes
    assert before == retention.recount(project) > 0
    Trash.objects.update(made_at=database_now() - timedelta(days=31))
    tasks.tidy()
    assert Project.objects.get().used_bytes == before
