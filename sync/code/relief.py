"""What one person has sent and no run uses: bounded, and let go of sooner when it is much.

A snapshot that no run names is kept for a week, in case one is submitted after all; so are files
that no snapshot holds. Somebody whose script sends and never queues would fill the disk so. From
LAB_UNUSED_CODE_BYTES on the oldest of it goes at once, bytes and all; only what was sent in the
last hour stays, as a run may be about to name it, and more than that is refused.
"""

import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from experiments.models import Blob, Snapshot
from sync.code import blobs, giving
from sync.errors import QuotaFull

#: Between sending code and queueing a run of it lie seconds.
LATELY = timedelta(hours=1)
#: Of one request.
MOST_SECONDS = 5.0
RETRY_SECONDS = 3600
MIB = 1024 * 1024


def make_room(length: int, *, by: Any, now: datetime) -> None:
    """For so many bytes more of code that no run uses yet.

    Raises:
        QuotaFull: this person has sent too much within the last hour.
    """
    if _is_too_much(length, by):
        _let_go(length, by, now)
        if _is_too_much(length, by):
            words = _(
                "Within the last hour you have sent %(n)d MiB of code that no run uses, and no "
                "more is kept: submit runs of it, send less (.gitignore), or wait an hour."
            )
            raise QuotaFull(
                words % {"n": unused_bytes(by) // MIB}, retry_after_seconds=RETRY_SECONDS
            )


def unused_bytes(user: Any) -> int:
    """What this person has sent that no run uses. What two snapshots share counts twice."""
    return Snapshot.objects.unnamed_bytes(user) + Blob.objects.idle_bytes(user)


def _is_too_much(length: int, by: Any) -> bool:
    return unused_bytes(by) + length > settings.LAB_UNUSED_CODE_BYTES


def _let_go(length: int, by: Any, now: datetime) -> None:
    """Of the oldest, until there is room."""
    deadline = time.monotonic() + MOST_SECONDS
    deleted_before = now - timedelta(days=settings.LAB_KEEP_TRASH_DAYS)
    _forget([], by, now)
    theirs = Snapshot.objects.filter(holders=by).unused(now, deleted_before, LATELY)
    for snapshot in theirs.order_by("used_at"):
        if not _is_too_much(length, by) or time.monotonic() >= deadline:
            break
        held = giving.manifest_of(snapshot)
        sizes = held.sizes if held else {}
        if snapshot.drop(sizes, snapshot.used_at, deleted_before, not_since=now - LATELY):
            _forget([snapshot.sha256], by, now)


def _forget(names: Iterable[str], by: Any, now: datetime) -> None:
    gone = set(names)
    while some := Blob.objects.filter(holders=by).forget_idle(now, LATELY):
        gone |= set(some)
    remove(gone)


def remove(names: Iterable[str]) -> None:
    """The bytes of what has no row any more; if somebody sends just now, the tidying will."""
    with blobs.removing() as alone:
        if not alone:
            return
        left = set(names)
        for kind in (Blob, Snapshot):
            left -= set(kind.objects.named(left))
        for name in left:
            blobs.path_of(name).unlink(missing_ok=True)
