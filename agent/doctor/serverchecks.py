"""What `lab-agent doctor` finds on the way to one server, nearest first.

Where one thing is wrong, what lies behind it is not asked. The agent itself is not started, and
need not be stopped.
"""

import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import requests
import requests.utils

from agent import enroll, state
from agent.config import Config
from agent.doctor.finding import WRONG, Finding, doubtful, fine, wrong
from agent.errors import ConfigError, Rejected, ServerUnreachable, Unauthorized
from agent.reach import is_loopback
from agent.state import State
from agent.store import Store
from agent.transport import CONNECT_SECONDS, Transport

CLOCK_SECONDS = 5.0
DAY_SECONDS = 86400.0
SOON_DAYS = 14


def all_of(chosen: Config) -> Iterator[Finding]:
    """Of `chosen.server`."""
    for finding in _way(chosen):
        yield finding
        if finding.mark == WRONG:
            return
    folder = state.state_folder(chosen.server, chosen.host_id, chosen.state_dir)
    known = folder.is_dir() or chosen.ca_sha256 is not None
    try:
        yield from _answers(chosen, State(folder) if known else None)
    except ConfigError as exc:
        yield Finding(WRONG, "state", str(exc))


def _way(chosen: Config) -> Iterator[Finding]:
    """Up to where the server listens, or the proxy before it."""
    proxy = proxy_of(chosen.server)
    yield fine("proxy", f"through {proxy.shown}" if proxy else "none, straight to the server")
    host, port = proxy.place if proxy else _place(chosen.server)
    what = "the proxy" if proxy else "the server"
    yield dns(host, port)
    yield listens(host, port, what)


class Proxy:
    """The proxy that requests will use for a server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        self.place = (parts.hostname or "", parts.port or 3128)
        host, port = self.place
        self.shown = f"{parts.scheme}://{host}:{port}"  # without its password


def proxy_of(server: str) -> Proxy | None:
    """As HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say."""
    if is_loopback(urlsplit(server).hostname or ""):
        return None
    found = requests.utils.get_environ_proxies(server)
    url = requests.utils.select_proxy(server, found)
    return Proxy(url) if url else None


def _place(server: str) -> tuple[str, int]:
    parts = urlsplit(server)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def dns(host: str, port: int) -> Finding:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        return wrong(
            "dns",
            f"{host} is not known here ({exc.strerror or exc})",
            f"correct the name, or have the DNS or /etc/hosts know it: getent hosts {host}",
        )
    return fine("dns", f"{host} is {', '.join(sorted({str(entry[4][0]) for entry in found}))}")


def listens(host: str, port: int, what: str) -> Finding:
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except ConnectionRefusedError:
        return wrong(
            "port", f"nothing listens at {host}, port {port}", f"start {what}, or correct the port"
        )
    except OSError as exc:
        return wrong(
            "port",
            f"{host} does not answer at port {port} ({exc.strerror or exc})",
            f"a firewall in between? On the server: sudo ufw allow {port}/tcp",
        )
    return fine("port", f"{host} listens at port {port}")


def _answers(chosen: Config, kept: State | None) -> Iterator[Finding]:
    """What the server itself says: its certificate, its clock, our token, who it is.

    Raises:
        ConfigError: what is kept of it here cannot be used.
    """
    ca_file = enroll.pinned_ca(chosen, kept) if kept else None
    credential = kept.credential() if kept else None
    if chosen.server.startswith("https:") and proxy_of(chosen.server) is None:
        yield certificate(chosen.server, ca_file)
    token = credential.token if credential and credential.enrolled else None
    with closing(Transport(chosen.server, token, ca_file)) as transport:
        found = list(identity(transport, kept.folder if kept else None, token is not None))
        if transport.server_date:
            yield clock(transport.server_date, time.time())
        yield from found


def certificate(server: str, ca_file: str | None) -> Finding:
    """The same authorities are trusted as in the agent's own requests."""
    trusted = (
        ca_file or os.environ.get("REQUESTS_CA_BUNDLE") or requests.utils.DEFAULT_CA_BUNDLE_PATH
    )
    host, port = _place(server)
    try:
        context = ssl.create_default_context(cafile=trusted)
        with (
            socket.create_connection((host, port), CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            peer = connection.getpeercert()
    except ssl.SSLCertVerificationError as exc:
        return wrong(
            "tls",
            f"the certificate of {host} is not trusted here ({exc.verify_message})",
            "copy the enrollment line with --ca-sha256 from the site, or renew the certificate",
        )
    except OSError as exc:
        what = exc.strerror or type(exc).__name__
        return wrong("tls", f"no https there ({what})", "is it http that the server speaks?")
    ends = str(peer["notAfter"]) if peer else ""
    left = (ssl.cert_time_to_seconds(ends) - time.time()) / DAY_SECONDS
    whose = "the lab's own authority" if ca_file else "an authority that this host trusts"
    if left < SOON_DAYS:
        return doubtful("tls", f"the certificate ends in {left:.0f} days", "renew it")
    return fine("tls", f"{whose} vouches for it, for {left:.0f} days")


def clock(date: str, now_seconds: float) -> Finding:
    """`date`: of the server's answer. Nothing depends on it: times on pages may look odd."""
    try:
        ahead = now_seconds - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return doubtful("clock", f"the server's answer is dated {date!r}", "a proxy in between?")
    found = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    if abs(ahead) > CLOCK_SECONDS:
        return doubtful("clock", found, "no job is harmed; set it with timedatectl set-ntp true")
    return fine("clock", found)


def identity(transport: Transport, folder: Path | None, enrolled: bool) -> Iterator[Finding]:
    """Whether the token is accepted, and whether it is the server that we know."""
    try:
        reply = transport.whoami()
    except ServerUnreachable as exc:
        yield Finding(WRONG, "answer", str(exc))
    except Unauthorized as exc:
        yield (
            _not_enrolled(exc)
            if enrolled
            else doubtful(
                "token",
                "this host is not enrolled there",
                "on the site: Devices, Add a GPU server",
            )
        )
    except Rejected as exc:
        yield doubtful("token", f"it cannot be checked ({exc.status})", "is the server older?")
    else:
        yield fine("token", f"accepted, as {reply.host_id}")
        yield _server_id(reply.server_id, reply.server_name, folder)


def _not_enrolled(exc: Unauthorized) -> Finding:
    return wrong("token", "it is not accepted", str(exc) or "enroll this host again")


def _server_id(server_id: str, name: str, folder: Path | None) -> Finding:
    known = _known_server(folder / "journal.sqlite3") if folder else None
    if known not in (None, server_id):
        return wrong(
            "server",
            f"{name} has another identity ({server_id}) than the one known here ({known})",
            "was it restored or replaced? If it is right, start the agent once with "
            "--accept-new-server",
        )
    return fine("server", f"{name} ({server_id})")


def _known_server(journal: Path) -> str | None:
    if not journal.exists():
        return None
    with closing(Store(journal)) as store:
        return store.get("server_id")
