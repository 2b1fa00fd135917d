"""The server's side of protocol §6 in memory, and as strict as the real one.

`FileHost` holds the rules. `Direct` is a Transport without a wire, for tests that go step by
step; `serving_files` puts the same host behind HTTP.
"""

import contextlib
import gzip
import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from agent import wire
from agent.errors import Rejected, ServerUnreachable

UID = "20260101_a1b2"


class Refusal(Exception):
    def __init__(self, status: int, code: str, **facts: Any) -> None:
        super().__init__(code)
        self.status = status
        self.body = {"code": code, "detail": f"refused: {code}", **facts}


@dataclass
class Held:
    attempt: int
    generation: int
    content: bytes = b""
    complete: bool = False


@dataclass
class Coming:
    """A whole file on its way in chunks."""

    version: tuple[int, int]
    upload_id: str
    content: bytes = b""
    expired: bool = False


@dataclass
class FileHost:
    """One run's files. `refuse` is raised instead of an answer while it is set."""

    run_name: str = "run_001"
    newest_attempt: int = 1
    results: dict[str, Held] = field(default_factory=dict)
    shelves: dict[int, dict[str, Held]] = field(default_factory=dict)
    laid_aside: list[tuple[str, int, bytes]] = field(default_factory=list)
    #: (name, attempt, generation) → the most that was acknowledged of a result
    acked: dict[tuple[str, int, int], int] = field(default_factory=dict)
    bodies: list[tuple[str, int]] = field(default_factory=list)  # (name, length) as they came
    uploads: dict[str, Coming] = field(default_factory=dict)  # of results, by name
    refuse: Refusal | None = None

    # --- the endpoints ---

    def delta(self, name: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        attempt, generation, offset = _numbers(headers, "Attempt", "Generation", "Offset")
        self._check(name, headers, body)
        body = _unpacked(headers, body)
        assert len(body) <= wire.MAX_CHUNK_BYTES
        if body:
            assert headers["X-Chunk-SHA256"] == hashlib.sha256(body).hexdigest()
        shelf = self._shelf(attempt)
        held = self._begin(shelf, name, (attempt, generation), offset)
        if offset > len(held.content):
            raise Refusal(409, "offset_mismatch", expected_offset=len(held.content))
        overlap = body[: len(held.content) - offset]
        if overlap != held.content[offset : offset + len(overlap)]:
            raise Refusal(409, "diverged", expected_offset=len(held.content))
        news = body[len(overlap) :]
        if news:
            held.content += news
            held.complete = False
        whole = headers.get("X-File-SHA256")
        if whole is not None:
            if whole != hashlib.sha256(held.content).hexdigest():
                raise Refusal(409, "diverged", expected_offset=len(held.content))
            held.complete = True
        return self._stored(name, held, offset + len(body), not news and bool(body))

    def full(self, name: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        attempt, generation = _numbers(headers, "Attempt", "Generation")
        self._check(name, headers, body)
        if "X-Upload-Id" in headers:
            return self._chunk(name, headers, _unpacked(headers, body), (attempt, generation))
        assert len(body) <= wire.MAX_WHOLE_FILE_BYTES
        return self._whole(name, headers, body, attempt, generation)

    def upload(self, name: str, upload_id: str) -> dict[str, Any]:
        if self.refuse:
            raise self.refuse
        coming = self.uploads.get(name)
        if coming is None or coming.upload_id != upload_id:
            raise Refusal(404, "not_found")
        if coming.expired:
            raise Refusal(410, "upload_expired")
        return {"success": True, "data": {"expected_offset": len(coming.content)}}

    def _chunk(
        self, name: str, headers: Mapping[str, str], body: bytes, version: tuple[int, int]
    ) -> dict[str, Any]:
        length, offset = int(headers["X-Upload-Length"]), int(headers["X-Upload-Offset"])
        assert len(body) <= wire.MAX_UPLOAD_CHUNK_BYTES
        assert headers["X-Chunk-SHA256"] == hashlib.sha256(body).hexdigest()
        held, coming = self.results.get(name), self.uploads.get(name)
        if held and hashlib.sha256(held.content).hexdigest() == headers["X-File-SHA256"]:
            return self._stored(name, held, offset + len(body), True)
        if coming is None or coming.upload_id != headers["X-Upload-Id"]:
            if offset:
                raise Refusal(409, "offset_mismatch", expected_offset=0)
            coming = self.uploads[name] = Coming(version, headers["X-Upload-Id"])
        if coming.expired:
            raise Refusal(410, "upload_expired")
        if offset > len(coming.content):
            raise Refusal(409, "offset_mismatch", expected_offset=len(coming.content))
        overlap = body[: len(coming.content) - offset]
        assert overlap == coming.content[offset : offset + len(overlap)]
        coming.content += body[len(overlap) :]
        if len(coming.content) == length:
            stored = self._whole(name, headers, coming.content, *version)
            del self.uploads[name]
            return stored
        data = {"acked_bytes": offset + len(body), "generation": version[1], "complete": False}
        return {"success": True, "data": data}

    def _whole(
        self, name: str, headers: Mapping[str, str], body: bytes, attempt: int, generation: int
    ) -> dict[str, Any]:
        if headers["X-File-SHA256"] != hashlib.sha256(body).hexdigest():
            raise Refusal(422, "checksum_differs")
        shelf = self._shelf(attempt)
        held = shelf.setdefault(name, Held(attempt, generation))
        if (attempt, generation) < (held.attempt, held.generation):
            raise Refusal(
                409, "stale_generation", attempt=held.attempt, generation=held.generation
            )
        duplicate = held.complete and held.content == body
        shelf[name] = held = Held(attempt, generation, body, complete=True)
        return self._stored(name, held, len(body), duplicate)

    def status(self) -> dict[str, Any]:
        if self.refuse:
            raise self.refuse
        files = {
            name: {"generation": held.generation, "attempt": held.attempt}
            for name, held in self.results.items()
        }
        return {"success": True, "data": {"experiment_uid": UID, "files": files}}

    # --- their rules ---

    def _check(self, name: str, headers: Mapping[str, str], body: bytes) -> None:
        if self.refuse:
            raise self.refuse
        assert headers["Content-Type"] == "application/octet-stream"
        assert headers["X-File-Mtime"].isdigit()
        assert wire.is_file_of(self.run_name, name), name
        self.bodies.append((name, len(body)))

    def _shelf(self, attempt: int) -> dict[str, Held]:
        if attempt == self.newest_attempt:
            return self.results
        return self.shelves.setdefault(attempt, {})

    def _begin(
        self, shelf: dict[str, Held], name: str, version: tuple[int, int], offset: int
    ) -> Held:
        held = shelf.get(name)
        newest = (held.attempt, held.generation) if held else (0, 0)
        if version < newest:
            raise Refusal(409, "stale_generation", attempt=newest[0], generation=newest[1])
        if held is None or version > newest:
            if offset:
                raise Refusal(409, "offset_mismatch", expected_offset=0)
            if held is not None:
                self.laid_aside.append((name, held.generation, held.content))
            shelf[name] = held = Held(*version)
        return held

    def _stored(self, name: str, held: Held, acked: int, duplicate: bool) -> dict[str, Any]:
        key = (name, held.attempt, held.generation)
        if self.results.get(name) is held:
            self.acked[key] = max(self.acked.get(key, 0), acked)
        data = {
            "message": "synced",
            "acked_bytes": acked,
            "size_bytes": len(held.content),
            "generation": held.generation,
            "duplicate": duplicate,
            "complete": held.complete,
        }
        return {"success": True, "data": data}


def _unpacked(headers: Mapping[str, str], body: bytes) -> bytes:
    if headers.get("Content-Encoding") != "gzip":
        return body
    raw = gzip.decompress(body)
    assert len(raw) == int(headers["X-Raw-Length"]) <= wire.MAX_GZIP_RATIO * len(body)
    return raw


def _numbers(headers: Mapping[str, str], *names: str) -> list[int]:
    values = [headers[f"X-Sync-{name}"] for name in names]
    assert all(value.isdigit() for value in values), values
    return [int(value) for value in values]


# --- without a wire ---------------------------------------------------------------------------


class Direct:
    """A Transport whose requests are calls. `fates` says what becomes of the next ones:
    "lost_request", "lost_answer", or "late": it arrives when deliver_late() is called."""

    def __init__(self, host: FileHost) -> None:
        self.host = host
        self.fates: deque[str] = deque()
        self.late: list[Any] = []
        self.slow_seconds = 0.0  # what each whole file or chunk takes

    def delta(
        self, uid: str, name: str, chunk: bytes, headers: dict[str, str], seconds: float = 0
    ) -> dict[str, Any]:
        headers = {"Content-Type": "application/octet-stream", **headers}
        return self._send(lambda: self.host.delta(name, headers, chunk))

    def full(
        self, uid: str, name: str, body: Any, headers: dict[str, str], seconds: float = 0
    ) -> dict[str, Any]:
        headers = {"Content-Type": "application/octet-stream", **headers}
        content = b"".join(body)
        time.sleep(self.slow_seconds)
        return self._send(lambda: self.host.full(name, headers, content))

    def sync_status(self, uid: str) -> dict[str, Any]:
        return self._answer(self.host.status)

    def upload_offset(self, uid: str, name: str, upload_id: str, headers: dict[str, str]) -> int:
        try:
            answer = self._answer(lambda: self.host.upload(name, upload_id))
        except Rejected as exc:
            if exc.status != 404:
                raise
            return 0
        return int(answer["data"]["expected_offset"])

    def deliver_late(self) -> None:
        for request in self.late:
            with contextlib.suppress(Refusal):
                request()

    def _send(self, request: Any) -> dict[str, Any]:
        fate = self.fates.popleft() if self.fates else "ok"
        if fate == "late":
            self.late.append(request)
        if fate in ("late", "lost_request"):
            raise ServerUnreachable(fate)
        answer = self._answer(request)
        if fate == "lost_answer":
            raise ServerUnreachable(fate)
        return answer

    def _answer(self, request: Any) -> dict[str, Any]:
        try:
            return dict(request())
        except Refusal as refusal:
            if refusal.status >= 500 or refusal.status in (408, 423, 429):
                raise ServerUnreachable(refusal.body["code"]) from None
            raise Rejected(refusal.status, refusal.body["code"], refusal.body) from None


# --- over HTTP --------------------------------------------------------------------------------


class ServedHost:
    """A FileHost at `url`. Whole files wait until `open_gate` is set; `fates` as in Direct."""

    def __init__(self, host: FileHost) -> None:
        self.host = host
        self.turn = threading.RLock()
        self.fates: deque[str] = deque()
        self.discards = False  # read each body, keep nothing of it, and refuse it
        self.trickles = False  # read bodies at a megabyte a second
        self.trickled = 0
        self.open_gate = threading.Event()
        self.open_gate.set()
        self._http = _HTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"served": self}))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.open_gate.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        path, _, query = path.partition("?")
        kind, uid, *rest = unquote(path).removeprefix("/api/sync/").split("/")
        assert uid == UID
        name = "/".join(rest)
        if kind == "full":
            self.open_gate.wait(20)
        try:
            with self.turn:
                if kind == "status":
                    return 200, self.host.status()
                if query:
                    return 200, self.host.upload(name, query.removeprefix("upload_id="))
                serve = self.host.delta if kind == "delta" else self.host.full
                return 200, serve(name, headers, body)
        except Refusal as refusal:
            return refusal.status, refusal.body


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections are cut in these tests; that one breaks is no news."""


class _Handler(BaseHTTPRequestHandler):
    served: ServedHost
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._reply(*self.served.answer(self.path, self.headers, b""))

    def do_POST(self) -> None:
        fate = self.served.fates.popleft() if self.served.fates else "ok"
        length = int(self.headers["Content-Length"])
        if self.served.discards:
            return self._discard(length)
        body = self._read(length // 2 if fate == "cut" else length)
        if fate in ("cut", "lost_request"):
            self.close_connection = True
            return None
        answer = self.served.answer(self.path, self.headers, body)
        if fate == "lost_answer":
            self.close_connection = True
            return None
        return self._reply(*answer)

    def _read(self, length: int) -> bytes:
        if not self.served.trickles:
            return self.rfile.read(length)
        body = bytearray()
        while len(body) < length:
            piece = self.rfile.read(min(length - len(body), 1 << 16))
            if not piece:
                raise ConnectionError
            body += piece
            self.served.trickled += len(piece)
            time.sleep(1 / 16)
        return bytes(body)

    def _discard(self, length: int) -> None:
        while length:
            length -= len(self.rfile.read(min(length, 1 << 16)))
        self._reply(413, {"code": "too_large", "limit": 0})

    def _reply(self, status: int, content: Any) -> None:
        raw = json.dumps(content).encode()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving_files(host: FileHost) -> Iterator[ServedHost]:
    served = ServedHost(host)
    try:
        yield served
    finally:
        served.close()
