"""Is it still the server that we know?

A restored backup, a fresh data folder or a wrong address answers as well as the right server, and
would have every process here stopped as unknown. So the server's id is kept from the first answer
on, and an answer with another one is not obeyed until a person confirms. Nor is it told how
attempts ended, nor sent their files: what it confirmed, the right server would never get.
"""

import logging
import threading

from agent.complaint import Complaint
from agent.errors import ServerUnreachable
from agent.store import Store

logger = logging.getLogger(__name__)


class ServerIdentity:
    def __init__(self, store: Store, accept_new: bool = False) -> None:
        """`accept_new`: a person confirmed that the next id that we see is right."""
        self._store = store
        self._known = store.get("server_id")
        self._accept_new = accept_new
        self._complaint = Complaint(logger)
        self._turn = threading.Lock()
        self._is_there = False

    def away(self) -> None:
        """The server does not answer: whoever answers next has to say who it is."""
        self._is_there = False

    def check(self) -> None:
        """
        Raises:
            ServerUnreachable: the server that we know has not answered since it was away.
        """
        if not self._is_there:
            raise ServerUnreachable("the server has yet to answer a heartbeat")

    def is_ours(self, server_id: str) -> bool:
        """Whether an answer with this id may be obeyed. Complains each minute if not."""
        self._is_there = self._recognise(server_id)
        return self._is_there

    def _recognise(self, server_id: str) -> bool:
        with self._turn:
            if server_id == self._known:
                self._complaint.over("the server is the known one again")
                return True
            if self._known is None or self._accept_new:
                self._store.put("server_id", server_id)
                self._known, self._accept_new = server_id, False
                return True
            self._complaint.about(
                f"This server has another identity ({server_id}) than the one this agent works "
                f"for ({self._known}): was it restored or replaced, or is the address wrong? "
                "Nothing is stopped or started here. If it is right, start the agent once with "
                "--accept-new-server"
            )
            return False
