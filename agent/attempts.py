"""All attempts of this agent: what the poll says of them, and what it does to them."""

import errno
import logging
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

from agent import adoption, shim, wire
from agent.backoff import Backoff
from agent.journal import Attempt
from agent.reconcile import Plan
from agent.runner import Run
from agent.surroundings import Surroundings
from agent.wire import AttemptOrder, AttemptReport, AttemptState, ExitCause, OnDeviceLost

logger = logging.getLogger(__name__)

BESIDE_A_NAME_BYTES = 120  # the rest of what is said of a file: three numbers, and their names


class _Room:
    """How much of a poll is left for files and their names, which are as long as scripts make
    them. What does not fit is not told of, and sent all the same."""

    def __init__(self, length: int) -> None:
        self._left = length

    def of_files(self, files: dict[str, wire.FileReport]) -> dict[str, wire.FileReport]:
        return {name: report for name, report in files.items() if self._takes(name)}

    def of_left_out(self, left_out: list[wire.LeftOut]) -> list[wire.LeftOut]:
        return [one for one in left_out if self._takes(one.name)]

    def _takes(self, name: str) -> bool:
        self._left -= len(name.encode()) + BESIDE_A_NAME_BYTES
        return self._left >= 0


class Attempts:
    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._threads: dict[str, threading.Thread] = {}
        self._turn = threading.Lock()  # two polls may be answered at once
        self._known: set[str] = set()  # to the server, by its last answer

    def resume(self) -> None:
        """Go on with what an earlier agent left: processes here never noticed."""
        self._around.workspace.finish_moves()
        for attempt in self._around.journal.attempts():
            if attempt.run_dir is not None:
                self._around.watch_files(attempt.order, Path(attempt.run_dir))
            if attempt.state in (AttemptState.STARTING, AttemptState.RUNNING):
                with suppress(OSError):  # a folder that nobody may write: as before
                    adoption.follow(self._around.attempts_dir / attempt.id)
            unborn = attempt.state is AttemptState.STARTING and not (
                self._around.supervision(attempt.id).supervisor()
            )
            if unborn:  # as only accepted: the server will say start again, or ended
                self._around.journal.not_started(attempt.id)
            elif attempt.state is not AttemptState.ACCEPTED:
                self._spawn(attempt.order)

    # --- what is ---

    def states(self) -> dict[str, AttemptState]:
        return {attempt.id: attempt.state for attempt in self._around.journal.attempts()}

    def reports(self) -> list[AttemptReport]:
        """As many as a poll may hold; those that live come first, and then what ended last."""
        attempts = self._around.journal.attempts()[::-1]
        attempts.sort(key=lambda attempt: not attempt.state.alive)
        room = _Room(wire.MAX_POLL_BYTES // 2)
        return [
            AttemptReport(
                id=attempt.id,
                state=attempt.state,
                pid=attempt.pid,
                started_at=attempt.started_at,
                exit_code=attempt.exit_code,
                files=room.of_files(self._around.files.reports(attempt.id)),
                held_gpus=self._around.held.get(attempt.id, []),
                left_out=room.of_left_out(self._around.files.left_out(attempt.id)),
                files_to_come=attempt.state.alive or not self._around.files.settled(attempt.id),
            )
            for attempt in attempts[: wire.MAX_REPORTS]
        ]

    def leaders(self) -> dict[int, str]:
        """pid → attempt, of the supervisors and commands that run now."""
        found = {}
        for attempt in self._around.journal.attempts():
            supervision = self._around.supervision(attempt.id)
            running = supervision.running()
            processes = [supervision.supervisor(), running.process if running else None]
            found.update({p.pid: attempt.id for p in processes if p is not None and p.alive})
        return found

    # --- what is to be ---

    def carry_out(self, plan: Plan) -> None:
        with self._turn:
            for attempt_id, reason in plan.stops.items():
                self._stop(attempt_id, reason)
            for order in plan.accepts:
                self._accept(order)
            for order in plan.lost:
                self._find_again(order)
            for order in plan.starts:
                self._spawn(order)

    def recognise(self, reply: wire.PollReply) -> None:
        """Offer files anew when the server knows an attempt that it did not know before.

        An older database, or another one for a while, refused them; if the right one took its
        place between two heartbeats, nobody noticed a silence.
        """
        known = {order.id for order in reply.attempts} | set(reply.ended)
        if known - self._known:
            self._around.files.nudge()
        self._known = known

    def offer_again(self, attempt: Attempt, names: set[str]) -> None:
        """The server lacks these files of an attempt, although it has acknowledged them."""
        assert attempt.run_dir is not None
        with self._turn:
            self._around.journal.reopen(attempt.id)
            self._around.note_outputs(attempt, names)
            self._around.watch_files(attempt.order, Path(attempt.run_dir))
            self._around.files.doubt(attempt.id, names)
            self._spawn(attempt.order)

    def renew(self, reply: wire.PollReply, sent_at_seconds: float) -> None:
        """The server still counts on these: move the fence of those that have one."""
        for order in reply.attempts:
            if order.on_device_lost is OnDeviceLost.REQUEUE:
                folder = self._around.attempts_dir / order.id
                if folder.is_dir():
                    self._renew(order.id, sent_at_seconds)

    def _renew(self, attempt_id: str, sent_at_seconds: float) -> None:
        try:
            self._around.supervision(attempt_id).touch_fence(sent_at_seconds)
        except OSError as exc:  # what else the answer says is carried out all the same
            logger.warning("the lease of attempt %s cannot be renewed: %s", attempt_id, exc)

    def _accept(self, order: AttemptOrder) -> None:
        folder = self._around.attempts_dir / order.id
        folder.mkdir(parents=True, exist_ok=True)
        self._around.journal.accept(order)

    def _find_again(self, order: AttemptOrder) -> None:
        """The server says that we accepted it, and it is none of those that are under way.

        The server was restored from a backup and has forgotten its end, which is told again. Or
        the state folder was emptied, or is another one: what runs goes on, and what is gone is
        reported as that.
        """
        around = self._around
        if done := around.journal.revive(order.id):
            logger.warning("the server has forgotten the end of attempt %s: again", order.id)
            if done.run_dir is not None:
                around.watch_files(done.order, Path(done.run_dir))
                around.files.doubt(done.id)
            around.changed()
        elif adoption.adopt(around.attempts_dir / order.id):
            run_dir = around.workspace.places(order).run_dir
            facts = around.workspace.facts(order)
            around.journal.adopt(order, shim.boot_id(), str(run_dir), facts)
            logger.warning("attempt %s was not in the journal, and runs: it goes on", order.id)
        else:
            around.journal.accept_lost(order, shim.boot_id())
        self._spawn(order)

    def _stop(self, attempt_id: str, reason: str) -> None:
        journal = self._around.journal
        attempt = journal.find(attempt_id)
        if attempt is None or not attempt.state.alive:
            return
        if attempt.stop_reason is None:
            logger.info("stopping attempt %s: %s", attempt_id, reason)
        if attempt.state is AttemptState.ACCEPTED and not self._lives(attempt_id):
            journal.wish_stop(attempt_id, reason)
            journal.exited(attempt_id, cause=ExitCause.STOPPED, ended_at=shim.wall_clock())
            self._spawn(attempt.order)
            return
        # First: it may be this job that has filled the disk on which the journal lies.
        self._around.supervision(attempt_id).ask_to_stop()
        try:
            journal.wish_stop(attempt_id, reason)
        except sqlite3.OperationalError as exc:  # the others are to be stopped as well
            logger.warning("the stop of attempt %s is not in the journal: %s", attempt_id, exc)

    def _lives(self, attempt_id: str) -> bool:
        thread = self._threads.get(attempt_id)
        return thread is not None and thread.is_alive()

    def _spawn(self, order: AttemptOrder) -> None:
        """One thread an attempt. An order to start may come twice before the journal shows it."""
        if self._lives(order.id):
            return
        self._threads = {i: t for i, t in self._threads.items() if t.is_alive()}
        run = Run(self._around, order)
        thread = threading.Thread(
            target=self._guard, args=(order.id, run), name=f"attempt {order.id}", daemon=True
        )
        self._threads[order.id] = thread
        try:
            thread.start()
        except RuntimeError as exc:  # a job of this user has taken all there are: it passes
            raise OSError(errno.EAGAIN, str(exc)) from exc

    def _guard(self, attempt_id: str, run: Run) -> None:
        """An error in one attempt (a full disk, a mistake of ours) is no reason to leave it, nor
        the others, alone: its steps may be repeated, so it goes on where it was."""
        backoff = Backoff()
        while not self._around.stop.is_set():
            try:
                return run.live()
            except Exception:
                logger.exception("attempt %s: trying again", attempt_id)
            self._around.stop.wait(backoff.next_seconds())
