"""The loop "what should run here".

A server that cannot be reached, or no longer knows us, is waited for without end: jobs here go
on. Two requests may be on their way at once: one that the server holds until it has news, and one
that brings our own news and is answered at once. Only the newest answer counts.
"""

import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from agent import shim, wire
from agent.attempts import Attempts
from agent.backoff import Backoff, Bell
from agent.complaint import Complaint
from agent.errors import AgentError, Rejected, ServerUnreachable, Unauthorized, WrongProtocol
from agent.identity import ServerIdentity
from agent.reconcile import reconcile

logger = logging.getLogger(__name__)

CEILING_SECONDS = 5.0  # the heartbeat tells when the server is back; this is the net below
FIRST_BEAT_SECONDS = 3.0
HOPELESS_SECONDS = 60.0  # until a person has done something, asking often does not help

Send = Callable[[wire.Poll], wire.PollReply]


@dataclass(frozen=True)
class _Next:
    """When to poll again. `accepted`: at once, for the server waits to hear it."""

    pause_seconds: float
    accepted: bool


class PollLoop:
    def __init__(
        self,
        held: Send,
        prompt: Send,
        attempts: Attempts,
        server: ServerIdentity,
        instance_id: str,
        wait_seconds: float = wire.MAX_WAIT_SECONDS,
    ) -> None:
        """`held` and `prompt` each have a connection of their own."""
        self._held = held
        self._prompt = prompt
        self._attempts = attempts
        self._server = server
        self._instance_id = instance_id
        self._wait_seconds = wait_seconds
        self._numbers = itertools.count(1)
        self._turn = threading.Lock()
        self._newest = 0  # number of the newest poll whose answer was carried out
        self._revision: str | None = None
        self._news = Bell()
        self._back = Bell()
        self._complaint = Complaint(logger)

    # --- the two loops ---

    def run(self, stop: threading.Event) -> None:
        """Polls that the server holds."""
        backoff = Backoff(ceiling_seconds=CEILING_SECONDS)
        self._back.wait(FIRST_BEAT_SECONDS)  # before it the server does not know this instance
        wait_seconds = 0.0  # the first one is answered at once
        while not stop.is_set():
            try:
                after = self._poll(self._held, wait_seconds)
            except AgentError as exc:
                wait_seconds = 0.0
                self._back.wait(self._pause(exc, backoff))
            else:
                backoff.reset()
                self._complaint.over("the server answers polls again")
                wait_seconds = 0.0 if after.accepted else self._wait_seconds
                self._back.wait(after.pause_seconds)

    def run_prompt(self, stop: threading.Event) -> None:
        """Polls that bring news from here: an end, a file. A failed one is not repeated: the
        other loop says the same, and the end itself travels as an event."""
        while not stop.is_set():
            self._news.wait(None)
            if stop.is_set():
                return
            try:
                if self._poll(self._prompt, 0.0).accepted:
                    self._news.ring()
            except AgentError as exc:
                logger.debug("prompt poll: %s", exc)

    def changed(self) -> None:
        """There is something new to say."""
        self._news.ring()

    def nudge(self) -> None:
        """The server is back, or it is time to stop."""
        self._back.ring()
        self._news.ring()

    # --- one poll ---

    def _poll(self, send: Send, wait_seconds: float) -> _Next:
        with self._turn:
            number = next(self._numbers)
            known = self._revision
            message = self._message(number, known, wait_seconds)
        sent_at = shim.now()
        reply = send(message)
        held_seconds = shim.now() - sent_at
        if not self._server.is_ours(reply.server_id):
            return _Next(HOPELESS_SECONDS, accepted=False)
        with self._turn:
            accepted = number > self._newest and self._carry_out(number, reply, sent_at)
        # A door that does not hold polls, or could not: then keep to the pace it names.
        hurried = reply.revision == known and held_seconds < wait_seconds / 2
        return _Next(max(reply.poll_seconds, 0.1) if hurried and not accepted else 0.0, accepted)

    def _message(self, number: int, known: str | None, wait_seconds: float) -> wire.Poll:
        return fitting(
            wire.Poll(
                instance_id=self._instance_id,
                poll_seq=number,
                wait_seconds=wait_seconds,
                known_revision=known,
                attempts=self._attempts.reports(),
            )
        )

    def _carry_out(self, number: int, reply: wire.PollReply, sent_at_seconds: float) -> bool:
        """Return whether attempts were accepted, of which the server does not know yet."""
        self._newest = number
        self._attempts.recognise(reply)
        self._attempts.renew(reply, sent_at_seconds)
        plan = reconcile(reply, self._attempts.states())
        self._attempts.carry_out(plan)
        self._revision = reply.revision
        return bool(plan.accepts)

    def _pause(self, exc: AgentError, backoff: Backoff) -> float:
        if isinstance(exc, Unauthorized):
            self._complaint.about(
                f"The server does not accept this agent's token ({exc}). Jobs here go on and "
                "their files are kept; enroll this host again to go on"
            )
            return HOPELESS_SECONDS
        if isinstance(exc, WrongProtocol):
            self._complaint.about(f"Agent and server are of different versions: {exc}")
            return HOPELESS_SECONDS
        self._complaint.about(f"poll failed: {exc}")
        if isinstance(exc, Rejected) and exc.code == "duplicate_agent":
            return wire.INCUMBENT_SECONDS
        after = exc.retry_after_seconds if isinstance(exc, ServerUnreachable) else None
        return backoff.next_seconds(after)


def fitting(poll: wire.Poll) -> wire.Poll:
    """The poll within its limit of 1 MiB: who lives matters more than what files there are."""
    if len(wire.dumps(poll)) <= wire.MAX_POLL_BYTES:
        return poll
    return replace(poll, attempts=[replace(one, files={}) for one in poll.attempts])
