"""What happened to a job, in the order in which it was committed.

Event rows are history, live feed and test subject at once. A reader that asks for "rows after
N" must never see row N + 2 before N + 1 is visible, and on PostgreSQL ids are handed out
before their transactions commit, in any order. So `change()` keeps the events of a transaction
back, and writes them as its last statement under an advisory lock that is held to the commit:
ids then rise in the order of commits, and the lock is never held while waiting for a row.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import connection, models, transaction
from django.utils.translation import gettext_lazy as _

from experiments.states import EventKind, JobState
from labsite import wake


class JobEvent(models.Model):
    """One thing that happened. Written by record() only, and never changed.

    Ids rise in the order of commits, so that a reader may go on from the last one it saw.
    """

    job = models.ForeignKey("experiments.Job", models.CASCADE, related_name="events")
    attempt = models.ForeignKey(
        "experiments.Attempt", models.CASCADE, null=True, related_name="events"
    )
    kind = models.CharField(max_length=24, choices=EventKind)
    from_state = models.CharField(max_length=16, blank=True, choices=JobState)
    to_state = models.CharField(max_length=16, blank=True, choices=JobState)
    at = models.DateTimeField(auto_now_add=True)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True)
    data = models.JSONField(default=dict)

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        ordering = ["id"]
        indexes = [models.Index(fields=["job", "id"], name="event_of_job")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} ({self.at:%Y-%m-%d %H:%M:%S})"


ROWS_AT_ONCE = 1000

#: Any number, as long as nothing else of ours locks by it: "jobevent" read as base 36.
_ADVISORY_LOCK = 1_534_572_390_581


class _Pending(threading.local):
    def __init__(self) -> None:
        self.depth = 0
        self.events: list[JobEvent] = []


_pending = _Pending()


@contextmanager
def change() -> Iterator[None]:
    """A transaction whose events are written last. Nests: the outermost one writes.

    An exception takes back what was done inside, its events too.
    """
    kept = len(_pending.events)
    _pending.depth += 1
    try:
        with transaction.atomic():
            yield
            if _pending.depth == 1:
                _write(_pending.events)
    except BaseException:
        del _pending.events[kept:]
        raise
    finally:
        _pending.depth -= 1
        if _pending.depth == 0:
            _pending.events.clear()


def record(job, kind: str, *, attempt=None, by=None, **more: Any) -> None:
    """Tell what happened to `job`. Only inside `change()`.

    Args:
        attempt: the attempt it happened to.
        by: the user who wished it; None: the agent or the server itself.
        more: `from_state` and `to_state` of a change of state; anything else is data.
    """
    if not _pending.depth:
        raise RuntimeError("an event is recorded inside change(), or it could be lost")
    states = {name: more.pop(name, "") for name in ("from_state", "to_state")}
    _pending.events.append(
        JobEvent(job=job, kind=kind, attempt=attempt, by=by, data=more, **states)
    )


def write_history(events: list[JobEvent]) -> None:
    """Lay in what happened long ago, in the order given: of a demo, which has a past."""
    with transaction.atomic():
        _write(events)


def _write(events: list[JobEvent]) -> None:
    if not events:
        return
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
    JobEvent.objects.bulk_create(events, ROWS_AT_ONCE)
    wake.publish_on_commit("event", events[-1].pk)
