"""Taking the demo away: what bears its mark, what belongs to that, and nothing else."""

import shutil

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction

from devices.models import Device, DeviceSample, GPUSample
from experiments.models import Attempt, Cell, DemoUser, GPUClaim, Job, JobEvent, LabSample, Project
from sync import storage
from sync.models import SyncFile, Trash, Upload


def is_there() -> bool:
    return (
        Project.objects.filter(is_demo=True).exists()
        or Device.objects.filter(is_demo=True).exists()
        or DemoUser.objects.exists()
    )


def remove() -> dict[str, int]:
    """Returns what was removed, by its kind. Files after their rows: those of a crash in between
    lie in folders of projects that nobody knows."""
    jobs = Job.objects.filter(project__is_demo=True)
    projects = list(Project.objects.filter(is_demo=True).values_list("name", flat=True))
    trashed = list(SyncFile.objects.filter(job__in=jobs, trash__isnull=False).values_list("pk"))
    counts = {"runs": jobs.count(), "projects": len(projects)}
    with transaction.atomic():
        _jobs_and_projects()
        devices = Device.objects.filter(is_demo=True)
        counts["GPU servers"] = devices.count()
        GPUSample.objects.filter(gpu__device__is_demo=True).delete()
        DeviceSample.objects.filter(device__is_demo=True).delete()
        devices.delete()
        people = User.objects.filter(demo__isnull=False)
        counts["people"] = people.count()
        people.delete()
        LabSample.objects.filter(is_demo=True).delete()
    for name in projects:
        shutil.rmtree(settings.LAB_LOGS_DIR / name, ignore_errors=True)
    for [pk] in trashed:
        storage.throw_away(pk)
    return counts


def _jobs_and_projects() -> None:
    """The leaves first, each by one statement."""
    of_demo = {"job__project__is_demo": True}
    GPUClaim.objects.filter(attempt__job__project__is_demo=True).delete()
    JobEvent.objects.filter(**of_demo).delete()
    SyncFile.objects.filter(**of_demo).delete()
    Upload.objects.filter(**of_demo).delete()
    Trash.objects.filter(project__is_demo=True).delete()
    Attempt.objects.filter(**of_demo).delete()
    Cell.objects.filter(**of_demo).delete()
    Job.objects.filter(project__is_demo=True).delete()
    Project.objects.filter(is_demo=True).delete()
