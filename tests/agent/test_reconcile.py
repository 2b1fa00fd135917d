"""The agent's decisions, tried on all combinations that Hypothesis can think of."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent import wire
from agent.reconcile import Plan, reconcile
from agent.wire import AttemptOrder, AttemptState, PollReply, Stop
from tests.agent.server import make_order

IDS = ["a", "b", "c"]


def order(attempt_id: str, confirmed: bool = False, stop: bool = False) -> AttemptOrder:
    made = wire.decode(AttemptOrder, make_order(id=attempt_id, confirmed=confirmed))
    return replace(made, stop=Stop("cancelled") if stop else None)


def reply(ended: list[str], orders: list[AttemptOrder]) -> PollReply:
    return PollReply("server-1", "r", ended, False, 1.0, orders)


orders = st.lists(
    st.builds(order, st.sampled_from(IDS), st.booleans(), st.booleans()),
    unique_by=lambda one: one.id,
)
replies = st.builds(reply, st.lists(st.sampled_from(IDS), unique=True), orders)
journals = st.dictionaries(st.sampled_from(IDS), st.sampled_from(AttemptState))


def carried_out(plan: Plan, actual: dict[str, AttemptState]) -> dict[str, AttemptState]:
    after = dict(actual)
    after.update(dict.fromkeys(plan.stops, AttemptState.EXITED))
    after.update({one.id: AttemptState.ACCEPTED for one in plan.accepts})
    after.update({one.id: AttemptState.RUNNING for one in plan.starts})
    after.update({one.id: AttemptState.EXITED for one in plan.lost})
    return after


@given(replies, journals)
def test_only_ended_or_stop_stops_and_only_what_lives(
    answer: PollReply, actual: dict[str, AttemptState]
) -> None:
    plan = reconcile(answer, actual)

    wished = set(answer.ended) | {one.id for one in answer.attempts if one.stop}
    alive = {one for one, state in actual.items() if state.alive}
    assert set(plan.stops) == wished & alive


@given(replies, journals)
def test_a_process_starts_only_when_it_was_accepted_here_and_the_server_saw_it(
    answer: PollReply, actual: dict[str, AttemptState]
) -> None:
    plan = reconcile(answer, actual)

    for one in plan.starts:
        assert actual[one.id] is AttemptState.ACCEPTED
        assert one.confirmed
        assert one.stop is None
        assert one.id not in answer.ended


@given(replies, journals)
def test_what_the_journal_does_not_know_is_accepted_or_lost_and_never_started(
    answer: PollReply, actual: dict[str, AttemptState]
) -> None:
    plan = reconcile(answer, actual)

    for one in plan.accepts:
        assert one.id not in actual
        assert not one.confirmed
    for one in plan.lost:
        assert one.id not in actual
        assert one.confirmed


@given(replies, journals)
def test_an_answer_carried_out_twice_is_carried_out_once(
    answer: PollReply, actual: dict[str, AttemptState]
) -> None:
    after = carried_out(reconcile(answer, actual), actual)

    again = reconcile(answer, after)

    assert again.stops == {}
    assert again.accepts == []
    assert again.lost == []
    assert all(after[one.id] is AttemptState.ACCEPTED for one in again.starts)


@given(journals)
def test_an_empty_answer_touches_nothing(actual: dict[str, AttemptState]) -> None:
    assert reconcile(reply([], []), actual) == Plan()
