"""What the agent remembers of attempts, from their order to long after their end."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent import journal as journal_module
from agent import wire
from agent.journal import Journal
from agent.store import Store
from agent.wire import AttemptState, EventType
from tests.agent.server import make_order

#: As an agent of 0.1.0 wrote it. An upgrade in place finds it in its journal.
ORDER_OF_0_1_0 = """{"id": "0b0e", "number": 2, "experiment_uid": "20260101_00a1", "project": "p",
 "run_name": "run_001", "user": "kim", "command": ["true"], "environment": {"A": "b"},
 "secrets": {}, "gpus": ["GPU-0"], "gpu_ids": "uuid", "python": null, "working_directory": null,
 "source": null, "run_as": null, "config_sha256": null, "time_limit_seconds": null,
 "stop_grace_seconds": 30.0, "lease_seconds": 135.0, "on_device_lost": "wait", "resume": null,
 "stop": null, "confirmed": false}"""


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Store(tmp_path / "journal.sqlite3")) as store:
        yield Journal(store)


def done(journal: Journal) -> wire.AttemptOrder:
    """An attempt of which all is told."""
    order = wire.decode(wire.AttemptOrder, make_order())
    journal.accept(order)
    journal.running(order.id, 42, "2026-01-01T00:00:00Z")
    journal.exited(order.id, exit_code=0, ended_at="2026-01-01T00:01:00Z")
    for _ in ("started", "exited"):
        [outgoing] = journal.outgoing()
        journal.settle(outgoing)
    journal.finish(order.id)
    return order


def test_an_order_that_an_older_agent_took_on_is_understood() -> None:
    order = wire.decode(wire.AttemptOrder, json.loads(ORDER_OF_0_1_0))

    assert (order.id, order.number, order.environment) == ("0b0e", 2, {"A": "b"})


def test_a_done_attempt_is_not_named_any_more(journal: Journal) -> None:
    order = done(journal)

    assert journal.attempts() == []
    assert journal.find(order.id) is None
    assert journal.outgoing() == []


def test_a_revived_attempt_says_the_same_again_in_the_same_order(journal: Journal) -> None:
    order = done(journal)

    revived = journal.revive(order.id)

    assert revived is not None
    assert (revived.state, revived.exit_code) == (AttemptState.EXITED, 0)
    [outgoing] = journal.outgoing()
    assert outgoing.event.type is EventType.STARTED
    journal.settle(outgoing)
    [outgoing] = journal.outgoing()
    assert (outgoing.event.type, outgoing.event.exit_code) == (EventType.EXITED, 0)


def test_nobody_is_revived_who_was_never_done(journal: Journal) -> None:
    order = wire.decode(wire.AttemptOrder, make_order())
    journal.accept(order)

    assert journal.revive(order.id) is None
    assert journal.revive("never heard of") is None
    assert [attempt.id for attempt in journal.attempts()] == [order.id]


def test_the_oldest_of_the_done_ones_are_forgotten(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "REMEMBERED", 2)
    first, second, third = done(journal), done(journal), done(journal)

    assert journal.revive(first.id) is None
    assert journal.revive(second.id) is not None
    assert journal.revive(third.id) is not None
    assert not journal.said(first.id, EventType.EXITED)
