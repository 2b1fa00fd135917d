"""Letting go of code that nothing uses: snapshots, then the rows of their files, then the bytes.

Each step is small and may be repeated. What a crash leaves on the disk without a row is found
under its name: a part of all names is looked through each hour.
"""

import logging
import time
from datetime import datetime, timedelta

from django.conf import settings

from experiments.models import Blob, Snapshot
from sync.code import blobs, giving

logger = logging.getLogger(__name__)

AT_ONCE = 50
#: What has no row for so long is nobody's: an upload takes minutes.
ORPHANED = timedelta(days=1)
#: In so many hours all names are looked through.
ROUNDS = 16


def tidy(now: datetime, deadline: float) -> bool:
    """Returns whether all was done before `deadline`, of time.monotonic()."""
    deleted_before = now - timedelta(days=settings.LAB_KEEP_TRASH_DAYS)
    for snapshot in Snapshot.objects.unused(now, deleted_before)[:AT_ONCE]:
        if time.monotonic() >= deadline:
            return False
        held = giving.manifest_of(snapshot)
        if held is None:
            logger.error("the manifest of %s is gone: its files are kept", snapshot.sha256)
        snapshot.drop(held.sizes if held else (), now, deleted_before)
    while Blob.objects.forget_idle(now):
        if time.monotonic() >= deadline:
            return False
    return _remove_orphans(now, deadline)


def _remove_orphans(now: datetime, deadline: float) -> bool:
    hour = int(now.timestamp()) // 3600
    for prefix in blobs.PREFIXES[hour % ROUNDS :: ROUNDS]:
        if time.monotonic() >= deadline:
            return False
        with blobs.removing() as alone:
            if not alone:
                return True  # somebody submits: the next round is as good
            _remove_from(prefix, now)
    return True


def _remove_from(prefix: str, now: datetime) -> None:
    old = blobs.older_than(prefix, (now - ORPHANED).timestamp())
    for kind in (Blob, Snapshot):
        known = kind.objects.filter(sha256__startswith=prefix)
        for sha256 in known.values_list("sha256", flat=True):
            old.pop(sha256, None)
    for path in old.values():
        path.unlink(missing_ok=True)
