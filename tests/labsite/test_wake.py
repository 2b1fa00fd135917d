"""Wake-ups between threads and processes, by datagram and by Redis."""

import asyncio
import os
import socket
import subprocess
import sys
import threading

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from labsite import wake
from labsite.wake import MISSED, Mailbox, Wake

REDIS_URL = "redis://127.0.0.1:6379/9"


@pytest.fixture(autouse=True)
def sockets(settings, tmp_path):
    settings.LAB_REDIS_URL = ""
    settings.LAB_SOCKET_DIR = str(tmp_path / "s")
    return tmp_path / "s"


def test_every_mailbox_gets_what_it_asked_for():
    with Mailbox() as all_kinds, Mailbox({"queue"}) as queue, Mailbox({"file", "job"}) as some:
        wake.publish("queue", "lab")
        wake.publish("file", 91, 2048)

        assert all_kinds.take() == [Wake("queue", "lab"), Wake("file", 91, 2048)]
        assert queue.take() == [Wake("queue", "lab")]
        assert some.take() == [Wake("file", 91, 2048)]


def test_waiting_ends_when_something_comes():
    with Mailbox() as mailbox:
        threading.Timer(0.05, wake.publish, ["device", 7]).start()

        assert mailbox.wait(timeout_seconds=10) == [Wake("device", 7)]


def test_what_a_full_socket_dropped_is_told_once():
    with Mailbox() as mailbox:
        for number in range(2000):
            wake.publish("file", number)

        first = mailbox.take()
        assert first[0] == Wake("file", 0)
        assert first[-1] == MISSED
        assert mailbox.take() == []


def test_the_socket_of_a_dead_process_is_taken_away(sockets):
    make = "from labsite.wake import Mailbox; import os; Mailbox(); os._exit(0)"
    environment = {
        **os.environ,
        "LAB_SOCKET_DIR": str(sockets),
        "DJANGO_SETTINGS_MODULE": "labsite.settings",
    }
    setup = "import django; django.setup(); "
    subprocess.run([sys.executable, "-c", setup + make], env=environment, check=True)
    assert len(list(sockets.iterdir())) == 1

    wake.publish("job", 1)

    assert list(sockets.iterdir()) == []


def test_a_mailbox_whose_file_was_tidied_away_makes_another(sockets):
    with Mailbox() as mailbox:
        next(sockets.iterdir()).unlink()

        assert mailbox.take() == [MISSED]
        wake.publish("job", 1)
        assert mailbox.take() == [Wake("job", 1)]


def test_nobody_else_may_enter_the_folder():
    assert wake.socket_dir().stat().st_mode & 0o077 == 0


def test_a_folder_that_is_not_ours_is_refused(sockets, monkeypatch):
    sockets.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 54321)

    with pytest.raises(ImproperlyConfigured, match="LAB_SOCKET_DIR"):
        wake.socket_dir()
    wake.publish("job", 1)  # and yet nobody's request fails for it


def test_a_path_too_long_for_a_socket_is_named(settings, tmp_path):
    settings.LAB_SOCKET_DIR = str(tmp_path / ("x" * 100))

    with pytest.raises(ImproperlyConfigured, match="too long"):
        Mailbox()


def test_processes_of_one_data_folder_meet_in_one_place(settings, tmp_path, monkeypatch):
    settings.LAB_SOCKET_DIR = ""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    settings.LAB_DATA_DIR = tmp_path / "one"
    one, same = wake.socket_dir(), wake.socket_dir()
    settings.LAB_DATA_DIR = tmp_path / "two"

    assert one == same != wake.socket_dir()


@pytest.mark.parametrize("noise", [b"", b"{", b"[1]", b'"text"', b"\xff"])
def test_noise_is_not_a_wake_up(sockets, noise):
    with Mailbox() as mailbox, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(noise, str(next(sockets.iterdir())))

        assert mailbox.take() == []


@pytest.mark.django_db(transaction=True)
def test_nobody_is_woken_before_the_commit():
    with Mailbox() as mailbox:
        with transaction.atomic():
            wake.publish_on_commit("job", 1)
            assert mailbox.take() == []
        assert mailbox.take() == [Wake("job", 1)]


async def hear(count: int) -> list[Wake]:
    """The first `count` wake-ups after the first MISSED; a thread sends them then."""
    heard: list[Wake] = []
    loop = asyncio.get_running_loop()
    async for wakes in wake.listen():
        if wakes == [MISSED] and not heard:
            loop.run_in_executor(None, lambda: [wake.publish("job", n) for n in range(count)])
        heard += wakes
        if len(heard) > count:
            return heard
    raise AssertionError("listen() ended")


def test_a_loop_hears_what_a_thread_says():
    heard = asyncio.run(asyncio.wait_for(hear(3), 10))

    assert heard == [MISSED, *(Wake("job", number) for number in range(3))]


def redis_runs() -> bool:
    try:
        return redis.Redis.from_url(REDIS_URL, socket_connect_timeout=0.2).ping()
    except redis.RedisError:
        return False


@pytest.mark.skipif(not redis_runs(), reason="no Redis here")
def test_a_loop_hears_by_redis(settings):
    settings.LAB_REDIS_URL = REDIS_URL

    heard = asyncio.run(asyncio.wait_for(hear(3), 10))

    assert heard == [MISSED, *(Wake("job", number) for number in range(3))]


@pytest.mark.skipif(not redis_runs(), reason="no Redis here")
def test_a_thread_hears_by_redis(settings):
    settings.LAB_REDIS_URL = REDIS_URL
    mailbox = wake.mailbox({"queue"})
    try:
        assert mailbox.wait(1) == [MISSED]
        threading.Timer(0.05, wake.publish, ["queue", "lab"]).start()
        heard = []
        while not heard:
            heard = mailbox.wait(5)
    finally:
        mailbox.close()

    assert heard == [Wake("queue", "lab")]


def test_a_redis_that_is_down_fails_nobody(settings):
    settings.LAB_REDIS_URL = "redis://127.0.0.1:1/0"

    wake.publish("job", 1)

    assert wake.mailbox({"queue"}).wait(0.01) == [MISSED]
