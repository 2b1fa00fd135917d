"""Heartbeat, poll and events: one beat, one poll, one delivery at a time."""

import logging
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import kernel, wire
from agent.backoff import Backoff, Bell
from agent.complaint import Complaint
from agent.errors import AgentError, Rejected, ServerUnreachable, Unauthorized, WrongProtocol
from agent.events import EventLoop
from agent.heartbeat import Hardware, HeartbeatLoop, Instance, fitting
from agent.identity import ServerIdentity
from agent.journal import Journal
from agent.poll import PollLoop
from agent.store import Store
from agent.wire import AttemptOrder, EventType, GPUProcess, GPUReading, HeartbeatReply
from tests.agent.server import make_order


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "journal.sqlite3")


@pytest.fixture
def journal(store: Store) -> Journal:
    return Journal(store)


class Script:
    """Answers, or raises, one item after the other, and keeps what it was asked."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)
        self.asked: list[Any] = []

    def __call__(self, *message: Any) -> Any:
        self.asked.append(message[-1])
        item = self.items.pop(0)
        if isinstance(item, Exception):
            raise item
        return item


# --- heartbeat ---

HARDWARE = Hardware(
    gpus=list,
    driver=lambda: (None, None),
    source=lambda: None,
    source_directory=Path("/"),
    workdir=Path("/"),
)


def beating(store: Store, send: Script, heard: Callable[[], None]) -> HeartbeatLoop:
    instance = Instance("new", "old")
    return HeartbeatLoop(send, instance, HARDWARE, ServerIdentity(store), 1.0, heard)


def answer(next_seconds: float = 1.0) -> HeartbeatReply:
    return HeartbeatReply("server-1", "2026-01-01T00:00:00Z", next_seconds, False)


def test_beats_are_numbered_and_name_this_instance_and_the_one_before(store: Store) -> None:
    send = Script(answer(), answer())
    loop = beating(store, send, heard=lambda: None)

    loop.beat()
    loop.beat()

    assert [beat.seq for beat in send.asked] == [1, 2]
    assert {(b.instance_id, b.previous_instance_id) for b in send.asked} == {("new", "old")}
    assert wire.decode(wire.Heartbeat, wire.loads(wire.dumps(send.asked[1]))) == send.asked[1]


def test_the_server_may_ask_for_slower_beats_and_not_for_faster_ones(store: Store) -> None:
    loop = beating(store, Script(answer(10.0), answer(0.01)), heard=lambda: None)

    assert 9.0 <= loop.beat() <= 10.0
    assert 0.9 <= loop.beat() <= 1.0


def test_it_tells_when_the_server_is_heard_first_and_again(store: Store) -> None:
    heard = []
    send = Script(answer(), answer(), ServerUnreachable("down"), answer())
    loop = beating(store, send, heard=lambda: heard.append(len(send.asked)))

    for _ in range(4):
        loop.beat()

    assert heard == [1, 4]


def test_after_silence_nothing_is_sent_before_our_server_has_answered(store: Store) -> None:
    known = ServerIdentity(store)
    stranger = replace(answer(), server_id="server-2")
    send = Script(answer(), ServerUnreachable("down"), stranger, answer())
    loop = HeartbeatLoop(send, Instance("new", None), HARDWARE, known, 1.0, heard=lambda: None)

    may_send = []
    for _ in range(len(send.items)):
        loop.beat()
        may_send.append(not raises(known.check, ServerUnreachable))

    assert may_send == [True, False, False, True]


def test_a_disk_that_is_gone_or_hangs_holds_up_no_beat(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Script(answer(), answer(), answer())
    beating(store, send, heard=lambda: None).beat()
    gone = replace(HARDWARE, workdir=Path("/gone"))
    identity = ServerIdentity(store)
    HeartbeatLoop(send, Instance("new", None), gone, identity, 1.0, heard=lambda: None).beat()
    with monkeypatch.context() as patch:
        answers = threading.Event()
        patch.setattr(kernel, "disk", lambda path: answers.wait())

        beating(store, send, heard=lambda: None).beat()

        answers.set()
    free = [message.disk_free_bytes for message in send.asked]
    assert free[0] > 0
    assert free[1:] == [None, None]


def raises(function: Callable[[], None], kind: type[Exception]) -> bool:
    try:
        function()
    except kind:
        return True
    return False


@pytest.mark.parametrize(
    ("exc", "pause"),
    [
        (ServerUnreachable("down"), 1.0),
        (Rejected(409, "duplicate_agent", {}), 1.0),
        (Unauthorized(401, "unauthorized", {}), 60.0),
        (WrongProtocol(426, "wrong_protocol", {"detail": "speaks 2"}), 60.0),
    ],
)
def test_it_never_gives_up(store: Store, exc: AgentError, pause: float) -> None:
    assert beating(store, Script(exc), heard=lambda: None).beat() == pause


def test_a_beat_with_too_many_processes_is_cut_to_its_limit(store: Store) -> None:
    loop = beating(store, send := Script(answer()), heard=lambda: None)
    loop.beat()
    processes = [GPUProcess(pid, "somebody", 1, None) for pid in range(256)]
    cards = [GPUReading(f"GPU-{i}", i, "H100", processes=processes) for i in range(16)]

    beat = fitting(wire.Heartbeat(**{**vars(send.asked[0]), "gpus": cards}))

    assert len(wire.dumps(beat)) <= wire.MAX_HEARTBEAT_BYTES
    assert len(beat.gpus) == 16


# --- poll ---


class NoAttempts:
    """In place of agent.attempts.Attempts: keeps the plans it was given."""

    def __init__(self) -> None:
        self.plans: list[Any] = []
        self.known: dict[str, wire.AttemptState] = {}

    def reports(self) -> list[wire.AttemptReport]:
        return []

    def states(self) -> dict[str, wire.AttemptState]:
        return self.known

    def recognise(self, reply: wire.PollReply) -> None: ...

    def renew(self, reply: wire.PollReply, sent_at_seconds: float) -> None: ...

    def carry_out(self, plan: Any) -> None:
        self.plans.append(plan)
        self.known |= {order.id: wire.AttemptState.ACCEPTED for order in plan.accepts}


def reply(revision: str, *orders: AttemptOrder, server_id: str = "server-1") -> wire.PollReply:
    return wire.PollReply(server_id, revision, [], False, 0.0, list(orders))


def polling(store: Store, send: Any, attempts: Any = None) -> PollLoop:
    attempts = attempts or NoAttempts()
    return PollLoop(send, send, attempts, ServerIdentity(store), "instance", 25.0)


def run_until_done(loop: PollLoop, send: Script) -> None:
    stop = threading.Event()

    def sending(message: wire.Poll) -> wire.PollReply:
        if len(send.items) == 1:
            stop.set()
        loop.nudge()
        return send(message)

    loop._held = sending  # type: ignore[method-assign]
    loop.nudge()
    loop.run(stop)


def test_the_first_poll_is_not_held_and_the_next_ones_name_what_is_known(store: Store) -> None:
    send = Script(reply("r1"), reply("r2"), reply("r3"))

    run_until_done(polling(store, send), send)

    assert [poll.wait_seconds for poll in send.asked] == [0.0, 25.0, 25.0]
    assert [poll.known_revision for poll in send.asked] == [None, "r1", "r2"]
    assert [poll.poll_seq for poll in send.asked] == [1, 2, 3]


def test_an_accepted_order_is_told_at_once(store: Store) -> None:
    order = wire.decode(AttemptOrder, make_order())
    send = Script(reply("r1"), reply("r2", order), reply("r3", order), reply("r4"))

    run_until_done(polling(store, send), send)

    assert [poll.wait_seconds for poll in send.asked] == [0.0, 25.0, 0.0, 25.0]


def test_it_outlives_whatever_the_server_says(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    send = Script(
        ServerUnreachable("down"),
        Rejected(409, "duplicate_agent", {"detail": "two of you"}),
        Unauthorized(401, "unauthorized", {"detail": "revoked"}),
        WrongProtocol(426, "wrong_protocol", {"detail": "the server speaks 2, this agent 1"}),
        Rejected(400, "malformed", {"detail": "what?"}),
        reply("r1"),
    )

    run_until_done(polling(store, send), send)

    assert len(send.asked) == 6
    for words in ("down", "two of you", "revoked", "the server speaks 2", "what?"):
        assert words in caplog.text


def test_another_servers_answer_is_not_carried_out(store: Store) -> None:
    store.put("server_id", "server-1")
    attempts = NoAttempts()
    send = Script(reply("r1", server_id="server-2"), reply("r2"))

    run_until_done(polling(store, send, attempts), send)

    assert len(attempts.plans) == 1
    assert send.asked[1].known_revision is None


def test_an_answer_that_comes_after_a_newer_one_is_not_carried_out(store: Store) -> None:
    attempts = NoAttempts()
    order = wire.decode(AttemptOrder, make_order())

    def overtaken(message: wire.Poll) -> wire.PollReply:
        loop._poll(lambda poll: reply("newer"), 0.0)
        return reply("older", order)

    loop = polling(store, overtaken, attempts)
    loop._poll(overtaken, 25.0)

    assert [plan.accepts for plan in attempts.plans] == [[]]
    assert loop._revision == "newer"


def test_a_door_that_does_not_hold_polls_is_not_hammered(store: Store) -> None:
    loop = polling(store, lambda poll: reply("same"))
    loop._poll(lambda poll: reply("same"), 0.0)

    after = loop._poll(lambda poll: reply("same"), 25.0)

    assert after.pause_seconds > 0


# --- events ---


def test_events_of_an_attempt_go_one_by_one_in_order(journal: Journal) -> None:
    lived(journal, "a")
    send = Script(None, ServerUnreachable("down"), None, None)
    loop = EventLoop(send, journal)

    while journal.outgoing():
        loop.nudge()
        loop.send_due()

    kinds = [event.type for event in send.asked]
    assert kinds == [EventType.STARTED, EventType.EXITED, EventType.EXITED, EventType.RELEASED]
    assert send.asked[1].event_id == send.asked[2].event_id


def test_an_attempt_whose_event_is_refused_holds_up_no_other(journal: Journal) -> None:
    lived(journal, "a")
    lived(journal, "b")
    send = Script(Rejected(400, "malformed", {}), None)

    EventLoop(send, journal).send_due()

    assert [o.attempt_id for o in journal.outgoing()] == ["a", "b"]
    assert [o.event.type for o in journal.outgoing()] == [EventType.STARTED, EventType.EXITED]


def test_attempt_ended_settles_an_event_and_nothing_else_refused_does(journal: Journal) -> None:
    lived(journal, "a")
    send = Script(Rejected(409, "attempt_ended", {}), Rejected(409, "lost_race", {}))
    loop = EventLoop(send, journal)

    loop.send_due()
    loop.send_due()
    loop.send_due()

    assert [o.event.type for o in journal.outgoing()] == [EventType.EXITED]
    assert len(send.asked) == 2  # the refused one waits for its turn


def lived(journal: Journal, attempt_id: str) -> None:
    journal.accept(wire.decode(AttemptOrder, make_order(id=attempt_id)))
    journal.running(attempt_id, 1, "2026-01-01T00:00:00Z")
    journal.exited(attempt_id, exit_code=0)
    journal.released(attempt_id, [])


# --- journal and store ---


def test_a_secret_is_never_written(journal: Journal, tmp_path: Path) -> None:
    order = make_order(id="a", secrets={"WANDB_API_KEY": "xyzzy"}, environment={"A": "visible"})

    journal.accept(wire.decode(AttemptOrder, order))

    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"visible" in written
    assert b"xyzzy" not in written


def test_an_event_is_written_once_however_often_its_step_is_repeated(journal: Journal) -> None:
    lived(journal, "a")
    first = journal.outgoing()

    lived(journal, "a")

    assert journal.outgoing() == first


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    store.register("CREATE TABLE IF NOT EXISTS t (x INTEGER UNIQUE)")

    with pytest.raises(sqlite3.IntegrityError), store.transaction() as db:
        db.executemany("INSERT INTO t VALUES (?)", [(1,), (1,)])

    with store.transaction() as db:
        assert db.execute("SELECT count(*) FROM t").fetchone()[0] == 0
        assert db.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


# --- small parts ---


def test_backoff_draws_below_a_bound_that_doubles_to_thirty_seconds() -> None:
    bounds = []
    backoff = Backoff(draw=lambda low, high: bounds.append(high) or low)

    for _ in range(8):
        assert backoff.next_seconds() == 0.0

    assert bounds == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.next_seconds(at_least=7.0) == 7.0
    backoff.reset()
    backoff.next_seconds()
    assert bounds[-1] == 0.5


def test_a_bell_rung_before_the_wait_ends_it() -> None:
    bell = Bell()
    bell.ring()

    assert bell.wait(60)
    assert not bell.wait(0)


def test_a_complaint_is_not_repeated_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    complaint = Complaint(logging.getLogger("x"))

    complaint.about("down")
    complaint.about("down")
    complaint.about("refused")

    assert [record.message for record in caplog.records] == ["down", "refused"]
    assert complaint.over("well")
    assert not complaint.over("well")
