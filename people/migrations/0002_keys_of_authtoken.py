"""Keys made before as DRF's authtoken go on working; of them too only the digest is kept."""

import hashlib

from django.db import migrations

TABLE = "authtoken_token"


def take_over(apps, schema_editor):
    """The app is not installed any more; its table is where a database had it."""
    connection = schema_editor.connection
    if TABLE not in connection.introspection.table_names():
        return
    ApiToken = apps.get_model("people", "ApiToken")
    with connection.cursor() as cursor:
        cursor.execute("SELECT key, user_id, created FROM authtoken_token")
        rows = cursor.fetchall()
        ApiToken.objects.bulk_create(
            ApiToken(
                user_id=user, name="script", sha256=hashlib.sha256(key.encode()).hexdigest(),
                ending=key[-4:], created_at=_aware(connection, created),
            )
            for key, user, created in rows
        )
        cursor.execute("DELETE FROM authtoken_token")


def _aware(connection, moment):
    """SQLite hands out a text, without its zone, which is UTC."""
    from datetime import datetime, timezone

    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


class Migration(migrations.Migration):

    dependencies = [
        ("people", "0001_first"),
    ]

    operations = [
        migrations.RunPython(take_over, migrations.RunPython.noop),
    ]
