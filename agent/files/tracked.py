"""One file of a run on its way to the server: what is common to all kinds (protocol §6, §7)."""

import logging
import os
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, BinaryIO

from agent import shim, wire
from agent.backoff import Backoff
from agent.errors import (
    AgentError,
    AnswerTooLong,
    NotTheServer,
    Rejected,
    ServerUnreachable,
    Unauthorized,
    WrongProtocol,
)
from agent.files.backlog import Backlog
from agent.files.filejournal import FileJournal, Sent
from agent.files.regular import Mark
from agent.files.runfiles import RunFiles
from agent.transport import Transport

logger = logging.getLogger(__name__)

STILL_SECONDS = 1.0  # without a change, before a file counts as written
HOPELESS_SECONDS = 60.0  # while the server does not speak with this agent at all
LEAP = 2**32  # generations, for each attempt of a run whose files are too many to be told
PARKED_SECONDS = 3600.0  # a refusal that a person has to do something about


_LEFT_OUT = {
    wire.WhyLeftOut.NOT_WISHED: "kept here, as `sync: checkpoints` of its job says",
    wire.WhyLeftOut.TOO_LARGE: "kept here: above `sync: max_file` of its job",
    wire.WhyLeftOut.UNMASKED: "kept here: another user's, so a secret in it cannot be masked",
    wire.WhyLeftOut.TORN: "kept here: it was cut off while it was written",
}


class Tracked(ABC):
    """One file. The scanner looks at it (see, is_due); one worker at a time sends it (work)."""

    def __init__(
        self, run: RunFiles, name: str, journal: FileJournal, stop: threading.Event
    ) -> None:
        self.run = run
        self.name = name
        self.sent = journal.find(run.attempt_id, name)  # None: it has no generation yet
        self.seen = Mark(0, 0, 0)
        self.seen_at = 0.0  # when it was last there
        self.still_since = 0.0
        self.is_replaced = False  # by another file of its name, when it last changed
        self.queued = False  # a worker has it, or will
        self.error: str | None = None
        self.since = shim.wall_clock()  # when `error` began
        self.backlog = Backlog()
        self.parked = False
        self._doubted = False  # whether the server still has what it acknowledged
        self.left_out: wire.WhyLeftOut | None = None  # not to be sent: its job, or we, say so
        self._journal = journal
        self._stop = stop
        self._not_before = 0.0
        self._backoff = Backoff()
        self._renewals = Backoff()  # of generations: nobody should ever need two in a row

    # --- for the scanner ---

    def see(self, mark: Mark, now_seconds: float) -> None:
        if mark != self.seen:
            self.is_replaced = self.seen.inode not in (0, mark.inode)
            self.seen = mark
            self.still_since = now_seconds
        self.seen_at = now_seconds
        if self.has_arrived:
            self.backlog.clear()
        else:
            self.backlog.grew(mark.size, now_seconds)
            self._note_arrived()

    @abstractmethod
    def _note_arrived(self) -> None:
        """Of what is behind: what is so no more, although other bytes are by now."""

    @property
    def is_torn(self) -> bool:
        """Whether what was last seen of it is only the beginning of what is to be written."""
        return False

    def is_due(self, now_seconds: float) -> bool:
        waits = self.queued or self.left_out or now_seconds < self._not_before
        work = self._doubted or self._has_work(now_seconds)
        return not waits and not self.settled and work

    def nudge(self) -> None:
        """Do not wait any longer: the server was away. It may take now what it refused, since a
        database that was restored, or the wrong one for a while, knew nothing of the run."""
        self._not_before = 0.0
        self._backoff.reset()

    def doubt(self) -> None:
        """The server lacks what it has acknowledged: offer it again."""
        self._doubted = self.sent is not None
        self._not_before = 0.0

    @property
    def settled(self) -> bool:
        """Nothing is left to be done with it."""
        return self.confirmed or (self.left_out is not None and not self.queued)

    @property
    def confirmed(self) -> bool:
        """All that lies here is acknowledged and confirmed, or the server does not want it."""
        sent = self.sent
        if sent is None or self._doubted:
            return False
        return sent.deleted or (sent.complete and sent.mark == str(self.seen))

    @property
    def has_its_copy(self) -> bool:
        """Whether the server has all of it, and wants it."""
        return self.confirmed and self.sent is not None and not self.sent.deleted

    @property
    def has_arrived(self) -> bool:
        """All that was seen of it, or is wanted, is acknowledged; after the end: settled."""
        if self.run.exited or self.left_out is not None:
            return self.settled
        return not self.behind_bytes

    @property
    def behind_bytes(self) -> int:
        """How much of what was last seen of it is not acknowledged."""
        sent = self.sent
        if sent is None:
            return self.seen.size
        return 0 if sent.deleted or sent.mark == str(self.seen) else self._missing_bytes(sent)

    @property
    def is_lacking(self) -> bool:
        """Whether something would be lost if the file here were."""
        return not self.settled

    @abstractmethod
    def _missing_bytes(self, sent: Sent) -> int: ...

    @property
    def state(self) -> str:
        """For people."""
        if self.sent is not None and self.sent.deleted:
            return "deleted on the server"
        if self.left_out is not None and not self.confirmed:
            return _LEFT_OUT[self.left_out]
        if self.parked:
            return "refused"
        if self.error is not None:
            return "waiting"
        return "synced" if self.has_arrived else "syncing"

    @property
    def why(self) -> str | None:
        """Why it is behind, in a sentence; None: it is not."""
        if self.error is not None or self.has_arrived:
            return self.error
        return "it is on its way" if self.queued else self._why_not_yet()

    def _why_not_yet(self) -> str:
        return "it is sent next"

    def report(self) -> wire.FileReport:
        sent = self.sent or Sent(generation=0)
        return wire.FileReport(sent.generation, self.seen.size, sent.acked_bytes)

    @property
    def is_still(self) -> bool:
        """Whether it counts as written."""
        return self.run.exited or shim.now() - self.still_since >= STILL_SECONDS

    @abstractmethod
    def _has_work(self, now_seconds: float) -> bool: ...

    # --- for the worker ---

    def work(self, transport: Transport) -> bool:
        """Do the next bit. Return whether there is more to do at once; never raises but for a
        mistake of ours."""
        try:
            self._reconsider()
            more = self._step(transport)
        except FileNotFoundError:
            return False  # gone or being replaced: the next look tells
        except AgentError as exc:
            return self._on_trouble(exc)
        except OSError as exc:
            self._wait(f"it cannot be read: {exc}", self._next_seconds(), logging.WARNING)
            return False
        except sqlite3.Error as exc:
            self._wait(self._journal.why_unusable(exc), self._next_seconds(), logging.WARNING)
            return False
        self._taken()
        return more

    def _reconsider(self) -> None:
        if self._doubted and self.sent is not None:
            self._keep(self._unconfirmed(self.sent))
        self._doubted = False

    def _unconfirmed(self, sent: Sent) -> Sent:
        """As it was before the server confirmed it: it then says how much it has."""
        return replace(sent, complete=False, mark="")

    def _taken(self) -> None:
        """The server takes it: what came in between is over."""
        if self.error is not None:
            logger.debug("%s is taken again", self._label)
        self.error, self.parked = None, False
        self._backoff.reset()

    def give_way(self, exc: BaseException) -> None:
        """A mistake of ours: leave the file alone for a while, and send the others."""
        self._wait(f"{type(exc).__name__}: {exc}", HOPELESS_SECONDS)

    @abstractmethod
    def _step(self, transport: Transport) -> bool: ...

    def _begin(self, transport: Transport, **fields: Any) -> Sent:
        """The first generation of this attempt: above whatever the server has seen, and above that
        of a file in the place of which there is a folder by now, or the reverse."""
        run = self.run
        if run.on_server is None:
            try:
                run.on_server = _generations(transport.sync_status(run.experiment_uid))
            except AnswerTooLong:  # beyond what earlier attempts, who count in ones, can have seen
                run.on_server = defaultdict(lambda: run.number * LEAP)
        before = self._journal.generation_in_the_way(run.attempt_id, self.name)
        return self._renew(max(run.on_server[self.name], before) + 1, **fields)

    def _renew(self, generation: int, **fields: Any) -> Sent:
        """Begin a new generation, from its first byte on."""
        logger.debug("%s is sent as generation %d", self._label, generation)
        return self._keep(Sent(generation, **fields))

    def _keep(self, sent: Sent) -> Sent:
        self._journal.put(self.run.attempt_id, self.name, sent)
        self.sent = sent
        return sent

    def _headers(self, sent: Sent, mark: Mark, **more: str) -> dict[str, str]:
        return {
            "X-Sync-Attempt": str(self.run.number),
            "X-Sync-Generation": str(sent.generation),
            "X-File-Mtime": str(max(0, mark.mtime_ns // 1_000_000_000)),
            **{name.replace("_", "-"): value for name, value in more.items()},
        }

    # --- what may go wrong ---

    def _on_trouble(self, exc: AgentError) -> bool:
        if isinstance(exc, Unauthorized | WrongProtocol):
            self._wait(str(exc), HOPELESS_SECONDS)
            return False
        if isinstance(exc, Rejected):
            return self._on_refusal(exc)
        after = exc.retry_after_seconds if isinstance(exc, ServerUnreachable) else None
        self._wait(str(exc), self._next_seconds(after))
        return False

    def _on_refusal(self, exc: Rejected) -> bool:
        if exc.code == "deleted" and exc.status == 410:
            logger.info("%s: the run was deleted on the server; its files stay here", self._label)
            self._keep(replace(self.sent or Sent(generation=0), deleted=True))
        elif exc.code in ("diverged", "upload_expired") and self.sent is not None:
            self._renew(self.sent.generation + 1, **self._kept_when_renewed())
            self._wait(str(exc), self._renewals.next_seconds())
        elif exc.code == "stale_generation":
            self._overtake(exc)
        elif exc.status in (409, 422):  # lost a race, or the bytes were damaged on the way
            self._reread()
            self._wait(str(exc), self._next_seconds())
        else:
            self.parked = True
            self._wait(f"the server refuses it: {exc}", PARKED_SECONDS, logging.WARNING)
        return False

    def _overtake(self, exc: Rejected) -> None:
        """The server has seen a newer generation: our journal was lost, or is an old copy."""
        newest = exc.facts.get("generation")
        if exc.facts.get("attempt") == self.run.number and isinstance(newest, int):
            current = self.sent.generation if self.sent is not None else 0
            self._renew(max(newest, current) + 1, **self._kept_when_renewed())
        self._wait(str(exc), self._renewals.next_seconds())

    def _kept_when_renewed(self) -> dict[str, Any]:
        return {}

    @abstractmethod
    def _reread(self) -> None:
        """Trust nothing that is remembered of the file's content."""

    def _next_seconds(self, at_least: float | None = None) -> float:
        return self._backoff.next_seconds(at_least)

    def _wait(self, why: str, seconds: float, level: int = logging.DEBUG) -> None:
        if self.error is None:
            self.since = shim.wall_clock()
        if why != self.error:
            logger.log(level, "%s waits: %s", self._label, why)
        self.error = why
        self._not_before = shim.now() + seconds

    def _confirmed(self) -> None:
        """It arrived whole: what was wrong with earlier generations is past."""
        self._renewals.reset()

    @property
    def _label(self) -> str:
        return f"{self.run.project}/{self.name} (attempt {self.run.number})"


def read_mark(source: BinaryIO) -> Mark:
    return Mark.of(os.fstat(source.fileno()))


def read_at(source: BinaryIO, offset: int, length: int) -> bytes:
    """At most `length` bytes; fewer only at the end of the file."""
    source.seek(offset)
    blocks = []
    while length and (block := source.read(length)):
        blocks.append(block)
        length -= len(block)
    return b"".join(blocks)  # of one block, as a rule: that is no copy


def stored(answer: Mapping[str, Any], sent: Sent, acked_bytes: int) -> Mapping[str, Any]:
    """The `data` of an upload's answer, if it says what the request asked for.

    Raises:
        NotTheServer: it acknowledges something else, so nothing was acknowledged.
    """
    data = answer.get("data")
    expected = {"generation": sent.generation, "acked_bytes": acked_bytes}
    if not isinstance(data, dict) or any(
        data.get(key) != value for key, value in expected.items()
    ):
        raise NotTheServer(f"An upload of {acked_bytes} bytes was answered by {str(answer)[:200]}")
    return dict(data or {})


def _generations(status: Mapping[str, Any]) -> defaultdict[str, int]:
    try:
        files = status["data"]["files"]
        known = {name: int(facts["generation"]) for name, facts in files.items()}
        return defaultdict(int, known)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise NotTheServer("The sync status is not what it should be") from None
