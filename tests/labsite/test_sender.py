"""The thread that tells people: woken, and not ended by what goes wrong."""

import threading
from collections.abc import Iterator

import pytest

from experiments.models import Channel, ChannelKind
from experiments.models.channel import OF_RUNS
from labsite.clock import database_now
from labsite.telling import sender
from labsite.telling.sender import Sender
from labsite.wake import MISSED, Wake
from tests import make

pytestmark = pytest.mark.django_db(transaction=True)

WAIT_SECONDS = 10.0  # of a loaded machine; it takes a moment


@pytest.fixture(autouse=True)
def quick(settings, tmp_path, monkeypatch) -> None:
    settings.LAB_SECRETS_KEYS = []
    settings.LAB_SECRETS_KEY_FILE = tmp_path / "secrets_key"
    monkeypatch.setattr(sender, "GATHER_SECONDS", 0.01)


class Told:
    """Whom a sender told, and how one waits for it."""

    def __init__(self) -> None:
        self.channels: list[int] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self._news = threading.Semaphore(0)

    def send(self, channel: Channel, *_said: object) -> None:
        self.channels.append(channel.pk)
        self._news.release()
        self.may_go_on.wait(WAIT_SECONDS)

    def wait(self, count: int = 1) -> bool:
        return all(self._news.acquire(timeout=WAIT_SECONDS) for _ in range(count))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def at_work(told, monkeypatch) -> Iterator[Sender]:
    """It has looked, found nothing, and waits."""
    looked, look = threading.Event(), sender.look

    def and_say_so(*args):
        found = look(*args)
        looked.set()
        return found

    monkeypatch.setattr(sender, "look", and_say_so)
    made = Sender(told.send)
    made.start()
    assert looked.wait(WAIT_SECONDS)
    yield made
    told.may_go_on.set()
    made.close()


def to_be_tried(kim) -> Channel:
    url, kind = "https://hooks.example/x", ChannelKind.SLACK
    made = Channel.put(kim, kind, url, OF_RUNS, database_now(), by=kim)
    made.ask_test(database_now())
    return made


@pytest.mark.parametrize("wake", [Wake("channel", 1), Wake("event", 1), MISSED])
def test_a_wake_up_is_enough(at_work, told, wake):
    made = to_be_tried(make.user("kim"))

    at_work.on_wakes([Wake("metrics", 1), wake])

    assert told.wait()
    assert told.channels == [made.pk]


def test_a_look_that_fails_is_not_the_last(told, monkeypatch):
    failed, look = threading.Event(), sender.look

    def once(*args):
        monkeypatch.setattr(sender, "look", look)
        failed.set()
        raise ValueError

    monkeypatch.setattr(sender, "look", once)
    to_be_tried(make.user("kim"))
    made = Sender(told.send)
    made.start()
    assert failed.wait(WAIT_SECONDS)

    made.on_wakes([MISSED])

    assert told.wait()
    made.close()


def test_so_many_are_told_at_a_time_and_the_others_after_them(at_work, told):
    told.may_go_on.clear()
    kim = make.user("kim")
    all_of_them = {to_be_tried(kim).pk for _ in range(sender.AT_ONCE + 2)}

    at_work.on_wakes([MISSED])
    assert told.wait(sender.AT_ONCE)
    meanwhile = list(told.channels)
    told.may_go_on.set()

    assert told.wait(2)
    assert len(set(meanwhile)) == sender.AT_ONCE
    assert set(told.channels) == all_of_them
    assert len(told.channels) == len(all_of_them)
