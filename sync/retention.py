"""What is let go of by itself, besides the trash: what attempts that were given up have left,
after a while; and the count of what each project takes, held to what is there."""

import time
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from experiments.models import Project
from experiments.states import ENDED
from labsite.errors import Refused
from sync import storage
from sync.models import SyncFile
from sync.storage import Place

AT_ONCE = 500


def tidy(now: datetime, deadline: float) -> bool:
    """Returns whether all was done before `deadline`, of time.monotonic()."""
    limit = now - timedelta(days=settings.LAB_KEEP_GIVEN_UP_DAYS)
    old = SyncFile.objects.present().filter(shelf__gt=0, synced_at__lt=limit, job__state__in=ENDED)
    for row in old.select_related("job__project")[:AT_ONCE]:
        if time.monotonic() >= deadline:
            return False
        _let_go(row)
    return True  # but for what the next hour does


def _let_go(row: SyncFile) -> None:
    """Bytes first: of what a crash leaves here the row still tells, and it is done again."""
    place = Place.of(row.job, row.name, row.shelf)
    as_seen = SyncFile.objects.present().filter(pk=row.pk, synced_at=row.synced_at)
    try:
        with storage.locked(place):
            if not as_seen.exists():
                return
            storage.forget(place, versions=row.may_have_earlier)
            with transaction.atomic():
                if as_seen.delete()[0]:
                    row.job.project.note_used(-(row.size + row.aside_bytes))
    except Refused:
        return  # it is in use: the next hour is as good


def recount(project: Project) -> int:
    """Hold `used_bytes` to what its rows say, and return that. Whoever moves a row moves the
    project's after it, in one transaction: so this sees both or waits for neither."""
    with transaction.atomic():
        locked = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        files = SyncFile.objects.present().filter(job__project=project)
        used = files.taken_bytes()
        locked.note_used(used - locked.used_bytes)
    project.used_bytes = used
    return used
