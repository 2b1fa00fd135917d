"""The web program under uvicorn. Imported by that process alone: it brings the whole site."""

import gc
import logging
import socket
import sys
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from labsite import asgi

logger = logging.getLogger(__name__)

#: A TLS record of type handshake: the first byte of every https request.
TLS_HANDSHAKE = 0x16
#: Agents speak each second or each poll; a connection that is opened anew costs both sides.
KEEP_ALIVE_SECONDS = 75
GRACE_SECONDS = 3
#: For so long a page that is being made keeps the interpreter from a heartbeat that came. The
#: default, 5 ms, times the threads that are at work, is what people who look would cost machines.
SWITCH_SECONDS = 0.0005


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 that knows https when it comes to the wrong door."""

    def data_received(self, data: bytes) -> None:
        if data[:1] == bytes([TLS_HANDSHAKE]) and self.scheme == "http" and self.cycle is None:
            logger.warning(
                "%s speaks https, and this server speaks http: its URL must begin with http://,"
                " or start the server with --tls self",
                self.client[0] if self.client else "somebody",
            )
            self.send_400_response("This server speaks http, not https.")
            return
        super().data_received(data)


class Server(uvicorn.Server):
    """Answers all held requests as soon as it is told to stop, or it would wait for them."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        asgi.stopping()
        super().handle_exit(sig, frame)


def serve(listener: socket.socket, certificate: tuple[Path, Path] | None) -> None:
    """Serve the site on `listener` until SIGTERM; `certificate` is its file and its key's."""
    _collect_less()
    sys.setswitchinterval(SWITCH_SECONDS)
    certificate_file, key_file = certificate or (None, None)
    config = uvicorn.Config(
        asgi.application,
        http=Protocol,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # labsite/environ.py knows which proxies to believe
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=certificate_file,
        ssl_keyfile=key_file,
    )
    Server(config).run(sockets=[listener])


def _collect_less() -> None:
    """Let the collector pass over what lives as long as the process, and come less often: queries
    make and drop thousands of objects, among which are hardly any cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
