"""Asking a server that is back whether it still has what it acknowledged.

One that was restored from an older backup bears its old name and has less. Of a job that it
believes to run it hears the end again (agent.attempts); of one that had ended by then it would
never ask, and here its files are settled. So each time the server is back, and now and then, it
is asked for the files of what is under way, and of what is done, the newest first: a backup lacks
what came last, so that a few in a row that are whole vouch for all before them. Not so for what a
person did to one of them by hand, so that some of the others are looked at each time as well, in
turn; and `lab-agent push` names what it found to be lacking.
"""

import logging
import os
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from agent.backoff import Bell
from agent.errors import (
    AgentError,
    AnswerTooLong,
    NotTheServer,
    Rejected,
    Unauthorized,
    WrongProtocol,
)
from agent.files.filejournal import FileJournal, Sent
from agent.files.regular import Mark
from agent.journal import Attempt, Journal
from agent.transport import Transport

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 3600.0
RETRY_SECONDS = 60.0
SPREAD_SECONDS = 5.0  # a hundred agents whose server is back do not ask all at once
ENOUGH = 3  # done attempts in a row of which nothing is lacking
IN_TURN = 20  # of those behind them: all that are remembered in two days


class Audit:
    def __init__(
        self,
        connect: Callable[[], Transport],
        journal: Journal,
        files: FileJournal,
        offer_again: Callable[[Attempt, set[str]], None],
        spread_seconds: float = SPREAD_SECONDS,
    ) -> None:
        """`offer_again`: told an attempt, and the names of its files that the server lacks."""
        self._connect = connect
        self._journal = journal
        self._files = files
        self._offer_again = offer_again
        self._spread_seconds = spread_seconds
        self._bell = Bell()
        self._wished: set[str] = set()  # ids of attempts
        self._turn_of = ""  # the id of the last one that was looked at in turn

    def run(self, stop: threading.Event) -> None:
        pause = AGAIN_SECONDS
        while not stop.is_set():
            self._bell.wait(pause)
            if not self._wished:
                stop.wait(random.uniform(0, self._spread_seconds))  # noqa: S311 - not a secret
            pause = AGAIN_SECONDS if self._has_asked(stop) else RETRY_SECONDS

    def nudge(self) -> None:
        """The server is back, or it is time to stop."""
        self._bell.ring()

    def wish(self, attempt_ids: Iterable[str]) -> None:
        """Somebody has seen that the server lacks something of these: ask for them now."""
        if wished := set(attempt_ids):
            self._wished |= wished
            self._bell.ring()

    def _has_asked(self, stop: threading.Event) -> bool:
        try:
            with closing(self._connect()) as transport:
                self.ask(transport, stop)
        except AgentError as exc:
            logger.debug("the server was not asked what it has: %s", exc)
            return False
        return True

    def ask(self, transport: Transport, stop: threading.Event) -> None:
        """
        Raises:
            AgentError: the server does not answer. What was wished is asked for another time.
        """
        wished, self._wished = self._wished, set()
        try:
            self._ask(transport, stop, wished)
        except AgentError:
            self._wished |= wished
            raise

    def _ask(self, transport: Transport, stop: threading.Event, wished: set[str]) -> None:
        for attempt in self._journal.attempts():
            self._is_whole(transport, attempt)
        in_a_row, rest = 0, list[Attempt]()
        for attempt in self._journal.done():
            if stop.is_set():
                return
            if in_a_row == ENOUGH and attempt.id not in wished:
                rest.append(attempt)
                continue
            whole = self._is_whole(transport, attempt)
            if whole is not None:
                in_a_row = in_a_row + 1 if whole else 0
        for attempt in self._next(rest):
            if stop.is_set():
                return
            self._is_whole(transport, attempt)
            self._turn_of = attempt.id

    def _next(self, rest: list[Attempt]) -> list[Attempt]:
        """Those whose turn it is, after the one that was the last."""
        after = next((at for at, one in enumerate(rest, 1) if one.id == self._turn_of), 0)
        return (rest[after:] + rest[:after])[:IN_TURN]

    def lacks(self, transport: Transport, attempt: Attempt) -> set[str]:
        """Names of files that lie here and that the server has not as it acknowledged them.

        Raises:
            AgentError: the server does not answer.
        """
        return set(self._found(transport, attempt) or ())

    def _is_whole(self, transport: Transport, attempt: Attempt) -> bool | None:
        """Whether the server has all that it acknowledged of an attempt; if not, it is offered
        again as far as it lies here. None: that cannot be said, or nothing can be done."""
        here = self._found(transport, attempt)
        if not here:
            return None if here is None else True
        logger.warning(
            "the server lacks %s of attempt %s, which it had acknowledged: again",
            ", ".join(sorted(here)), attempt.id,
        )  # fmt: skip
        self._offer_again(attempt, here)
        return False

    def _found(self, transport: Transport, attempt: Attempt) -> set[str] | None:
        """What the server lacks and lies here; None: that cannot be said, or none of it does."""
        sent = self._files.of(attempt.id)
        if not sent or attempt.run_dir is None:
            return None
        lacking = self._lacking(transport, attempt, sent)
        if not lacking:
            return lacking
        now = self._files.of(attempt.id)  # what was sent while the server was asked is not told
        return {
            name
            for name in lacking
            if now.get(name) == sent[name] and _lies_here(attempt, name, sent[name])
        } or None

    def _lacking(
        self, transport: Transport, attempt: Attempt, sent: Mapping[str, Sent]
    ) -> set[str] | None:
        """None: it does not know the run any more, the results are another attempt's, or they are
        too many to be told."""
        try:
            status = transport.sync_status(attempt.order.experiment_uid)
        except (Unauthorized, WrongProtocol):
            raise
        except (Rejected, AnswerTooLong):
            return None
        try:
            return lacking(status["data"], attempt.order.number, sent)
        except (KeyError, TypeError, AttributeError):
            raise NotTheServer("The sync status is not what it should be") from None


def _lies_here(attempt: Attempt, name: str, sent: Sent) -> bool:
    """An output lies in the working directory, where others write too: it is this attempt's as
    long as it is the very file that was acknowledged."""
    assert attempt.run_dir is not None
    if os.path.isfile(Path(attempt.run_dir, name)):
        return True
    directory = attempt.facts.get("working_directory")
    if not (directory and attempt.order.outputs):
        return False
    with suppress(OSError):
        below = name.removeprefix(f"{attempt.order.run_name}/")
        return str(Mark.of(os.stat(Path(directory, below)))) == sent.mark
    return False


def lacking(told: Mapping[str, Any], number: int, sent: Mapping[str, Sent]) -> set[str] | None:
    """The files that the server has not as it acknowledged them.

    Args:
        told: `data` of its sync status.
        number: of the attempt that sent them. None is returned if the results are not its.
    """
    if told.get("attempt") != number:
        return None
    files = told["files"]
    return {name for name, one in sent.items() if not _has(files.get(name), number, one)}


def _has(told: Mapping[str, Any] | None, number: int, sent: Sent) -> bool:
    if sent.deleted or not (sent.complete or sent.acked_bytes):
        return True  # nothing was acknowledged
    if told is None:
        return False
    there, here = (told["attempt"], told["generation"]), (number, sent.generation)
    if there[0] != number:
        return bool(there > here)  # a later attempt's
    if not sent.complete:
        return there > here or (there == here and told["size"] >= sent.acked_bytes)
    known = told.get("sha256")  # under a newer generation only what somebody sent by hand
    return bool(told["complete"] and (known == sent.sha256 if known else there >= here))
