"""One POST to an address that a person chose, which may be anybody's and behave as it likes.

No redirect is followed, no more than a little is read, and after DEADLINE_SECONDS the line is cut
wherever it is: a timeout of requests bounds each read, and not all of them.
"""

import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

READ_SECONDS = 5.0
DEADLINE_SECONDS = 10.0
READ_BYTES = 4096
#: Of an answer only a code such as Slack's "no_service" is shown. Whoever chose the address may
#: have named something within the lab's network, and is not to read it through this server.
SHOWN_TEXT = re.compile(rb"(?=.{3,40}$)[a-z]+(?:_[a-z]+)+")
MOST_PAUSE_SECONDS = 3600


class NotTaken(Exception):
    """`trouble` is for Channel.trouble; `pause_seconds` is what the other side asked for."""

    def __init__(self, code: str, *, pause_seconds: int | None = None, **facts: Any) -> None:
        super().__init__(code)
        self.trouble = {"code": code, **facts}
        self.pause_seconds = pause_seconds


def post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Return once it was taken (2xx).

    Raises:
        NotTaken: it was not, or nobody knows.
    """
    session = requests.Session()
    session.auth = _as_it_is  # or what ~/.netrc has for that host would go along
    with _cut_after(DEADLINE_SECONDS, session) as is_late, session:
        try:
            with session.post(
                url, data=body, headers=dict(headers), timeout=READ_SECONDS,
                allow_redirects=False, stream=True,
            ) as answer:  # fmt: skip
                refused = _refusal(answer)
        except (requests.RequestException, OSError, ValueError) as exc:
            # Of the exception nothing is kept: it may hold the address.
            raise NotTaken(_code_of(exc, late=is_late())) from None
        if is_late():  # a line that was cut among the headers looks like their end
            raise NotTaken("late")
    if refused is not None:
        raise refused


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _code_of(exc: Exception, *, late: bool) -> str:
    if late or isinstance(exc, requests.Timeout):
        return "late"
    return "certificate" if isinstance(exc, requests.exceptions.SSLError) else "unreachable"


def _refusal(answer: requests.Response) -> NotTaken | None:
    """None: it was taken."""
    if 200 <= answer.status_code < 300:
        return None
    if 300 <= answer.status_code < 400:
        return NotTaken("moved")
    pause = answer.headers.get("Retry-After", "")
    asked = min(int(pause), MOST_PAUSE_SECONDS) if re.fullmatch(r"[0-9]{1,6}", pause) else None
    code = answer.status_code
    return NotTaken("answered", status=code, text=_shown(answer), pause_seconds=asked)


def _shown(answer: requests.Response) -> str:
    """Empty: there is no more than its status to be shown, or it broke off."""
    text = b""
    with suppress(HTTPError, OSError):
        text = (answer.raw.read(READ_BYTES, decode_content=False) or b"").strip()
    return text.decode("ascii") if SHOWN_TEXT.fullmatch(text) else ""


# --- a line that can be cut ---------------------------------------------------------------------


@contextmanager
def _cut_after(seconds: float, session: requests.Session) -> Iterator[Any]:
    """Within the block all connections of `session` are cut after so long; gives whether they
    were."""
    adapter = _Adapter()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    late = threading.Event()

    def cut() -> None:
        late.set()
        adapter.cut()

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield late.is_set
    finally:
        timer.cancel()
        adapter.let_go()


class _Adapter(HTTPAdapter):
    """Knows the sockets of its connections. A second descriptor for each, since TLS takes the
    first one away."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._is_cut = False
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools()

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools()
        return manager

    def know(self, made: socket.socket) -> None:
        self._sockets.append(made.dup())
        if self._is_cut:  # its name took so long
            self.cut()

    def cut(self) -> None:
        self._is_cut = True
        for one in list(self._sockets):
            with suppress(OSError):  # it has ended by itself
                one.shutdown(socket.SHUT_RDWR)

    def let_go(self) -> None:
        for one in self._sockets:
            one.close()
        self._sockets.clear()

    def _pools(self) -> dict[str, Any]:
        know = self.know

        def known(base: type) -> type:
            class Known(base):  # type: ignore[misc]
                def _new_conn(self) -> socket.socket:
                    made = super()._new_conn()
                    know(made)
                    return made

            return Known

        plain = type("Pool", (HTTPConnectionPool,), {"ConnectionCls": known(HTTPConnection)})
        safe = type("Pool", (HTTPSConnectionPool,), {"ConnectionCls": known(HTTPSConnection)})
        return {"http": plain, "https": safe}
