"""A lab server of a few lines, for agents to talk to: what it was asked, and what it answers."""

import contextlib
import hashlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

from agent import wire
from agent.code import manifest

SERVER_ID = "server-1"


class FakeServer:
    """Keeps orders and ends as the real one does; everything else is written down.

    `refuse` maps a path's beginning to (status, body) given instead of an answer; with `lose`
    that many answers to a path's beginning are computed, and then not sent.
    """

    def __init__(self) -> None:
        self.server_id = SERVER_ID
        self.turn = threading.Condition()
        self.requests: list[tuple[str, str, dict[str, Any]]] = []  # method, path, body
        self.tokens: list[str | None] = []
        self.peers: set[tuple[str, int]] = set()  # one for each connection
        self.orders: dict[str, dict[str, Any]] = {}
        self.ended: set[str] = set()
        self.accepted: set[str] = set()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.configs: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        #: Attempt → the manifest of its code; and SHA-256 → content of all code there is.
        self.manifests: dict[str, bytes] = {}
        self.code: dict[str, bytes] = {}
        self.refuse: dict[str, tuple[int, dict[str, Any]]] = {}
        self.lose: dict[str, int] = {}
        self.down = False
        self._http = _HTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        with self.turn:
            self.down = True
            self.turn.notify_all()
        self._http.shutdown()
        self._http.server_close()

    # --- for tests ---

    def encrypt(self, context: ssl.SSLContext) -> None:
        """Speak https from the next connection on."""
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)

    def order(self, **fields: Any) -> dict[str, Any]:
        order = make_order(**fields)
        with self.turn:
            self.orders[order["id"]] = order
            self.turn.notify_all()
        return order

    def stop(self, attempt_id: str, reason: str = "cancelled") -> None:
        with self.turn:
            self.orders[attempt_id]["stop"] = {"reason": reason}
            self.turn.notify_all()

    def give_up(self, attempt_id: str) -> None:
        with self.turn:
            self.orders.pop(attempt_id, None)
            self.ended.add(attempt_id)
            self.turn.notify_all()

    def forget_end(self, order: dict[str, Any]) -> None:
        """What a backup knows that was made before: it was accepted, and runs."""
        with self.turn:
            self.orders[order["id"]] = order
            self.ended.discard(order["id"])
            self.turn.notify_all()

    def wait(self, condition: Any, seconds: float = 30.0) -> None:
        with self.turn:
            assert self.turn.wait_for(condition, seconds), (
                f"not within {seconds} s; events {self.events}, last {self.requests[-3:]}"
            )

    def wait_event(self, attempt_id: str, kind: str, seconds: float = 30.0) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            return [e for a, e in self.events if a == attempt_id and e["type"] == kind]

        self.wait(found, seconds)
        return found()[0]

    def types(self, attempt_id: str) -> list[str]:
        """Of its events, each once, in the order in which they first arrived."""
        return list(dict.fromkeys(e["type"] for a, e in self.events if a == attempt_id))

    def asked(self, path: str) -> list[dict[str, Any]]:
        with self.turn:
            return [body for _, asked, body in self.requests if asked == path]

    # --- what it answers ---

    def reply(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        with self.turn:
            self.requests.append((method, path, body))
            self.turn.notify_all()
            for beginning, refusal in self.refuse.items():
                if path.startswith(beginning):
                    return refusal
        for beginning, answer in self._answers.items():
            if path.startswith(beginning):
                return answer(path, body)
        return 200, {}

    @property
    def _answers(self) -> dict[str, Any]:
        deleted = {"code": "deleted", "detail": "not kept here"}
        return {
            "/api/agent/poll": lambda path, body: (200, self._poll(body)),
            "/api/agent/attempts/": self._attempt,
            "/api/devices/heartbeat": lambda path, body: (200, self._beat()),
            "/api/devices/me": lambda path, body: (200, self._enrolled({"host_id": "gpu1"})),
            "/api/devices/enroll": lambda path, body: (201, self._enrolled(body)),
            "/api/sync/file/": lambda path, body: (200, self.files[path.split("/")[-1]]),
            "/api/sync/": lambda path, body: (410, deleted),
        }

    def _attempt(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        attempt_id, what = path.removeprefix("/api/agent/attempts/").split("/", 1)
        if what == "events":
            return self._event(attempt_id, body)
        if what == "code":
            return 200, self.manifests[attempt_id]
        if what == "code/files":
            wanted = [self.code[sha256] for sha256 in body["sha256"]]
            return 200, b"".join(framed(content) for content in wanted)
        if attempt_id not in self.configs:
            return 404, {"code": "not_found", "detail": "no such config"}
        return 200, self.configs[attempt_id]

    def _beat(self) -> dict[str, Any]:
        return {
            "server_id": self.server_id,
            "server_time": "2026-01-01T00:00:00Z",
            "next_heartbeat_seconds": 0.1,
            "draining": False,
        }

    def _enrolled(self, body: dict[str, Any]) -> dict[str, Any]:
        return {
            "device_id": 1,
            "host_id": body["host_id"],
            "server_id": self.server_id,
            "server_name": "lab",
        }

    def _poll(self, poll: dict[str, Any]) -> dict[str, Any]:
        with self.turn:
            named = {a["id"]: a["state"] for a in poll["attempts"]}
            self.accepted |= {id_ for id_, state in named.items() if state == "accepted"}
            until = time.monotonic() + poll["wait_seconds"]
            while True:
                answer = self._desired(named)
                left = until - time.monotonic()
                if left <= 0 or self.down or answer["revision"] != poll["known_revision"]:
                    return answer
                self.turn.wait(left)

    def _desired(self, named: dict[str, str]) -> dict[str, Any]:
        orders = [
            {**order, "confirmed": id_ in self.accepted} for id_, order in self.orders.items()
        ]
        answer = {
            "server_id": self.server_id,
            "ended": sorted(self.ended & set(named)),
            "draining": False,
            "poll_seconds": 1.0,
            "attempts": orders,
        }
        return {**answer, "revision": str(hash(json.dumps(answer, sort_keys=True)))}

    def _event(self, attempt_id: str, event: dict[str, Any]) -> tuple[int, Any]:
        with self.turn:
            given_up = attempt_id in self.ended and attempt_id not in self.orders
            self.events.append((attempt_id, event))
            if event["type"] in ("exited", "start_failed"):
                self.orders.pop(attempt_id, None)
                self.ended.add(attempt_id)
            self.turn.notify_all()
        if given_up and event["type"] == "exited" and len(self.types(attempt_id)) < 2:
            return 409, {"code": "attempt_ended", "detail": "given up"}
        return 200, {"job_state": "running", "outcome": None}


def framed(content: bytes) -> bytes:
    """A file of code, as it travels."""
    return manifest.head(hashlib.sha256(content).hexdigest(), len(content)) + content


_numbers = count(1)


def make_order(**fields: Any) -> dict[str, Any]:
    """An order as it comes over the wire: a job that does nothing."""
    number = next(_numbers)
    order = {
        "id": f"attempt-{number}",
        "number": 1,
        "experiment_uid": f"20260101_{number:04x}",
        "project": "digits",
        "run_name": f"run_{number:03d}",
        "user": "kim",
        "command": ["true"],
        "environment": {},
        "secrets": {},
        "gpus": [],
        "gpu_ids": "uuid",
        "python": None,
        "working_directory": None,
        "source": None,
        "run_as": None,
        "config_sha256": None,
        "time_limit_seconds": None,
        "stop_grace_seconds": 2.0,
        "lease_seconds": wire.LEASE_SECONDS,
        "on_device_lost": "wait",
        "resume": None,
        "stop": None,
        "confirmed": False,
        "outputs": [],
        "ignore": [],
        "sync": {"checkpoints": "all", "max_file_bytes": None},
        "secret_names": [],
        "requires": {"paths": [], "commands": []},
    }
    assert not set(fields) - set(order)
    return {**order, **fields}


class _HTTPServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Agents are killed in these tests; that a connection breaks is no news."""


def _body(data: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(data)) if data else {}
    except ValueError:
        return {"raw": data}


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            data = self.rfile.read(length)
            if len(data) < length:  # the agent was killed in the middle of it
                self.close_connection = True
            else:
                self._answer(_body(data))

        def _answer(self, body: dict[str, Any]) -> None:
            server.tokens.append(self.headers.get("Authorization"))
            server.peers.add(self.client_address)
            status, content = server.reply(self.command, self.path, body)
            for beginning, left in server.lose.items():
                if left and self.path.startswith(beginning):
                    server.lose[beginning] = left - 1
                    self.close_connection = True
                    return
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@contextlib.contextmanager
def serving() -> Iterator[FakeServer]:
    server = FakeServer()
    try:
        yield server
    finally:
        server.close()


class listening:
    """A port that answers each connection in its own words, over TLS with a `context`."""

    def __init__(
        self, answer: Callable[[socket.socket], None], context: ssl.SSLContext | None = None
    ) -> None:
        self._answer = answer
        self._context = context

    def __enter__(self) -> int:
        self._socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return int(self._socket.getsockname()[1])

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), self._secured(peer) as spoken_to:
            spoken_to.recv(65536)
            self._answer(spoken_to)
            spoken_to.shutdown(socket.SHUT_WR)
            while spoken_to.recv(65536):  # what is left unread would cut the answer off
                pass

    def _secured(self, peer: socket.socket) -> socket.socket:
        if self._context is None:
            return peer
        with contextlib.ExitStack() as on_error:
            on_error.callback(peer.close)
            secured = self._context.wrap_socket(peer, server_side=True)
            on_error.pop_all()
        return secured

    def __exit__(self, *exc: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
