"""Stars for what sweeps tried of keys that look like secrets, as jobs have kept it since."""

from django.db import migrations

from experiments.discreet import masked

AT_ONCE = 200


def mask(apps, schema_editor):
    Job = apps.get_model("experiments", "Job")
    jobs = Job.objects.exclude(swept={}).order_by("pk").values_list("pk", "swept")
    for pk, swept in jobs.iterator(chunk_size=AT_ONCE):
        if (shown := masked(swept)) != swept:
            Job.objects.filter(pk=pk).update(swept=shown)


class Migration(migrations.Migration):

    dependencies = [
        ('experiments', '0024_what_was_given'),
    ]

    operations = [migrations.RunPython(mask, migrations.RunPython.noop, elidable=True)]
