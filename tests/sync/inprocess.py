"""A server in this process, and the agent's own transport to it: every fault at will, no socket.

`Server` answers requests by Django's real handlers on the real database, and two of three deltas
as the door does that they have of their own; its disk is a tests.faults.disk.Disk. It may die at
any call that changes disk or database, and goes on as a fresh process would. `Line` is where
requests of agent.transport go instead of to a socket.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import requests
from django.db import connection
from django.test import Client
from requests.adapters import BaseAdapter

from agent.transport import Transport
from labsite.answer import json_answer
from labsite.deltas import Deltas, asked_of, content_of
from sync import chunks, steady
from tests.faults.disk import Died, Disk

URL = "http://lab.test"
WRITES = ("INSERT", "UPDATE", "DELETE")


@dataclass(frozen=True)
class Ask:
    """A request, as it may come once more, or late."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def flipped(self) -> "Ask":
        """With one bit wrong."""
        if not self.body:
            return self
        at = len(self.body) // 2
        return replace(
            self, body=self.body[:at] + bytes([self.body[at] ^ 4]) + self.body[at + 1 :]
        )


@dataclass(frozen=True)
class Told:
    """An answer."""

    status: int
    headers: dict[str, str]
    content: bytes


class Server:
    """See above. A `trouble`, given for one request, is called at each point of it, and may have
    the server die there, or do something meanwhile."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.counts: Counter[str] = Counter()
        self._client = Client()
        self._deltas = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Makes each statement that writes a point, as the disk's calls are."""
        with connection.execute_wrapper(self._statement):
            yield

    def _statement(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        writes = sql.startswith(WRITES)
        if writes or self.disk.dead:
            self.disk.point("before commit")
        result = execute(sql, params, many, context)
        if writes and " RETURNING " not in sql:  # that is committed when its rows are fetched
            self.disk.point("after commit")
        return result

    def answer(self, ask: Ask, trouble: Callable[[str], None] | None = None) -> Told | None:
        """None: the process died of `trouble`; a new one is there."""
        self.counts["requests"] += 1
        before, self.disk.on_point = self.disk.on_point, trouble or (lambda point: None)
        try:
            return self._answer(ask)
        except Died:
            self.restart()
            return None
        finally:
            self.disk.on_point = before

    def _answer(self, ask: Ask) -> Told:
        return self._at_their_door(ask) or self._at_the_view(ask)

    def _at_their_door(self, ask: Ask) -> Told | None:
        """None: it is no delta, or not of the plain kind, or the other door's turn."""
        headers = [(k.lower().encode(), v.encode()) for k, v in ask.headers.items()]
        scope = {"method": ask.method, "path": ask.path, "headers": headers}
        if not Deltas.is_for(scope):
            return None
        self._deltas += 1
        taken = steady.go_on([asked_of(scope, ask.body)])[0] if self._deltas % 3 else None
        if taken is None:
            return None
        self.counts["steady deltas"] += 1
        answer = json_answer(content_of(taken))
        return Told(answer.status, {}, answer.content)

    def _at_the_view(self, ask: Ask) -> Told:
        kind = ask.headers.get("Content-Type", "")
        headers = {name: value for name, value in ask.headers.items() if name not in _NOT_SENT}
        answer = self._client.generic(ask.method, ask.path, ask.body, kind, headers=headers)
        return Told(answer.status_code, dict(answer.headers), answer.getvalue())

    def die(self, point: str) -> None:
        """A trouble: kill -9 here."""
        self.counts[f"died {point}"] += 1
        self.disk.dead = True
        raise Died(point)

    def restart(self) -> None:
        """A new process remembers nothing."""
        self.disk.dead = False
        chunks._digests = chunks._Digests()


_NOT_SENT = ("Content-Type", "Content-Length", "Connection", "Accept-Encoding", "User-Agent")


class Line(BaseAdapter):
    """Where one agent's requests go. `meets` answers them; None: nothing came back."""

    def __init__(self, meets: Callable[[Ask], Told | None]) -> None:
        super().__init__()
        self._meets = meets

    def send(self, request: Any, *_how: object, **_more: object) -> requests.Response:
        body = request.body or b""
        content = body if isinstance(body, bytes) else b"".join(body)
        path = request.path_url
        told = self._meets(Ask(request.method, path, dict(request.headers), content))
        if told is None:
            raise requests.ConnectionError("lost")
        return _response(request, told)

    def close(self) -> None:
        """Nothing is open."""


def _response(request: Any, told: Told) -> requests.Response:
    response = requests.Response()
    response.status_code = told.status
    response.headers.update(told.headers)
    response.raw = io.BytesIO(told.content)
    response.url, response.request = request.url, request
    return response


def transport(token: str, meets: Callable[[Ask], Told | None]) -> Transport:
    """The agent's own, with another line below it."""
    made = Transport(URL, token)
    made._session.mount("http://", Line(meets))
    return made
