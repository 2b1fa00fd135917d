"""Whether a device has something to tell stands on its row; no poll asks the attempts for it."""

from django.db import migrations


def ask(apps, schema_editor):
    """Of attempts that were ended before without their devices' word as well."""
    ends = apps.get_model("experiments", "Attempt").objects.filter(unconfirmed=True)
    devices = apps.get_model("devices", "Device").objects
    devices.filter(pk__in=ends.values("device_id")).update(expects_word=True)


class Migration(migrations.Migration):
    dependencies = [
        ("devices", "0006_expects_word"),
        ("experiments", "0005_gpu_taken"),
    ]
    operations = [
        migrations.RemoveIndex(model_name="attempt", name="attempt_unfound"),
        migrations.RunPython(ask, migrations.RunPython.noop),
    ]
