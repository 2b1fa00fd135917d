"""What an attempt's device gave it, and the keys of submits that may come twice."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("experiments", "0023_imported"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name="attempt",
            name="host_variables",
            field=models.JSONField(editable=False, null=True),
        ),
        migrations.CreateModel(
            name="SubmitKey",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("key", models.CharField(max_length=128)),
                ("asked_sha256", models.CharField(max_length=64)),
                ("at", models.DateTimeField()),
                (
                    "job",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="experiments.job",
                    ),
                ),
                (
                    "sweep",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="experiments.sweep",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name": "submit key",
                "verbose_name_plural": "submit keys",
                "constraints": [
                    models.UniqueConstraint(fields=("user", "key"), name="submit_key_of_user")
                ],
            },
        ),
    ]
