"""What django-q2 runs. Each is level-triggered and short (no task runs above 2 s)."""

from experiments.dispatch import dispatch as give_out
from experiments.leases import reap
from experiments.sampling import sample_when_due
from labsite import wake
from labsite.clock import database_now


def dispatch() -> int:
    """End what ended by time, give out what is free, and once a minute note how the lab is.
    Returns how many were assigned."""
    reap()
    assigned = len(give_out())
    wake.publish("dispatched", None)  # labsite/run: the clock hears that passes are executed
    sample_when_due(database_now())
    return assigned
