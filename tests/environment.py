"""What every test shares: a data folder of its own, and the database that LAB_TEST_DATABASE_URL
names (a SQLite file when it names none). A plugin (`-p tests.environment`), because the settings
are read before any conftest."""

import os
import tempfile
from pathlib import Path

import pytest

from tests import ready

ready.shared()  # named here, before there are workers
_data = tempfile.mkdtemp(prefix="labsite-test-")
os.environ.setdefault("LAB_DATA_DIR", _data)
for folder in ("static", "logs", "config", "spool"):  # as the first start makes them
    Path(os.environ["LAB_DATA_DIR"], folder).mkdir(exist_ok=True)
os.environ.setdefault("LAB_SOCKET_DIR", tempfile.mkdtemp(prefix="labsite-sock-"))
if url := os.environ.get("LAB_TEST_DATABASE_URL"):
    os.environ["LAB_DATABASE_URL"] = url
os.environ.pop("PYTHONUNBUFFERED", None)  # or a job's buffering would be the tests', not its own


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    """What a process knows for a second is of another test's database."""
    from django.core.cache import cache

    cache.clear()
