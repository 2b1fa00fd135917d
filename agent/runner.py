"""One attempt from its order to its end."""

import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from agent import beginnings, cgroups, environment, shim, users, uvproject, wire
from agent.backoff import Backoff
from agent.code import companion
from agent.environment import Launch, Places
from agent.errors import (
    GPUTaken,
    Rejected,
    ServerUnreachable,
    StartFailed,
    Unauthorized,
    WrongProtocol,
)
from agent.gpulock import NOTHING, Taken
from agent.interpreters import Interpreter
from agent.journal import Attempt
from agent.lacks import Lacking, check_paths
from agent.process import Ended
from agent.release import LOOK_SECONDS, Release, words
from agent.surroundings import Surroundings
from agent.users import User
from agent.wire import AttemptOrder, AttemptState, EventType, ExitCause, OnDeviceLost

logger = logging.getLogger(__name__)

BIRTH_LOOK_SECONDS = 0.05  # at a supervisor that an earlier agent was just starting
FENCE_LOOK_SECONDS = 1.0
SETTLED_LOOK_SECONDS = 0.5
T = TypeVar("T")

KILLED = (-15, -9)  # what a host that goes down does to its processes


class Run:
    """The life of one attempt, in a thread of its own.

    Each step leaves its trace in the journal or in the attempt's folder before the next begins,
    so live() goes on from wherever an earlier agent was killed.
    """

    def __init__(self, around: Surroundings, order: AttemptOrder) -> None:
        """`order` with its secrets when the attempt is to be started."""
        self._around = around
        self._order = order
        self._id = order.id
        self._supervision = around.supervision(order.id)

    def live(self) -> None:
        """Block until there is nothing left to do, or the agent stops."""
        if self._attempt().state is not AttemptState.ACCEPTED:
            self._keep_gpus()
        if self._attempt().state is AttemptState.ACCEPTED:
            self._begin()
        elif self._attempt().state is AttemptState.STARTING:
            self._note_start()
        if self._attempt().state in (AttemptState.STARTING, AttemptState.RUNNING):
            self._watch()
            self._conclude()
        if self._attempt().state is AttemptState.EXITED:
            self._around.files.exited(self._id)
            self._release()
            self._let_go_of_gpus()
            self._settle()

    def _attempt(self) -> Attempt:
        attempt = self._around.journal.find(self._id)
        assert attempt is not None, "only _settle finishes it"
        return attempt

    # --- beginning ---

    def _begin(self) -> None:
        order = self._order
        try:
            user = users.of_order(order.run_as, as_submitter=self._around.as_submitter)
            _acting_as(user, lambda: check_paths(order, user))
            config = self._insist(self._fetch_config)
            if self._given_up():
                return
            moved = self._around.files.moved
            places = self._around.workspace.prepare(order, config, moved, user)
            companion.lay(places.run_dir, user.rights())
            self._insist(lambda: self._lay_in(places))
            source = self._insist(lambda: self._lay_code(places, user))
            if self._given_up() or source is None:
                return
            indices = self._around.gpus.indices() if order.gpus else {}
            launch = self._launch(places, indices, user, source)
            self._start(launch, places)
        except StartFailed as exc:
            return self._start_failed(exc)
        self._note_start()
        self._write_metadata({})

    def _lay_code(self, places: Places, user: User) -> Path | None:
        """Where its command runs; None: nobody wishes that any more."""
        if self._order.source is None:
            return self._around.source
        return self._around.code.lay(self._order, places.run_dir, user, self._is_unwished)

    def _is_unwished(self) -> bool:
        return self._around.stop.is_set() or self._attempt().stop_reason is not None

    def _launch(self, places: Places, indices: dict[str, int], user: User, source: Path) -> Launch:
        environments = self._around.attempts_dir.parent / uvproject.NAME
        launch = _acting_as(
            user,
            lambda: environment.launch(
                self._order, places, source, indices, user, environments=environments
            ),
        )
        if self._order.python == uvproject.NAME and launch.interpreter is not None:
            prefix = launch.interpreter.prefix
            for path in uvproject.kept(prefix, launch.directory, launch.variables):
                self._around.kept(path, user)
        return launch

    def _start(self, launch: Launch, places: Places) -> None:
        order, facts = self._order, beginnings.of_start(self._order, launch, self._around.driver())
        taken = self._lock_gpus()
        try:
            self._note_what_is_there(launch)
            before = self._around.gpus.memory_used(order.gpus)
            self._around.journal.starting(self._id, shim.boot_id(), facts, before)
            self._supervision.start(self._shim_order(launch, places), taken)
        except OSError as exc:
            why = f"This host cannot start processes now: {exc.strerror}"
            raise StartFailed(why) from exc
        finally:
            taken.close()

    def _note_what_is_there(self, launch: Launch) -> None:
        """What lies in the working directory now is not this attempt's."""
        outputs = self._around.outputs(self._order, launch.directory)
        if outputs is not None:
            outputs.rights = launch.user.rights
            outputs.note_before()

    def _lock_gpus(self) -> Taken:
        """No other server of this host gets its GPUs from now on. Return what is to be inherited.

        Raises:
            GPUTaken: another one has them.
        """
        try:
            return self._around.locks.take(self._id, self._order.gpus)
        except GPUTaken:
            # Or has a supervisor them that an earlier agent was just starting for this attempt?
            # Then that one goes on, unless it comes too late.
            if self._supervision.forbid():
                raise
            self._keep_gpus()
            return NOTHING

    def _given_up(self) -> bool:
        """Whether it is not to be started any more: a stop was wished, or the agent ends."""
        if self._attempt().stop_reason:
            self._exited(None, ExitCause.STOPPED)
            return True
        return self._around.stop.is_set()  # still only accepted: the next agent starts it

    def _insist(self, request: Callable[[], T]) -> T | None:
        """Ask again as long as the server is away, or does not know us, and nobody wishes a stop.

        Raises:
            StartFailed: the server answers, and has not what is asked for.
        """
        backoff = Backoff(ceiling_seconds=5.0)
        while not (self._around.stop.is_set() or self._attempt().stop_reason):
            try:
                return request()
            except ServerUnreachable as exc:
                self._around.stop.wait(backoff.next_seconds(exc.retry_after_seconds))
            except (Unauthorized, WrongProtocol):  # it speaks to nobody here: no fault of the job
                self._around.stop.wait(backoff.next_seconds())
            except Rejected as exc:
                raise StartFailed(f"The server did not hand out the job's files: {exc}") from exc
        return None

    def _fetch_config(self) -> bytes | None:
        return self._around.fetch_config(self._id) if self._order.config_sha256 else None

    def _lay_in(self, places: Places) -> None:
        if self._order.resume is not None:
            self._around.lay_in(self._order, places.run_dir)

    def _shim_order(self, launch: Launch, places: Places) -> "shim.Order":
        order = self._order
        requeue = order.on_device_lost is OnDeviceLost.REQUEUE
        return {
            "folder": str(self._around.attempts_dir / self._id),
            "executable": launch.executable,
            "arguments": launch.arguments,
            "directory": str(launch.directory),
            "environment": launch.variables,
            "log": str(places.log),
            "time_limit_seconds": order.time_limit_seconds,
            "grace_seconds": order.stop_grace_seconds,
            "fence_seconds": wire.FENCE_SECONDS if requeue else None,
            "user": None if launch.user.is_own else launch.user.for_supervisor,
            "cgroup": cgroups.of_attempt(self._id),
            "own_locks": [],  # Supervision.start() names them
        }

    def _note_start(self) -> None:
        """Journal the process. It may have ended by now, or never have come to be.

        The supervisor may be one that an earlier agent was starting when it was killed. Its files
        are watched first: an attempt whose files nobody watches counts as settled.
        """
        run_dir = self._around.workspace.places(self._order).run_dir
        self._around.watch_files(self._order, run_dir)
        supervisor = self._supervision.supervisor()
        while supervisor and supervisor.alive and not self._supervision.running():
            self._around.stop.wait(BIRTH_LOOK_SECONDS)
        running = self._supervision.running()
        if running is not None:
            pid = running.process.pid
            self._around.journal.running(self._id, pid, running.started_at)
            self._around.changed()
            logger.info("%s started as process %d", self._label, pid)

    # --- ending ---

    def _watch(self) -> None:
        """Block until the supervisor is gone, and see that it keeps the fence if there is one."""
        if self._order.on_device_lost is not OnDeviceLost.REQUEUE:
            return self._supervision.wait()
        while not self._supervision.wait_for(FENCE_LOOK_SECONDS):
            self._supervision.enforce_fence(wire.FENCE_SECONDS)
        return None

    def _conclude(self) -> None:
        """The supervisor is gone: find out how the command ended."""
        ended = self._supervision.ended()
        if ended is None:
            self._lost()
        elif ended.error is not None:
            self._start_failed(StartFailed(f"The system would not run the command: {ended.error}"))
        else:
            cause = _cause(ended, rebooted=self._attempt().boot_id != shim.boot_id())
            self._exited(ended.exit_code, cause, ended)

    def _lost(self) -> None:
        """No word of the end: the host went down, or somebody killed the supervisor."""
        if self._attempt().boot_id != shim.boot_id():
            return self._exited(None, ExitCause.HOST_REBOOTED)
        logger.warning("%s: its supervisor is gone; stopping what it left", self._label)
        left = self._supervision.clear_away(self._id, self._grace_seconds())
        if left:
            logger.error("%s: processes %s cannot be killed", self._label, left)
        return self._exited(None, ExitCause.SUPERVISOR_LOST)

    def _grace_seconds(self) -> float:
        """The job's own; but with a fence never more than what that leaves."""
        wished = self._order.stop_grace_seconds
        if self._order.on_device_lost is not OnDeviceLost.REQUEUE:
            return wished
        return max(0.0, min(wished, -self._supervision.past_fence(wire.FENCE_SECONDS)))

    def _exited(
        self, exit_code: int | None, cause: ExitCause | None, ended: Ended | None = None
    ) -> None:
        self._learn_what_was_made()
        started_at = ended.started_at if ended else self._attempt().started_at
        ended_at = ended.ended_at if ended else shim.wall_clock()
        if started_at is not None:
            end = {"ended_at": ended_at, "exit_code": exit_code, "cause": cause and cause.value}
            self._write_metadata(end)
        self._around.journal.exited(
            self._id, exit_code=exit_code, cause=cause, started_at=started_at, ended_at=ended_at
        )
        self._around.changed()
        why = f" ({cause.value})" if cause else ""
        logger.info("%s ended with exit code %s%s", self._label, exit_code, why)

    def _learn_what_was_made(self) -> None:
        """An environment that the job itself has made (uv) was not there yet at its start."""
        facts = self._attempt().facts
        if facts.get("prefix") and not facts.get("packages"):
            with suppress(OSError, StartFailed):
                name, own = self._order.run_as, self._around.as_submitter
                with users.of_order(name, as_submitter=own).rights():
                    made = beginnings.installed_in(Interpreter(Path(facts["prefix"]), {}))
                self._around.journal.learn(self._id, {**facts, **made})

    def _start_failed(self, why: StartFailed) -> None:
        logger.warning("%s cannot start: %s", self._label, why)
        taken = [why.uuid] if isinstance(why, GPUTaken) else []
        lacks = why.lacks if isinstance(why, Lacking) else []
        if isinstance(why, Lacking):
            self._around.lacks.note(why)
        self._around.journal.start_failed(
            self._id, message=str(why)[:4000], used_elsewhere=taken, lacks=lacks
        )
        self._around.changed()

    def _keep_gpus(self) -> None:
        """An earlier agent locked them: until their memory is back, others may not have them."""
        if not self._around.journal.said(self._id, EventType.RELEASED):
            self._around.locks.join(self._id, self._order.gpus)

    def _let_go_of_gpus(self) -> None:
        if self._around.journal.said(self._id, EventType.RELEASED):
            self._around.locks.let_go(self._id)

    def _release(self) -> None:
        """Wait until the memory of its GPUs is back, and say so. Until then polls name who holds
        it: the server gives out the other cards, and after RELEASE_SECONDS sets this one aside."""
        around, warned, attempt = self._around, False, self._attempt()
        # One that never started, or ran before a reboot, holds nothing.
        cards = self._order.gpus if attempt.boot_id == shim.boot_id() else []
        release = Release(self._id, cards, attempt.gpu_memory_before, around.gpus)
        while not around.journal.said(self._id, EventType.RELEASED):
            held = release.look()
            around.held[self._id] = held or []
            if held == []:
                around.journal.released(self._id, self._order.gpus)
            elif release.is_overdue and not warned:
                logger.warning("%s has ended, and %s", self._label, words(held))
                warned = True
            if release.has_news:
                around.changed()
            if around.stop.wait(0 if held == [] else LOOK_SECONDS):
                break
        around.held.pop(self._id, None)

    def _settle(self) -> None:
        around = self._around
        while not (around.journal.all_settled(self._id) and around.files.settled(self._id)):
            if around.stop.wait(SETTLED_LOOK_SECONDS):
                return
        if self._order.source is not None:
            around.files.bring_home(self._id)
        around.code.remove(self._order, around.workspace.places(self._order).run_dir)
        around.files.leave(self._id)  # a poll between this and the next would know no files of it
        for forgotten in around.journal.finish(self._id):
            around.files.forget(forgotten)
        shutil.rmtree(around.attempts_dir / self._id, ignore_errors=True)
        around.changed()

    # --- for all of them ---

    @property
    def _label(self) -> str:
        return f"{self._order.project}/{self._order.run_name} (attempt {self._order.number})"

    def _write_metadata(self, end: dict[str, Any]) -> None:
        attempt = self._attempt()
        places = self._around.workspace.places(self._order)
        facts = {**attempt.facts, "started_at": attempt.started_at, **end}
        with suppress(OSError):  # a full disk: the journal has it all, and the end goes on
            self._around.workspace.write_metadata(replace(self._order, secrets={}), places, facts)


def _acting_as(user: User, act: Callable[[], T]) -> T:
    try:
        with user.rights():
            return act()
    except OSError as exc:
        raise StartFailed(f"This host does not let us act as {user.name!r}: {exc}") from exc


def _cause(ended: Ended, rebooted: bool) -> ExitCause | None:
    if ended.cause is not None:
        return ExitCause(ended.cause)
    if rebooted and ended.terminated and ended.exit_code in KILLED:
        return ExitCause.HOST_REBOOTED  # it did not end, it was ended with all the others
    return None
