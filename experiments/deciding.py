"""What a person does to a job, a sweep or a borrow: the audit log tells where it is not theirs."""

from contextlib import AbstractContextManager
from typing import Any

from django.db import transaction

from experiments.models import Borrow, Job, Sweep
from people.audit import recorded


def changed_by(user: Any, job: Job | Sweep | Borrow, verb: str) -> AbstractContextManager[Any]:
    """One transaction for what the block does to `job`; its owner's doings are its own
    events, and somebody else's are a manager's, which the audit log holds too."""
    return transaction.atomic() if job.user_id == user.pk else recorded(user, job, verb)
