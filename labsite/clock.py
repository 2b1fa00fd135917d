"""The one clock that decisions are made by: the database's (protocol, "Rules"); and its times
as people read them.

On SQLite the database is a file of this host, so its clock is this process's. On PostgreSQL
several hosts may serve one lab, and only the database's clock is the same for all of them.
"""

from datetime import UTC, date, datetime, time

from django.db import connection
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _


def database_now() -> datetime:
    """The time of this statement, not of the transaction's start. Aware, UTC."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        [now] = cursor.fetchone()
    return now


def lab_date(moment: datetime) -> date:
    """The day in the lab's zone: the same for all, whatever zone they are shown times in."""
    return timezone.localdate(moment, timezone.get_default_timezone())


def day_begins(day: date) -> datetime:
    """When that day of the lab's does.

    Raises:
        OverflowError: in a year that UTC does not have.
    """
    return datetime.combine(day, time.min, timezone.get_default_timezone()).astimezone(UTC)


def clock_words(moment: datetime) -> str:
    """The time of day in the reader's zone, with the date where it is not today."""
    local = timezone.localtime(moment)
    if local.date() == timezone.localdate():
        return date_format(local, "H:i")
    return date_format(local, _("M j, H:i"))
