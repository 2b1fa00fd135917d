"""Which cards of an ended attempt are free again, and who holds the others."""

from dataclasses import replace
from typing import Any

import pytest

from agent import shim, wire
from agent.release import Release, still_held, words
from agent.wire import GPUProcess, GPUReading

GIB = 1024**3
OURS = GPUProcess(4242, "kim", 8 * GIB, "a")


def reading(**fields: Any) -> GPUReading:
    return GPUReading(**{"uuid": "GPU-0", "index": 0, "name": "H100", **fields})


class Cards:
    """What GPUWatch says, as the test writes it; None: the driver hangs."""

    def __init__(self, *readings: GPUReading) -> None:
        self.readings: list[GPUReading] | None = list(readings)

    def newer(self, than_seconds: float, timeout_seconds: float) -> list[GPUReading] | None:
        return self.readings


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(shim, "now", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def release(cards: Any, *uuids: str) -> Release:
    return Release("a", list(uuids), dict.fromkeys(uuids, GIB), cards)


def test_memory_is_back_when_the_card_holds_no_more_than_before() -> None:
    assert still_held(reading(memory_used_bytes=GIB), "a", before_bytes=GIB) is None
    assert still_held(reading(memory_used_bytes=9 * GIB), "a", before_bytes=GIB) == []


def test_a_process_of_the_attempt_holds_its_card() -> None:
    ours = GPUProcess(1, "kim", GIB, "a")

    assert still_held(reading(memory_used_bytes=0, processes=[ours]), "a", 0) == [ours]


def test_memory_of_somebody_who_came_meanwhile_is_not_waited_for() -> None:
    theirs = GPUProcess(1, "lee", 8 * GIB, None)
    card = reading(memory_used_bytes=9 * GIB, processes=[theirs])

    assert still_held(card, "a", before_bytes=GIB) is None


def test_one_card_that_is_held_does_not_hide_that_the_other_is_free(clock: Clock) -> None:
    busy = reading(memory_used_bytes=9 * GIB, processes=[OURS])
    cards = Cards(busy, replace(busy, uuid="GPU-1", memory_used_bytes=GIB, processes=[]))
    looking = release(cards, "GPU-0", "GPU-1")
    clock.now += 3

    [held] = looking.look() or []

    assert held == wire.HeldGPU("GPU-0", 3.0, 9 * GIB, [OURS])
    assert "4242" in words([held])


def test_a_card_off_the_bus_counts_as_free_after_ten_seconds_and_not_before(clock: Clock) -> None:
    cards = Cards(reading(uuid="GPU-1", memory_used_bytes=GIB))
    looking = release(cards, "GPU-0", "GPU-1")

    for second in range(10):
        clock.now = 1000.0 + second
        assert [one.uuid for one in looking.look() or []] == ["GPU-0"]
    clock.now += 1.0

    assert looking.look() == []


def test_a_card_that_only_failed_to_answer_once_is_waited_for(clock: Clock) -> None:
    other = reading(uuid="GPU-1")
    cards = Cards(other)
    looking = release(cards, "GPU-0")
    looking.look()
    clock.now += 9
    cards.readings = [other, reading(processes=[OURS])]
    looking.look()
    cards.readings = [other]
    clock.now += 9

    assert [one.uuid for one in looking.look() or []] == ["GPU-0"]


@pytest.mark.parametrize("readings", [None, []], ids=["hangs", "names no card"])
def test_a_driver_that_does_not_answer_frees_nothing(
    clock: Clock, readings: list[GPUReading] | None
) -> None:
    cards = Cards()
    cards.readings = readings
    looking = release(cards, "GPU-0")
    looking.look()
    clock.now += 1000

    assert looking.look() is None
    assert "does not answer" in words(None)


def test_there_is_news_when_another_card_is_free_and_when_the_time_is_over(clock: Clock) -> None:
    cards = Cards(reading(processes=[OURS]))
    looking = release(cards, "GPU-0")
    news = []
    for seconds in (0, 1, wire.RELEASE_SECONDS, wire.RELEASE_SECONDS + 1):
        clock.now = 1000.0 + seconds
        looking.look()
        news.append(looking.has_news)

    assert news == [True, False, True, False]


def test_an_attempt_without_cards_waits_for_no_driver(clock: Clock) -> None:
    cards = Cards()
    cards.readings = None

    assert release(cards).look() == []
