"""What a person does to a job, a sweep or a borrow: the audit log tells where it is not theirs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from experiments.models import Borrow, Job, Sweep
from experiments.models.event import change
from people.audit import recorded


@contextmanager
def changed_by(user: Any, job: Job | Sweep | Borrow, verb: str) -> Iterator[None]:
    """One transaction for what the block does to `job`, its events last; its owner's doings are
    its own events, and somebody else's are a manager's, which the audit log holds too."""
    with change():
        if job.user_id == user.pk:
            yield
        else:
            with recorded(user, job, verb):
                yield
