"""What django-q2 runs. Each is level-triggered and short (no task runs above 2 s)."""

from experiments.dispatch import dispatch as give_out
from experiments.leases import reap
from labsite import wake


def dispatch() -> int:
    """End what ended by time, then give out what is free. Returns how many were assigned."""
    reap()
    assigned = len(give_out())
    wake.publish("dispatched", None)  # labsite/run: the clock hears that passes are executed
    return assigned
