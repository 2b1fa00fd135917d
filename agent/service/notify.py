"""Telling whoever started the agent how it is: systemd, or `lab-agent --daemon`.

Both listen at the socket that NOTIFY_SOCKET names, for datagrams of lines (sd_notify(3)). The
heartbeat's loop speaks as long as it turns: a server that is away is no reason to end an agent.
"""

import os
import socket
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

VARIABLE = "NOTIFY_SOCKET"
DATAGRAM_BYTES = 4096
FINE = "the server answers heartbeats"


class Notifier:
    """What to say to the service manager; nothing is said where there is none."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get(VARIABLE, "")
        self._status: str | None = None

    def ready(self) -> None:
        self._tell("READY=1")

    def turned(self, trouble: str | None) -> None:
        """The loop went round once; `trouble`: why the server did not answer, None: it did."""
        lines, status = ["WATCHDOG=1"], " ".join((trouble or FINE).split())
        if status != self._status:
            self._status = status
            lines.append(f"STATUS={status}")
        self._tell(*lines)

    def stopping(self) -> None:
        self._tell("STOPPING=1", "STATUS=stopping; jobs here go on")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # An @ stands for the NUL that begins an abstract address.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
            speaker.setblocking(False)  # the heartbeat waits for nobody
            speaker.sendto("\n".join(lines).encode()[:DATAGRAM_BYTES], address)


class Listener:
    """The other end, for whoever starts an agent and wants to hear that it runs."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lab-agent-")
        self.address = str(Path(self._folder.name, "notify"))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self.heard: dict[str, str] = {}

    def __enter__(self) -> "Listener":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()
        self._folder.cleanup()

    def listen(self, seconds: float) -> None:
        """Add to `heard` what is said first within `seconds`."""
        self._socket.settimeout(seconds)
        with suppress(TimeoutError):
            lines = self._socket.recv(DATAGRAM_BYTES).decode(errors="replace").splitlines()
            self.heard |= {name: text for name, _, text in (line.partition("=") for line in lines)}
