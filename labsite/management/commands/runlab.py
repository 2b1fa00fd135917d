"""`manage.py runlab`: the whole server, made ready and kept running."""

import errno
import os
import shutil
import socket
import sys
from argparse import ArgumentParser, Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import connections

from labsite import wake
from labsite.run import firststart, localagent, options
from labsite.run.journal import Journal
from labsite.run.supervise import Supervisor

BACKLOG = 2048
MAX_PORT = 65535


class Command(BaseCommand):
    help = (
        "Make the server ready, then run web, dispatch and (with --agent) a local agent. "
        "`runlab install-service`, with the same options, has the machine keep it running."
    )
    requires_system_checks: list[str] = []  # done below, when it is clear that this may start

    def add_arguments(self, parser: ArgumentParser) -> None:
        options.add_options(parser)

    def handle(self, *args: Any, **given: Any) -> None:
        chosen = Namespace(**given)
        data_dir = settings.LAB_DATA_DIR
        lock = firststart.lock(data_dir)
        listener = _listen(chosen.host, chosen.port)
        certificate = _certificate(chosen, data_dir)
        url = _url(chosen, listener, encrypted=certificate is not None)
        firststart.hold(lock, url)
        firststart.folders()
        firststart.database()
        firststart.static_files()
        new_admin = firststart.admin()
        # Only now: the site lists its static files when it is imported.
        programs = import_module("labsite.run.programs")
        programs.load()
        self.check()
        kept = [
            programs.web(listener, certificate, chosen.server),
            programs.dispatch(),
            programs.clock(),
        ]
        if chosen.agent:
            source = (chosen.source or Path()).absolute()
            own_url = _own_url(chosen, listener, encrypted=certificate is not None)
            kept.append(programs.agent(*localagent.prepared(own_url, data_dir, source), source))
        if chosen.dev:
            kept.append(programs.reloader())
        self._say_hello(url, data_dir, new_admin)
        connections.close_all()  # none may be shared with a child
        supervisor = Supervisor(kept, Journal(data_dir, url))
        _clear_sockets()  # of one that was killed
        supervisor.run()
        _clear_sockets()
        if supervisor.verdict == programs.CHANGED_STATUS:
            os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606

    def _say_hello(self, url: str, data_dir: Path, new_admin: firststart.NewAdmin | None) -> None:
        self.stdout.write(f"Lab server: {url}   data: {data_dir}   Ctrl-C stops it")
        if new_admin is not None:
            self.stdout.write(firststart.show_password(new_admin, data_dir))
        self.stdout.flush()


def _clear_sockets() -> None:
    """Away with the folder of wake-ups, unless somebody chose it: the system's /tmp is for all."""
    if not settings.LAB_SOCKET_DIR:
        shutil.rmtree(wake.socket_dir(), ignore_errors=True)


def _listen(host: str, port: int) -> socket.socket:
    """The socket that outlives each web program: while one starts again, clients wait."""
    if not 0 <= port <= MAX_PORT:
        sys.exit(f"There is no port {port}: ports go from 1 to {MAX_PORT}.")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as exc:
        sys.exit(_cannot_listen(host, port, exc))
    return listener


def _cannot_listen(host: str, port: int, exc: OSError) -> str:
    cause = exc.strerror or str(exc)
    if isinstance(exc, PermissionError):
        return f"Port {port} needs root's rights ({cause}). Choose one above 1023: --port 8000"
    if exc.errno == errno.EADDRINUSE:
        return f"Port {port} is in use by another program. Choose another one: --port {port + 1}"
    return f"Cannot listen on {host}, port {port}: {cause}."


def _certificate(chosen: Namespace, data_dir: Path) -> tuple[Path, Path] | None:
    """The certificate's file and its key's."""
    if not (chosen.tls or chosen.tls_cert or chosen.tls_key):
        return None
    from labsite.run import tls  # 16 MB that a server without https has no use for

    if chosen.server == "daphne":
        sys.exit("--server daphne serves no https here: leave it out, or put a proxy before it.")
    if chosen.tls_cert or chosen.tls_key:
        return tls.given(chosen.tls_cert, chosen.tls_key)
    return tls.own(data_dir / "tls", settings.ALLOWED_HOSTS)


def _url(chosen: Namespace, listener: socket.socket, *, encrypted: bool) -> str:
    """How people reach it, as far as we can know."""
    if settings.LAB_PUBLIC_URL:
        return str(settings.LAB_PUBLIC_URL)
    name = socket.gethostname() if chosen.host in options.NO_NAMES else chosen.host
    return _address(name, listener, encrypted=encrypted)


def _own_url(chosen: Namespace, listener: socket.socket, *, encrypted: bool) -> str:
    """How this host reaches it; a certificate that was given knows only the public name."""
    if encrypted and not chosen.tls:
        return _url(chosen, listener, encrypted=True)
    name = "127.0.0.1" if chosen.host in options.NO_NAMES else chosen.host
    return _address(name, listener, encrypted=encrypted)


def _address(name: str, listener: socket.socket, *, encrypted: bool) -> str:
    host = f"[{name}]" if ":" in name else name
    return f"{'https' if encrypted else 'http'}://{host}:{listener.getsockname()[1]}"
