"""What django-q2 runs. Each is level-triggered and short (no task runs above 2 s)."""

from experiments.dispatch import dispatch as give_out
from experiments.leases import reap


def dispatch() -> int:
    """End what ended by time, then give out what is free. Returns how many were assigned."""
    reap()
    return len(give_out())
