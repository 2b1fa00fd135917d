"""From an ASGI scope to the environ that Django's WSGI handler reads.

What a client says about itself in X-Forwarded-* counts only when it comes from a proxy named
in LAB_TRUSTED_PROXIES; otherwise it is taken away, so that nothing behind can believe it.
"""

import ipaddress
import sys
from functools import lru_cache
from typing import Any, BinaryIO

from django.conf import settings
from django.utils.http import parse_header_parameters

from labsite.body import Scope
from labsite.errors import BadRequest

FORWARDED = (
    "HTTP_FORWARDED",
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PORT",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_REAL_IP",
)
#: Headers that are not HTTP_… in an environ.
PLAIN = {"content-length": "CONTENT_LENGTH", "content-type": "CONTENT_TYPE"}

#: When the request arrived, by time.monotonic(): before it waited for its turn.
ARRIVED = "labsite.arrived"


def environ_of(scope: Scope, body: BinaryIO, length: int) -> dict[str, Any]:
    """
    Args:
        body: the request's body from its start.
        length: how many bytes it has.

    Raises:
        BadRequest: a header is none that could be read.
    """
    root = scope.get("root_path", "")
    host, port = scope.get("server") or ("localhost", 80)
    environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": _as_wsgi(root),
        "PATH_INFO": _as_wsgi(scope["path"].removeprefix(root)),
        "QUERY_STRING": scope.get("query_string", b"").decode("latin-1"),
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": f"HTTP/{scope.get('http_version', '1.1')}",
        "REMOTE_ADDR": (scope.get("client") or ("", 0))[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": body,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    _add_headers(environ, scope["headers"])
    _check_content_type(environ.get("CONTENT_TYPE", ""))
    environ["CONTENT_LENGTH"] = str(length)
    _believe_proxy(environ)
    return environ


def _check_content_type(text: str) -> None:
    """Django reads it before anything of ours could refuse it.

    Raises:
        BadRequest: a parameter is in an encoding that nobody knows (RFC 2231).
    """
    try:
        parse_header_parameters(text)
    except ValueError as exc:
        raise BadRequest(f"The Content-Type cannot be read: {text[:80]}") from exc


def _as_wsgi(text: str) -> str:
    """WSGI carries bytes as latin-1 text (PEP 3333); Django undoes it."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _add_headers(environ: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> None:
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if "_" in name:  # x_forwarded_for would become the same key as X-Forwarded-For
            continue
        key = PLAIN.get(name) or "HTTP_" + name.upper().replace("-", "_")
        if key in environ:
            value = environ[key] + ("; " if name == "cookie" else ",") + value
        environ[key] = value


def _believe_proxy(environ: dict[str, Any]) -> None:
    said = {key: environ.pop(key, "") for key in FORWARDED}
    if not is_trusted(environ["REMOTE_ADDR"]):
        return
    environ["REMOTE_ADDR"] = _client(said["HTTP_X_FORWARDED_FOR"], environ["REMOTE_ADDR"])
    scheme = said["HTTP_X_FORWARDED_PROTO"].strip().lower()
    if scheme in ("http", "https"):
        environ["wsgi.url_scheme"] = environ["HTTP_X_FORWARDED_PROTO"] = scheme


def _client(forwarded_for: str, proxy: str) -> str:
    """The last address in the chain that is not a proxy of ours: what stands before it anybody
    may have written."""
    nearest = proxy
    for address in reversed([part.strip() for part in forwarded_for.split(",")]):
        if not _is_address(address):
            break
        nearest = address
        if not is_trusted(address):
            break
    return nearest


def is_trusted(address: str) -> bool:
    """Whether a proxy named in LAB_TRUSTED_PROXIES (addresses or networks) is at `address`."""
    if not settings.LAB_TRUSTED_PROXIES or not _is_address(address):
        return False
    at = ipaddress.ip_address(address)
    return any(at in network for network in _networks(tuple(settings.LAB_TRUSTED_PROXIES)))


@lru_cache(maxsize=8)
def _networks(names: tuple[str, ...]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(name, strict=False) for name in names]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
