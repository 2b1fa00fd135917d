"""Is it still the server that we know?

A restored backup, a fresh data folder or a wrong address answers as well as the right server, and
would have every process here stopped as unknown. So the server's id is kept from the first answer
on, and an answer with another one is not obeyed until a person confirms.
"""

import logging
import threading

from agent.complaint import Complaint
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

    def is_ours(self, server_id: str) -> bool:
        """Whether an answer with this id may be obeyed. Complains each minute if not."""
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
