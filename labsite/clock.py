"""The one clock that decisions are made by: the database's (protocol, "Rules").

On SQLite the database is a file of this host, so its clock is this process's. On PostgreSQL
several hosts may serve one lab, and only the database's clock is the same for all of them.
"""

from datetime import datetime

from django.db import connection
from django.utils import timezone


def database_now() -> datetime:
    """The time of this statement, not of the transaction's start. Aware, UTC."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        [now] = cursor.fetchone()
    return now
