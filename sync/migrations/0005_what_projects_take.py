"""What each project takes on the disk is counted from here on; once a day the count is checked."""

from django.db import migrations
from django.db.models import Sum

NAME = "recount each day"


def count(apps, schema_editor):
    SyncFile = apps.get_model("sync", "SyncFile")
    Project = apps.get_model("experiments", "Project")
    taken = SyncFile.objects.order_by().values("job__project").annotate(sum=Sum("size"))
    for row in taken:
        Project.objects.filter(pk=row["job__project"]).update(used_bytes=row["sum"])


def add(apps, schema_editor):
    Schedule = apps.get_model("django_q", "Schedule")
    Schedule.objects.get_or_create(
        name=NAME, defaults={"func": "sync.tasks.recount", "schedule_type": "D"}
    )


def remove(apps, schema_editor):
    apps.get_model("django_q", "Schedule").objects.filter(name=NAME).delete()


class Migration(migrations.Migration):
    dependencies = [("sync", "0004_trash_and_disk")]
    operations = [
        migrations.RunPython(count, migrations.RunPython.noop),
        migrations.RunPython(add, remove),
    ]
