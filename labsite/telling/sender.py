"""The thread of each web process that sees to it that people are told.

It looks when something happened, and each LOOK_SECONDS in case nobody said so: missing a wake-up
costs a delay and nothing else. A channel is leased while it is told, so that of several web
processes one sends.

Nothing here is in the way of agents: requests go out in threads of their own, no transaction is
open meanwhile, and a thread that is sending keeps no process from its end.
"""

import logging
import secrets
import threading
from collections.abc import Iterable

from django.db import DatabaseError, InterfaceError, close_old_connections, connections

from labsite.clock import database_now
from labsite.telling.forms import send
from labsite.telling.telling import Look, Send, look, tell
from labsite.wake import MISSED, Wake

logger = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
#: Of what happens within it one look is enough.
GATHER_SECONDS = 1.0
#: So many channels are told at a time.
AT_ONCE = 4
NEWS = {"event", "channel", MISSED.kind}


class Sender:
    def __init__(self, send: Send = send) -> None:
        self._send = send
        self._name = secrets.token_hex(8)
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._telling: dict[int, threading.Thread] = {}
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="lab-telling", daemon=True)
        self._thread.start()

    def on_wakes(self, wakes: Iterable[Wake]) -> None:
        if any(wake.kind in NEWS for wake in wakes):
            self._news.set()

    def close(self) -> None:
        """End the threads, after the messages that are under way. Blocks; for tests."""
        self._stopping.set()
        self._news.set()
        for thread in [self._thread, *self._telling.values()]:
            if thread:
                thread.join()

    def _run(self) -> None:
        last = Look()
        while not self._stopping.is_set():
            last.again_seconds = LOOK_SECONDS
            try:
                close_old_connections()
                last = look(last, database_now(), LOOK_SECONDS)
                self._begin(last.found)
            except (DatabaseError, InterfaceError) as exc:
                logger.warning("nobody is told of anything while the database is away: %s", exc)
            except Exception:
                logger.exception("telling people failed, and goes on")
            self._news.wait(last.again_seconds)
            self._news.clear()
            self._stopping.wait(GATHER_SECONDS)
        connections.close_all()

    def _begin(self, found: Iterable[int]) -> None:
        """Threads that end when all is sent: nothing is sent for most of the time."""
        self._telling = {pk: one for pk, one in self._telling.items() if one.is_alive()}
        for pk in found:
            if pk not in self._telling and len(self._telling) < AT_ONCE:
                thread = threading.Thread(target=self._tell, args=(pk,), daemon=True)
                self._telling[pk] = thread
                thread.start()

    def _tell(self, pk: int) -> None:
        try:
            tell(pk, self._name, self._send)
        except (DatabaseError, InterfaceError) as exc:
            logger.warning("channel %d waits for the database: %s", pk, exc)
        finally:
            connections.close_all()
            self._news.set()  # when to try again, and who waited for a place
