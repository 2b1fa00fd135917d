"""Requests to the server: one method each, no retries, no threads.

A Transport belongs to one loop: it holds one connection, so no loop ever waits behind
another's upload. The token is given to each request by `_Bearer` and stands nowhere else; in
particular it is not taken from, or overruled by, a ~/.netrc.
"""

import io
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import requests
from requests.auth import AuthBase

from agent import wire
from agent.errors import (
    AgentError,
    AnswerTooLong,
    NotTheServer,
    Rejected,
    ServerUnreachable,
    Unauthorized,
    WrongProtocol,
)
from agent.files.bandwidth import Bandwidth, Paced
from agent.reach import MAX_REPLY_BYTES, TooLong, proxies_for, whole, why

CONNECT_SECONDS = 3.0
BEAT_SECONDS = 5.0  # a beat that takes longer is no sign of life; the next one tries anew
ANSWER_SECONDS = 10.0  # beyond what a poll is held
TRANSFER_SECONDS = 20.0  # without a byte, for files: a line that went dead holds them up no longer
BLOCK_BYTES = 256 * 1024
SENT_BLOCK_BYTES = 64 * 1024  # each has CONNECT_SECONDS to leave, on however slow a line
SLOWEST_DISK_BYTES_PER_SECOND = 20e6  # at which a server reads again what it was sent

Reply = TypeVar("Reply")


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def __repr__(self) -> str:
        return "_Bearer(…)"


class _NoCredential(AuthBase):
    """Says so to requests, which would otherwise look for one in ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class Body:
    """`length` bytes of `source`, from where it stands, as the body of a request.

    It leaves in blocks, because the time a socket is given to send holds for each of them: one
    block of 4 MiB would never get through a slow line.
    """

    def __init__(self, source: BinaryIO, length: int, stop: threading.Event | None = None) -> None:
        """`stop`: ends the sending, and so the request."""
        self._source = source
        self._length = length
        self._stop = stop or threading.Event()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        """
        Raises:
            ServerUnreachable: there are fewer bytes by now, or it was stopped.
        """
        left = self._length
        while left:
            block = self._source.read(min(SENT_BLOCK_BYTES, left))
            if not block or self._stop.is_set():
                raise ServerUnreachable("the file became shorter, or the agent stops")
            left -= len(block)
            yield block


def hashing_seconds(length: int) -> float:
    """How long a server may be silent while it hashes a file of so many bytes."""
    return length / SLOWEST_DISK_BYTES_PER_SECOND


class Transport:
    """The server's endpoints for agents.

    Each method sends one request and returns its answer, or raises one of agent.errors:
    ServerUnreachable when asking again later may help, Rejected when it will not.
    """

    def __init__(self, server: str, token: str | None, ca_file: str | None = None) -> None:
        """`server` is `http(s)://host[:port]`; `ca_file` the pinned CA, None: the system's."""
        self._server = server.rstrip("/")
        self._auth = _Bearer(token) if token else _NoCredential()
        # Given with each request: a session's own `verify` loses against REQUESTS_CA_BUNDLE.
        self._verify: bool | str = ca_file or True
        self._session = requests.Session()
        self._proxies = proxies_for(server)
        self.server_date: str | None = None  # of the last answer
        self._check: Callable[[], None] | None = None
        self._bandwidth: Bandwidth | None = None

    def asking_first(self, check: Callable[[], None]) -> "Transport":
        """Call `check` before each request from now on; what it raises, the request raises."""
        self._check = check
        return self

    def sharing(self, bandwidth: Bandwidth | None) -> "Transport":
        """Send files no faster than that, together with all that share it; None: at will."""
        self._bandwidth = bandwidth
        return self

    def close(self) -> None:
        self._session.close()

    # --- devices and attempts ---

    def enroll(self, message: wire.Enroll) -> wire.Enrolled:
        return self._ask(wire.Enrolled, "/api/devices/enroll", message)

    def whoami(self) -> wire.Enrolled:
        """What the token is good for. Changes nothing, and is no sign of life."""
        return self._decoded(wire.Enrolled, self._send("GET", "/api/devices/me"))

    def heartbeat(self, message: wire.Heartbeat) -> wire.HeartbeatReply:
        return self._ask(wire.HeartbeatReply, "/api/devices/heartbeat", message, BEAT_SECONDS)

    def goodbye(self, message: wire.Goodbye) -> None:
        data = wire.dumps(message)
        self._whole(self._send("POST", "/api/devices/goodbye", data=data, headers=JSON))

    def poll(self, message: wire.Poll) -> wire.PollReply:
        wait = message.wait_seconds
        return self._ask(wire.PollReply, "/api/agent/poll", message, ANSWER_SECONDS + wait)

    def event(self, attempt_id: str, message: wire.AttemptEvent) -> wire.EventReply:
        return self._ask(wire.EventReply, f"/api/agent/attempts/{attempt_id}/events", message)

    def config(self, attempt_id: str) -> bytes:
        """The attempt's YAML, byte for byte."""
        return self._whole(self._send("GET", f"/api/agent/attempts/{attempt_id}/config"))

    def code(self, attempt_id: str) -> bytes:
        """The manifest of the snapshot that the attempt runs in (agent.code.manifest)."""
        return self._whole(self._send("GET", f"/api/agent/attempts/{attempt_id}/code"))

    @contextmanager
    def code_files(self, attempt_id: str, sha256s: list[str]) -> Iterator[Iterator[bytes]]:
        """Files of that snapshot as frames, in blocks."""
        path = f"/api/agent/attempts/{attempt_id}/code/files"
        data = wire.dumps({"sha256": sha256s})
        response = self._send("POST", path, data=data, headers=JSON, seconds=TRANSFER_SECONDS)
        try:
            yield _blocks(response)
        finally:
            response.close()

    def secrets(self, attempt_id: str) -> dict[str, str]:
        """What the attempt was given. Never logged, and kept in memory alone."""
        response = self._send("GET", f"/api/agent/attempts/{attempt_id}/secrets")
        return self._decoded(wire.AttemptSecrets, response).secrets

    # --- files (protocol §6) ---

    def delta(
        self,
        experiment_uid: str,
        file_name: str,
        chunk: bytes,
        headers: Mapping[str, str],
        seconds: float = TRANSFER_SECONDS,
    ) -> dict[str, Any]:
        """Send `chunk` as a raw body; offset, generation and hash stand in `headers`."""
        path = f"/api/sync/delta/{experiment_uid}/{quote(file_name)}"
        body = self._paced(Body(io.BytesIO(chunk), len(chunk)), first=True) if chunk else b""
        return self._json("POST", path, body, {**RAW, **headers}, seconds)

    def full(
        self,
        experiment_uid: str,
        file_name: str,
        body: "Body | bytes",
        headers: Mapping[str, str],
        seconds: float = TRANSFER_SECONDS,
    ) -> dict[str, Any]:
        """Send a whole file, or a chunk of it (by `headers`), streamed; `seconds` without a byte
        are too many."""
        path = f"/api/sync/full/{experiment_uid}/{quote(file_name)}"
        paced = self._paced(body, first=False) if isinstance(body, Body) and body else body
        return self._json("POST", path, paced or b"", {**RAW, **headers}, seconds)

    def upload_offset(
        self, experiment_uid: str, file_name: str, upload_id: str, headers: Mapping[str, str]
    ) -> int:
        """How many bytes of an upload in chunks the server has; 0 also of one not begun."""
        path = f"/api/sync/full/{experiment_uid}/{quote(file_name)}?upload_id={quote(upload_id)}"
        try:
            answer = self._json("GET", path, None, dict(headers))
        except Rejected as exc:
            if exc.status != 404:
                raise
            return 0
        data = answer.get("data")
        offset = data.get("expected_offset") if isinstance(data, dict) else None
        if not isinstance(offset, int) or offset < 0:
            raise self._stranger(f"{str(answer)[:200]} for how far an upload is")
        return offset

    def sync_status(self, experiment_uid: str) -> dict[str, Any]:
        return self._json("GET", f"/api/sync/status/{experiment_uid}", None, {})

    @contextmanager
    def download(
        self, experiment_uid: str, file_name: str, offset: int = 0
    ) -> Iterator[Iterator[bytes]]:
        """A file of the run as the server has it, in blocks, from `offset` on."""
        path = f"/api/sync/file/{experiment_uid}/{quote(file_name)}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = self._send("GET", path, headers=headers)
        try:
            yield _blocks(response)
        finally:
            response.close()

    def _paced(self, body: Body, *, first: bool) -> "Body | Paced":
        return Paced(body, self._bandwidth, first=first) if self._bandwidth else body

    # --- below all of them ---

    def _ask(
        self,
        reply: type[Reply],
        path: str,
        message: Any,
        seconds: float = ANSWER_SECONDS,
    ) -> Reply:
        response = self._send(
            "POST", path, data=wire.dumps(message), headers=JSON, seconds=seconds
        )
        return self._decoded(reply, response)

    def _decoded(self, reply: type[Reply], response: requests.Response) -> Reply:
        try:
            return wire.decode(reply, wire.loads(self._whole(response)))
        except wire.Malformed as exc:
            raise self._stranger(f"a {reply.__name__} whose {exc}") from None

    def _json(
        self,
        method: str,
        path: str,
        body: Any,
        headers: dict[str, str],
        seconds: float = TRANSFER_SECONDS,
    ) -> dict[str, Any]:
        response = self._send(method, path, data=body, headers=headers, seconds=seconds)
        return self._object(response)

    def _send(
        self,
        method: str,
        path: str,
        *,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> requests.Response:
        """The answer, unless it is a refusal; its body is still to be read."""
        if self._check is not None:
            self._check()
        try:
            response = self._session.request(
                method,
                self._server + path,
                data=data,
                headers={"Accept": "application/json", **(headers or {})},
                auth=self._auth,
                timeout=(CONNECT_SECONDS, seconds),
                verify=self._verify,
                proxies=self._proxies,
                allow_redirects=False,  # a POST that is redirected comes back as a GET
                stream=True,
            )
        except requests.RequestException as exc:
            raise ServerUnreachable(self._why(exc)) from None
        self.server_date = response.headers.get("Date")
        if response.status_code >= 300:
            raise self._refusal(response)
        return response

    def _refusal(self, response: requests.Response) -> AgentError:
        status = response.status_code
        if status < 400:
            response.close()
            there = response.headers.get("Location", "elsewhere")
            return self._stranger(f"a redirection to {there}; name that address instead")
        if status >= 500 or status in (408, 423, 429):
            self._whole(response)  # or its connection could not be used again
            wait = _seconds(response.headers.get("Retry-After"))
            return ServerUnreachable(f"{self._server} answers {status}", wait)
        try:
            facts = self._object(response)
        except NotTheServer as exc:
            if status in (401, 403):  # a proxy's: it tells as much about the token
                return Unauthorized(status, "unauthorized", {})
            return exc
        code = str(facts.get("code", "unknown"))
        return _REFUSALS.get(status, Rejected)(status, code, facts)

    def _object(self, response: requests.Response) -> dict[str, Any]:
        try:
            body = wire.loads(self._whole(response))
        except wire.Malformed:
            body = None
        if not isinstance(body, dict):
            raise self._stranger(f"{response.status_code} without a JSON object")
        return body

    def _whole(self, response: requests.Response) -> bytes:
        try:
            return whole(response)
        except TooLong:
            words = self._stranger(f"with more than {MAX_REPLY_BYTES} bytes")
            raise AnswerTooLong(str(words)) from None
        except requests.RequestException as exc:
            raise ServerUnreachable(self._why(exc)) from None

    def _stranger(self, what: str) -> NotTheServer:
        return NotTheServer(f"{self._server} answers {what}. Is it the address of the lab server?")

    def _why(self, exc: requests.RequestException) -> str:
        return why(exc, self._server)


JSON = {"Content-Type": "application/json"}
RAW = {"Content-Type": "application/octet-stream"}
_REFUSALS: dict[int, type[Rejected]] = {401: Unauthorized, 403: Unauthorized, 426: WrongProtocol}


def _seconds(text: str | None) -> float | None:
    """Retry-After in its form of seconds; a date is not worth trusting a clock for."""
    return float(text) if text and text.isascii() and text.isdigit() else None


def _blocks(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_content(BLOCK_BYTES)
    except requests.RequestException as exc:
        raise ServerUnreachable(f"the download was cut: {type(exc).__name__}") from None
