"""The clock: when it has the cluster started anew, and when there is nobody to blame."""

import time

import pytest
from django.db import OperationalError, connection

from labsite import wake
from labsite.run import programs

STUCK_SECONDS = 0.2


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(programs, "STUCK_SECONDS", STUCK_SECONDS)
    monkeypatch.setattr(programs, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(connection, "close", lambda: None)
    options = connection.settings_dict["OPTIONS"]
    monkeypatch.setitem(options, "timeout", options.get("timeout"))


def test_a_database_that_somebody_keeps_locked_is_the_clusters_doing(monkeypatch):
    def locked():
        raise OperationalError("database is locked")

    monkeypatch.setattr(wake, "queue_dispatch", locked)

    with pytest.raises(SystemExit) as ended:
        programs._keep_time()

    assert ended.value.code == programs.STUCK_STATUS


def test_a_database_that_is_away_is_not(monkeypatch):
    began = time.monotonic()

    def away():
        if time.monotonic() - began > 3 * STUCK_SECONDS:
            raise KeyboardInterrupt
        raise OperationalError("connection refused")

    monkeypatch.setattr(wake, "queue_dispatch", away)

    with pytest.raises(KeyboardInterrupt):
        programs._keep_time()
