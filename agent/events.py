"""The loop that tells the server what happened to attempts."""

import logging
import threading
from collections.abc import Callable

from agent import shim, wire
from agent.backoff import Backoff, Bell
from agent.complaint import Complaint
from agent.errors import AgentError, Rejected, ServerUnreachable, Unauthorized
from agent.journal import Journal, Outgoing

logger = logging.getLogger(__name__)

IDLE_SECONDS = 60.0
UNAUTHORIZED_SECONDS = 60.0


class EventLoop:
    """Sends each event until it is acknowledged, in journal order within an attempt.

    An event that the server refuses holds up its own attempt only.
    """

    def __init__(self, send: Callable[[str, wire.AttemptEvent], object], journal: Journal) -> None:
        self._send = send
        self._journal = journal
        self._bell = Bell()
        self._backoffs: dict[str, Backoff] = {}
        self._not_before: dict[str, float] = {}  # attempt id -> CLOCK_BOOTTIME seconds
        self._complaint = Complaint(logger)

    def changed(self) -> None:
        self._bell.ring()

    def nudge(self) -> None:
        """The server is back, or it is time to stop."""
        self._not_before.clear()
        self._bell.ring()

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if not self.send_due():
                self._bell.wait(self._idle_seconds())

    def send_due(self) -> bool:
        """Send what may be sent now. Return whether anything was settled."""
        settled = False
        for outgoing in self._journal.outgoing():
            if shim.now() >= self._not_before.get(outgoing.attempt_id, 0.0):
                settled = self._deliver(outgoing) or settled
        return settled

    def _deliver(self, outgoing: Outgoing) -> bool:
        try:
            self._send(outgoing.attempt_id, outgoing.event)
        except AgentError as exc:
            if not (isinstance(exc, Rejected) and exc.code == "attempt_ended"):
                self._postpone(outgoing, exc)
                return False
            logger.info("attempt %s was given up meanwhile", outgoing.attempt_id)
        self._journal.settle(outgoing)
        self._backoffs.pop(outgoing.attempt_id, None)
        self._complaint.over("the server takes events again")
        return True

    def _postpone(self, outgoing: Outgoing, exc: AgentError) -> None:
        self._complaint.about(f"event {outgoing.event.type.value} not delivered: {exc}")
        if isinstance(exc, Unauthorized):
            seconds = UNAUTHORIZED_SECONDS
        else:
            after = exc.retry_after_seconds if isinstance(exc, ServerUnreachable) else None
            backoff = self._backoffs.setdefault(outgoing.attempt_id, Backoff())
            seconds = backoff.next_seconds(after)
        self._not_before[outgoing.attempt_id] = shim.now() + seconds

    def _idle_seconds(self) -> float:
        waiting = {outgoing.attempt_id for outgoing in self._journal.outgoing()}
        due = [self._not_before.get(attempt_id, 0.0) for attempt_id in waiting]
        return max(0.0, min(due, default=shim.now() + IDLE_SECONDS) - shim.now())
