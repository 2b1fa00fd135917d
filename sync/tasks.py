"""What django-q2 runs of the files' side. Each is level-triggered and short."""

import time

from experiments import sampling
from experiments.models import GivenSecret, Project
from labsite import wake
from labsite.clock import database_now
from sync import chunks, disk, retention, trash
from sync.code import tidy as code
from sync.logs import lines

#: Queued jobs wait for as long as this task of the same cluster runs; what is left is asked for
#: again, and jobs are looked at in between.
SECONDS = 0.5


def tidy() -> int:
    """Once an hour, and when something was deleted: bring the disk to what the rows say, and let
    go of what was kept for long enough. Returns how many files were removed of abandoned uploads.
    """
    now = database_now()
    disk.sample(now)
    sampling.forget(now)
    GivenSecret.forget(now)
    removed = chunks.tidy(now)
    lines.tidy()
    deadline = time.monotonic() + SECONDS
    # All of them each time: one file that cannot be moved holds up none of the others.
    done = [one.tidy(now, deadline) for one in (trash, retention, code)]
    if not all(done) and time.monotonic() >= deadline:
        wake.ask_tidy()
    return removed


def recount() -> None:
    """Once a day: what each project takes, as its files' rows have it."""
    for project in Project.objects.all():
        retention.recount(project)
