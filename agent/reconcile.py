"""What to do, given what should run and what does. Pure, so that it can be tried on anything."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent import wire
from agent.wire import AttemptOrder, AttemptState


@dataclass(frozen=True)
class Plan:
    """To be carried out in this order: what stops makes room for what starts."""

    stops: dict[str, str] = field(default_factory=dict)  # attempt id -> why
    accepts: list[AttemptOrder] = field(default_factory=list)
    starts: list[AttemptOrder] = field(default_factory=list)
    lost: list[AttemptOrder] = field(default_factory=list)  # accepted once; not in our journal


def reconcile(reply: wire.PollReply, actual: Mapping[str, AttemptState]) -> Plan:
    """Compare the server's answer with the attempts of the journal and their states.

    A process is stopped only for an id in `ended`, or with `stop`: an attempt that the answer
    does not mention is unknown to the server and runs on. Carried out twice, a plan is
    carried out once: what it did shows in `actual`.
    """
    plan = Plan()
    for attempt_id in reply.ended:
        if attempt_id in actual and actual[attempt_id].alive:
            plan.stops[attempt_id] = "ended"
    for order in reply.attempts:
        if order.id not in reply.ended:
            _compare(order, actual.get(order.id), plan)
    return plan


def _compare(order: AttemptOrder, state: AttemptState | None, plan: Plan) -> None:
    if state is None and order.confirmed:
        plan.lost.append(order)
    elif state is None and order.stop is None:
        plan.accepts.append(order)
    elif state is None or not state.alive:
        return  # over, or stopped before it was ever accepted: the server knows or soon will
    elif order.stop is not None:
        plan.stops[order.id] = order.stop.reason
    elif state is AttemptState.ACCEPTED and order.confirmed:
        plan.starts.append(order)
