"""The web program under daphne: `python -m labsite.run.daphne DESCRIPTOR`.

For those who want it; docs/operations.md says what it costs. It cannot be forked, since
Twisted's reactor is made when it is imported.
"""

import sys

from daphne.server import Server
from twisted.internet import reactor

from labsite import asgi


def main() -> None:
    reactor.addSystemEventTrigger("before", "shutdown", asgi.stopping)
    Server(asgi.application, endpoints=[f"fd:fileno={sys.argv[1]}"], server_name=None).run()


if __name__ == "__main__":
    main()
