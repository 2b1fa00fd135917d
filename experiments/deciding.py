"""What a person does to a job or a sweep: the audit log tells where it is not their own."""

from contextlib import AbstractContextManager
from typing import Any

from django.db import transaction

from experiments.models import Job, Sweep
from people.audit import recorded


def changed_by(user: Any, job: Job | Sweep, verb: str) -> AbstractContextManager[Any]:
    """One transaction for what the block does to `job`; its owner's doings are its own
    events, and somebody else's are a manager's, which the audit log holds too."""
    return transaction.atomic() if job.user_id == user.pk else recorded(user, job, verb)
