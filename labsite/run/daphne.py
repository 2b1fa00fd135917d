"""The web program under daphne: `python -m labsite.run.daphne DESCRIPTOR`.

For those who want it; docs/operations.md says what it costs. It cannot be forked, since
Twisted's reactor is made when it is imported.
"""

import signal
import sys

from daphne.server import Server
from twisted.internet import reactor

from labsite import asgi

#: For the answers of held polls to go out: the reactor's stop cuts off whatever is under way.
ANSWERING_SECONDS = 0.2


def main() -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _stop)
    endpoints = [f"fd:fileno={sys.argv[1]}"]
    Server(asgi.application, endpoints, signal_handlers=False, server_name=None).run()


def _stop(signum: int, frame: object) -> None:
    """Answer whoever waits, then stop. Triggers of Twisted's own shutdown come too late for it:
    daphne's first act there is to kill all requests."""
    signal.signal(signum, signal.SIG_IGN)  # once
    asgi.stopping()
    reactor.callFromThread(reactor.callLater, ANSWERING_SECONDS, reactor.stop)


if __name__ == "__main__":
    main()
