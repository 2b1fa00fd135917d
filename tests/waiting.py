"""Waiting for somebody who waits: of two transactions of PostgreSQL, which the test has cross."""

import time

from django.db import connection


def until_somebody_waits_for_a_row() -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits")
