"""File sync against every order of events that Hypothesis finds; see tests.sync.model."""

import logging
import os

import pytest
from django.db import connection
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from agent import wire
from agent.files import growing, packing, upload
from sync import storage
from tests.sync import model

pytestmark = pytest.mark.django_db(transaction=True)

EXAMPLES = os.environ.get("LAB_EXAMPLES")
STEPS = int(os.environ.get("LAB_STEPS", "30"))


@pytest.fixture(autouse=True)
def _small(monkeypatch, settings):
    """Limits as of a world a millionth in size; no lock is waited for: nobody would give it up."""
    for name, limit in model.LIMITS.items():
        monkeypatch.setattr(wire, name, limit)
    for module in (growing, upload):
        monkeypatch.setattr(module, "MIN_CHUNK_BYTES", 3)
        monkeypatch.setattr(module, "BLOCK_BYTES", model.BLOCK_BYTES)
    monkeypatch.setattr(packing, "MIN_BYTES", 8)
    monkeypatch.setattr(storage, "BLOCK_BYTES", model.BLOCK_BYTES)
    monkeypatch.setattr(storage, "LOCK_SECONDS", 0.0)
    # Which files share a lock hangs on the run's number: a life that is repeated has another.
    monkeypatch.setattr(storage, "LOCKS", 2**32)
    monkeypatch.setattr(storage, "os", os)
    settings.LAB_LOGS_DIR = None  # each life has its own
    logging.disable(logging.ERROR)  # refusals are the rule here
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True)
def _quick_commits(_small):
    """A commit is believed to last: not the database's power cuts are played here."""
    if connection.vendor != "sqlite":
        return (yield)
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous=OFF")
        yield
        cursor.execute("PRAGMA synchronous=FULL")


def test_whatever_happens_the_servers_copy_is_a_beginning_and_in_the_end_the_whole():
    run_state_machine_as_test(
        model.Lives,
        settings=settings(
            max_examples=int(EXAMPLES or 40),
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=EXAMPLES is None,
            database=None,
            print_blob=True,
        ),
    )
    told = ", ".join(f"{count} {what}" for what, count in sorted(model.COUNTS.items()))
    print(f"\nviolations: 0 in {told}")
    assert model.COUNTS["healed"]
