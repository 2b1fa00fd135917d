"""Room for files: on the server's disk, and within what their project may take.

A database on a full disk takes neither a heartbeat nor the end of a job, so the last
LAB_DISK_RESERVE_BYTES are not for files of runs; a quarter of that only curves and logs may use,
so that a lab which fills its disk with checkpoints goes on seeing what its runs do. For the same
reason they may go beyond a project's quota, by LAB_QUOTA_RESERVE_BYTES.

A quota is of what its files take when they are in place: each run's files with their earlier
versions, what attempts that were given up have left, and uploads as far as they have come. What
lies in the trash does not count. A checkpoint that takes the place of an older one needs only the
difference. Requests that come at the same moment are not counted for one another, so that a
quota may be passed by what these bring.
"""

import os

from django.conf import settings
from django.db.models import Sum

from agent import wire
from experiments.models import Project
from sync.errors import DiskFull, QuotaFull
from sync.models import Upload
from sync.ownership import Target

RETRY_SECONDS = 30
#: Somebody has to delete something, which takes longer than a moment.
QUOTA_RETRY_SECONDS = 60
#: Curves, logs, and what a run says of itself: they may use the reserves. Not event files, which
#: hold pictures as well, nor any text: they would use up what is meant for the others.
SMALL = (*wire.CURVES_AND_LOGS, ".yaml")


def admit(target: Target, length: int, *, replaces: int = 0) -> None:
    """
    Args:
        length: how many bytes are to be stored; 0: none, as when a file is only confirmed.
        replaces: how many bytes go when these are in their place.

    Raises:
        DiskFull: they would leave less than the reserve.
        QuotaFull: the project would take more than it may.
    """
    make_sure_of(length, small=target.name.endswith(SMALL))
    check_quota(target, length, replaces=replaces)


def make_sure_of(length: int, *, small: bool = False) -> None:
    """The disk alone, for `length` bytes of whatever it is. Raises: DiskFull."""
    reserve = settings.LAB_DISK_RESERVE_BYTES
    if length and length > free_bytes() - (reserve // 4 if small else reserve):
        raise DiskFull(
            "The server's disk is nearly full, so nothing of this was kept; the agent keeps it "
            "and tries again. A manager has to make room.",
            retry_after_seconds=RETRY_SECONDS,
        )


def check_quota(target: Target, length: int, *, replaces: int = 0) -> None:
    """The quota alone. Raises: QuotaFull."""
    project = target.job.project
    if not length or project.limit_bytes is None:
        return
    project.refresh_from_db(fields=["quota_bytes", "used_bytes"])
    beyond = settings.LAB_QUOTA_RESERVE_BYTES if target.name.endswith(SMALL) else 0
    used = project.used_bytes + uploading_bytes(project)
    if used + length - replaces > project.limit_bytes + beyond:
        raise QuotaFull(
            f"The project {project} has used up its room on the server, so nothing of this was "
            "kept; the agent keeps it and tries again. Delete some of its files, or ask a "
            "manager for more.",
            retry_after_seconds=QUOTA_RETRY_SECONDS,
            quota_bytes=project.limit_bytes,
            used_bytes=used,
        )


def uploading_bytes(project: Project) -> int:
    """What has come of its files that are not whole yet."""
    uploads = Upload.objects.filter(job__project=project, job__deleted_at=None)
    return uploads.aggregate(sum=Sum("size"))["sum"] or 0


def free_bytes() -> int:
    """What is left on the disk of the logs folder for a process without privileges."""
    settings.LAB_LOGS_DIR.mkdir(parents=True, exist_ok=True)
    disk = os.statvfs(settings.LAB_LOGS_DIR)
    return disk.f_bavail * disk.f_frsize
