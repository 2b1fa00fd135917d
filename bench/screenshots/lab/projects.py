"""Projects in every state: nearly full, unused, archived with something in the trash."""

from datetime import datetime, timedelta

from django.contrib.auth.models import User

from bench.screenshots.lab import sweeps
from bench.screenshots.lab.runs import end, started, submit
from devices.models import Device
from experiments.models import Job, Project
from sync import disk, tasks
from sync.models import DiskSample, SyncFile, Trash

ARCHIVED, MADE_DAYS_AGO = "ablation-2025", 41


def make(hosts: list[Device], now: datetime) -> None:
    _archive(hosts[5], now)
    SyncFile.objects.filter(job__project__name="mstar-curriculum").update(
        complete=True, sha256="0" * 64
    )
    tasks.recount()
    Project.objects.filter(name="mstar-curriculum").update(
        quota_bytes=500 * 10**9, used_bytes=462 * 10**9
    )
    Project.objects.create(name="diffusion-prior", created_by=User.objects.get(username="yoon"))
    Project.objects.update(created_at=now - timedelta(days=MADE_DAYS_AGO))
    _fill_disk(now)


def _archive(host: Device, now: datetime) -> None:
    """Two runs, of which one is in the trash; one with the longest of names; a sweep of 40."""
    then = now - timedelta(days=20)
    for name in ("no flip", "no mixup", ("long name " * 13)[:128]):
        end(started(submit(ARCHIVED, "jiho", name, 1), host, then, 90), "succeeded", 0, then)
    sweeps.large(host, ARCHIVED, then)
    Job.objects.get(project__name=ARCHIVED, run_number=2).delete_run(now)
    tasks.tidy()
    Trash.objects.update(made_at=now - timedelta(days=3))
    Project.objects.get(name=ARCHIVED).archive(now - timedelta(days=2))


def _fill_disk(now: datetime) -> None:
    DiskSample.objects.all().delete()
    free, total = disk.free_and_total()
    DiskSample.objects.bulk_create(
        DiskSample(
            at=now - timedelta(hours=hours),
            free_bytes=free + int(free * hours / 24 / 9),
            total_bytes=total,
        )
        for hours in range(1, 14 * 24)
    )
