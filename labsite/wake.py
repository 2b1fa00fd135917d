"""The one door between the server's processes: "something of this kind and id has changed".

A wake-up says that it is worth looking, and never what is to be seen: who hears one reads the
database, and who missed one loses time and nothing else. On one host it is a unix datagram to
each socket that wants its kind; with LAB_REDIS_URL it is Redis pub/sub, and crosses hosts.

    publish_on_commit("device", device.pk)        # the writer, inside its transaction

    with Mailbox({"queue"}) as mailbox:           # a thread that has nothing else to do
        mailbox.wait(1.0)

    async for wakes in listen():                  # an event loop
        ...

A full socket drops what is sent to it (the kernel holds 10 datagrams by default). The sender
then touches the socket's file, and its reader gets MISSED: look at everything.
"""

import asyncio
import hashlib
import json
import logging
import os
import secrets
import select
import socket
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.tasks import async_task

logger = logging.getLogger(__name__)

#: What the kernel takes as a socket's path, its final NUL included, is 108 bytes (104 on macOS).
MAX_PATH_BYTES = 103
#: How often a reader looks whether something was dropped, when nothing else happens.
CHECK_SECONDS = 1.0
RECONNECT_SECONDS = 1.0
ALL = "all"


@dataclass(frozen=True)
class Wake:
    kind: str
    id: int | str | None
    size: int | None = None


#: Something was dropped, or the line was down: whoever hears this looks at everything.
MISSED = Wake("*", None)


# --- sending ------------------------------------------------------------------------------------


def publish(kind: str, id: int | str | None, size: int | None = None) -> None:
    """Tell every process that listens for `kind`. Never raises, never waits on one host.

    Outside a transaction only, or readers look before there is anything to see; inside one
    call publish_on_commit().
    """
    message = json.dumps([kind, id, size]).encode()
    try:
        if settings.LAB_REDIS_URL:
            _redis().publish(_redis_channel(kind), message)
        else:
            _send_to_all(kind, message)
    except (OSError, redis.RedisError, ImproperlyConfigured) as exc:
        logger.warning("wake-up %s %s was not sent: %s", kind, id, exc)


def publish_on_commit(kind: str, id: int | str | None, size: int | None = None) -> None:
    transaction.on_commit(lambda: publish(kind, id, size), robust=True)


def ask_dispatch() -> None:
    """Have the queue looked at once this transaction is committed; at once outside of one.

    A pass that waits to be run is enough for any number of wishes, since it will see all that
    was committed before it begins. One that runs already is not: another is queued.
    """
    transaction.on_commit(queue_dispatch, robust=True)


def queue_dispatch() -> None:
    """At once.

    Raises:
        DatabaseError: the database cannot now.
    """
    _queue(settings.LAB_DISPATCH_TASK)


def ask_tidy() -> None:
    """Have what was deleted laid into the trash, restored or removed; otherwise as above."""
    transaction.on_commit(partial(_queue, settings.LAB_TIDY_TASK), robust=True)


def _queue(task: str) -> None:
    broker = get_broker()
    if broker.has_waiting(task):
        publish("queue", broker.list_key)  # the wake-up of the first wish may have been lost
    else:
        async_task(task, broker=broker)


def queue_name() -> str:
    """The django-q2 queue of this process, as in the wake-ups of kind "queue"."""
    return str(Conf.CLUSTER_NAME)


def _send_to_all(kind: str, message: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        with os.scandir(socket_dir()) as entries:
            for entry in entries:
                if entry.name.partition(".")[0] in (kind, ALL):
                    _send(sender, entry.path, message)


def _send(sender: socket.socket, path: str, message: bytes) -> None:
    try:
        sender.sendto(message, path)
    except BlockingIOError:  # full: tell its reader that it missed something
        with suppress(FileNotFoundError):
            os.utime(path)
    except ConnectionRefusedError:  # its process is gone
        with suppress(FileNotFoundError):
            os.unlink(path)
    except FileNotFoundError:  # it was closed just now
        pass
    except OSError as exc:
        logger.warning("a wake-up did not reach %s: %s", path, exc)


# --- where the sockets lie ----------------------------------------------------------------------


def socket_dir() -> Path:
    """The folder of this data folder's sockets, made when missing, open to nobody else.

    All processes of one data folder come to the same answer, whoever started them, as long as
    LAB_SOCKET_DIR and XDG_RUNTIME_DIR are the same for them. Where they are not, wake-ups get
    lost and each side finds out by itself a little later.
    """
    folder = _socket_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ImproperlyConfigured(
            f"{folder} belongs to somebody else. Set LAB_SOCKET_DIR to a folder of your own."
        )
    return folder


def _socket_dir() -> Path:
    if settings.LAB_SOCKET_DIR:
        return Path(settings.LAB_SOCKET_DIR)
    mark = hashlib.sha256(str(settings.LAB_DATA_DIR).encode()).hexdigest()[:12]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime) / f"labsite-{mark}"
    return Path(tempfile.gettempdir()) / f"labsite-{os.getuid()}-{mark}"


# --- receiving ----------------------------------------------------------------------------------


class Mailbox:
    """A socket of this process, for the wake-ups of some kinds (None: of all).

    Belongs to the process that made it: after a fork make another one.
    """

    def __init__(self, kinds: Collection[str] | None = None) -> None:
        self._kinds = None if kinds is None else frozenset(kinds)
        self._prefix = next(iter(kinds)) if kinds is not None and len(kinds) == 1 else ALL
        self._open()

    def __enter__(self) -> "Mailbox":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def wait(self, timeout_seconds: float) -> list[Wake]:
        """Block until something has come, and return it; nothing after `timeout_seconds`."""
        select.select([self._socket], [], [], timeout_seconds)
        return self.take()

    def take(self) -> list[Wake]:
        """All that has come, without waiting. MISSED is in it if something was dropped."""
        wakes = []
        with suppress(BlockingIOError):
            while True:
                wakes += _decoded(self._socket.recv(4096))
        if self._was_dropped():
            wakes.append(MISSED)
        return [wake for wake in wakes if self._wants(wake)]

    def _wants(self, wake: Wake) -> bool:
        return self._kinds is None or wake.kind in self._kinds or wake == MISSED

    def _open(self) -> None:
        self._path = socket_dir() / f"{self._prefix}.{os.getpid()}.{secrets.token_hex(3)}"
        if len(os.fsencode(self._path)) > MAX_PATH_BYTES:
            raise ImproperlyConfigured(
                f"The path of a socket would be too long: {self._path}. "
                "Set LAB_SOCKET_DIR to a folder with a shorter path."
            )
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(self._path))
        self._touched_ns = self._path.stat().st_mtime_ns

    def _was_dropped(self) -> bool:
        try:
            touched_ns = self._path.stat().st_mtime_ns
        except FileNotFoundError:  # somebody tidied up the folder: nobody can reach us there
            self._socket.close()
            self._open()
            return True
        dropped = touched_ns != self._touched_ns
        self._touched_ns = touched_ns
        return dropped


async def listen(kinds: Collection[str] | None = None) -> AsyncIterator[list[Wake]]:
    """Yield what comes, for ever. The first list is [MISSED]: from here on nothing is lost."""
    source = _listen_redis if settings.LAB_REDIS_URL else _listen_here
    async for wakes in source(kinds):
        yield wakes


async def _listen_here(kinds: Collection[str] | None) -> AsyncIterator[list[Wake]]:
    loop = asyncio.get_running_loop()
    with Mailbox(kinds) as mailbox:
        yield [MISSED]
        while True:
            await _readable(loop, mailbox.fileno())
            if wakes := mailbox.take():
                yield wakes


async def _readable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    """Return when there is something to read, or after CHECK_SECONDS."""
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await ready.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(descriptor)


def _decoded(message: bytes) -> list[Wake]:
    """The wake-up in `message`; none if it is not one of ours."""
    try:
        kind, id, size = json.loads(message)
    except (ValueError, TypeError):
        return []
    return [Wake(kind, id, size)]


# --- Redis --------------------------------------------------------------------------------------


class _Clients(threading.local):
    """redis-py's clients may be shared between threads, but not with a forked child."""

    def __init__(self) -> None:
        self.pid = 0
        self.client: Any = None


_clients = _Clients()


def _redis() -> Any:
    if _clients.pid != os.getpid():
        _clients.client = redis.Redis.from_url(
            settings.LAB_REDIS_URL, socket_timeout=1, socket_connect_timeout=1
        )
        _clients.pid = os.getpid()
    return _clients.client


def _redis_channel(kind: str) -> str:
    """Of this lab only: two labs may share a Redis, and its channels know no database."""
    mark = hashlib.sha256(f"wake:{settings.SECRET_KEY}".encode()).hexdigest()[:12]
    return f"labsite.{mark}.{kind}"


class RedisMailbox:
    """A Mailbox at scale, for a thread. Reconnects by itself, and then gives MISSED."""

    def __init__(self, kinds: Collection[str]) -> None:
        self._channels = [_redis_channel(kind) for kind in kinds]
        self._client = redis.Redis.from_url(settings.LAB_REDIS_URL, socket_connect_timeout=1)
        self._pubsub: Any = None

    def wait(self, timeout_seconds: float) -> list[Wake]:
        try:
            if self._pubsub is None:
                self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)
                self._pubsub.subscribe(*self._channels)
                return [MISSED]
            message = self._pubsub.get_message(timeout=timeout_seconds)
        except (OSError, redis.RedisError) as exc:
            logger.warning("Redis cannot be heard: %s", exc)
            self.close()
            threading.Event().wait(timeout_seconds)
            return [MISSED]
        return _decoded(message["data"]) if message else []

    def close(self) -> None:
        if self._pubsub is not None:
            with suppress(OSError, redis.RedisError):
                self._pubsub.close()
        self._pubsub = None


def mailbox(kinds: Collection[str]) -> Mailbox | RedisMailbox:
    """What a thread waits at, whichever way wake-ups travel."""
    return RedisMailbox(kinds) if settings.LAB_REDIS_URL else Mailbox(kinds)


async def _listen_redis(kinds: Collection[str] | None) -> AsyncIterator[list[Wake]]:
    while True:
        # socket_timeout None: redis-py's default gives a silent line up after some seconds.
        client = redis.asyncio.Redis.from_url(settings.LAB_REDIS_URL, socket_timeout=None)
        try:
            async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                await _subscribe(pubsub, kinds)
                yield [MISSED]
                async for message in pubsub.listen():
                    yield _decoded(message["data"])
        except (OSError, redis.RedisError) as exc:
            logger.warning("Redis cannot be heard: %s", exc)
        finally:
            await client.aclose()
        await asyncio.sleep(RECONNECT_SECONDS)


async def _subscribe(pubsub: Any, kinds: Collection[str] | None) -> None:
    if kinds is None:
        await pubsub.psubscribe(_redis_channel("*"))
    else:
        await pubsub.subscribe(*map(_redis_channel, kinds))
