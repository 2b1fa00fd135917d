"""A file of a run on its way to the server: what growing and whole files have in common."""

import errno
import hashlib
import logging
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

from agent import shim
from agent.backoff import Backoff
from agent.errors import Rejected, ServerUnreachable, Unauthorized, WrongProtocol
from agent.filejournal import FileJournal, Sent
from agent.transport import Transport

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20
PARKED_SECONDS = 3600.0  # until a refusal that nothing here can mend is tried again
UNREADABLE_SECONDS = 60.0
#: An ended attempt's file that is not there for so long is gone. Shorter than that it may be on
#: its way to another folder (agent.workspace).
GONE_SECONDS = 2.0


class RunDeleted(Exception):
    """The server wants no file of this run any more."""


class Changed(Exception):
    """The file is not what it was when its sending began: look at it again."""


@dataclass(frozen=True)
class Origin:
    """The attempt that writes a file."""

    attempt_id: str
    experiment_uid: str
    project: str
    run_name: str
    number: int


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...

    def copy(self) -> "_Digest": ...


class SyncedFile(ABC):
    """One file and how far the server has it. Only one thread calls step().

    `floor` gives the highest generation that the server knows of this file; it is asked when
    the journal knows none.
    """

    def __init__(
        self,
        origin: Origin,
        name: str,
        journal: FileJournal,
        floor: Callable[[Transport, str], int],
    ) -> None:
        self.name = name
        self.size = 0  # as it was last seen, in bytes
        self.settled = False  # after the end: nothing is left to do
        self.problem = ""  # why it is parked
        self.sent = Sent(0, 0, "", complete=False)
        self._origin = origin
        self._journal = journal
        self._floor = floor
        self._due_at = 0.0
        self._gone_since: float | None = None
        self._backoff = Backoff()

    @property
    def due(self) -> bool:
        return not self.settled and shim.now() >= self._due_at

    @property
    def label(self) -> str:
        return f"{self._origin.project}/{self.name}"

    def step(self, transport: Transport, path: Path, final: bool) -> bool:
        """Look at the file and send what comes next. Return whether there is more at once.

        Args:
            final: the attempt has ended; what the file is now, it stays.

        Raises:
            RunDeleted: the server wants nothing more of this run.
            ServerUnreachable, Unauthorized, WrongProtocol: nothing can be sent now.
        """
        try:
            with opened(path) as file:
                self._gone_since = None
                more = self._step(transport, file, final)
        except FileNotFoundError:
            self._gone(final)
        except Changed:
            self._due_at = shim.now() + self._backoff.next_seconds()
        except OSError as exc:
            self._park(f"it cannot be read here: {exc.strerror or exc}", UNREADABLE_SECONDS)
        except Rejected as exc:
            self._rejected(exc)
        else:
            self.problem = ""
            return more
        return False

    def _gone(self, final: bool) -> None:
        if self._gone_since is None:
            self._gone_since = shim.now()
        self.settled = final and shim.now() - self._gone_since >= GONE_SECONDS

    @abstractmethod
    def _step(self, transport: Transport, file: FileIO, final: bool) -> bool: ...

    @abstractmethod
    def _begin_anew(self, at_least: int) -> None:
        """The server has, or may have, something else under this generation."""

    def _obey(self, facts: dict[str, Any], code: str) -> bool:
        """Go on from the truth that a 409 carries. Return whether it was understood."""
        if code == "stale_generation":
            self._begin_anew(int(facts.get("generation") or 0))
        elif code == "diverged":
            self._begin_anew(0)
        else:
            return code == "lost_race"
        return True

    def _rejected(self, exc: Rejected) -> None:
        if isinstance(exc, Unauthorized | WrongProtocol):
            raise exc
        if exc.status == 410 and exc.code == "deleted":
            raise RunDeleted from exc
        logger.info("%s: %s", self.label, exc)
        obeyed = exc.status == 409 and self._obey(exc.facts, exc.code)
        if obeyed or exc.status == 422:  # 422: it was damaged on the way; read it again
            self._due_at = shim.now() + self._backoff.next_seconds()
        else:
            self._park(str(exc))

    def _park(self, problem: str, seconds: float = PARKED_SECONDS) -> None:
        if problem != self.problem:
            logger.warning("%s is not sent: %s", self.label, problem)
        self.problem = problem
        self._due_at = shim.now() + seconds

    # --- for both kinds ---

    def _take_up(self, transport: Transport) -> None:
        """What was sent of it before, by this agent or one before it."""
        known = self._journal.find(self._origin.attempt_id, self.name)
        if known is None:
            self._begin_anew(self._floor(transport, self.name))
        else:
            self.sent = known

    def _note(self, sent: Sent) -> None:
        self._journal.put(self._origin.attempt_id, self.name, sent)
        self.sent = sent

    def _headers(self, facts: os.stat_result) -> dict[str, str]:
        return {
            "X-Sync-Attempt": str(self._origin.number),
            "X-Sync-Generation": str(self.sent.generation),
            "X-File-Mtime": str(int(facts.st_mtime)),
        }

    def _acknowledged(self) -> None:
        self._backoff.reset()


# --- reading ------------------------------------------------------------------------------------


def opened(path: Path) -> FileIO:
    """A regular file, for reading. A link is not followed: the job may not choose what is sent.

    Raises:
        FileNotFoundError: there is none, or it is something else.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENOTDIR):
            raise FileNotFoundError(path) from exc
        raise
    file = FileIO(descriptor)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(path)
    return file


def read_at(file: FileIO, offset: int, length: int) -> bytes:
    """At most `length` bytes; fewer only at the end."""
    blocks = []
    while length and (block := os.pread(file.fileno(), length, offset)):
        blocks.append(block)
        offset += len(block)
        length -= len(block)
    return b"".join(blocks)


def digest_of(file: FileIO, length: int) -> _Digest | None:
    """SHA-256 of the first `length` bytes; None: there are not so many."""
    digest = hashlib.sha256()
    at = 0
    while at < length:
        block = os.pread(file.fileno(), min(BLOCK_BYTES, length - at), at)
        if not block:
            return None
        digest.update(block)
        at += len(block)
    return digest


def stamp(facts: os.stat_result) -> tuple[int, int, int]:
    """What is the same as long as a file holds still."""
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def acked_in(answer: dict[str, Any]) -> dict[str, Any]:
    """The `data` of an answer to an upload.

    Raises:
        ServerUnreachable: it is not one that our server gives.
    """
    data = answer.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("acked_bytes"), int):
        raise ServerUnreachable("The answer to an upload does not say what was acknowledged")
    return data
