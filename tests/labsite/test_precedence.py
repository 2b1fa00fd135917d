"""Heartbeats go before pages: a page waits while the lane's writer is at work, not for ever."""

import threading
import time

import pytest

from labsite import precedence
from labsite.precedence import at_work, give_way


def waited() -> float:
    """Seconds."""
    began = time.monotonic()
    give_way()
    return time.monotonic() - began


def test_nobody_waits_while_the_writer_rests(monkeypatch):
    monkeypatch.setattr(precedence, "LONGEST_SECONDS", 60)

    assert waited() < 30
    with at_work():
        pass
    assert waited() < 30


def test_a_page_waits_until_the_batch_is_written(monkeypatch):
    monkeypatch.setattr(precedence, "LONGEST_SECONDS", 60)
    done = threading.Event()
    page = threading.Thread(target=lambda: (give_way(), done.set()))

    with at_work():
        page.start()
        assert not done.wait(0.1)
    page.join(10)
    assert done.is_set()


def test_it_rests_also_after_a_batch_that_failed(monkeypatch):
    monkeypatch.setattr(precedence, "LONGEST_SECONDS", 60)
    with pytest.raises(OSError, match="no disk"), at_work():
        raise OSError("no disk")

    assert waited() < 30


def test_a_writer_that_never_rests_ends_no_page(monkeypatch):
    monkeypatch.setattr(precedence, "LONGEST_SECONDS", 0.05)

    with at_work():
        assert waited() >= 0.05
