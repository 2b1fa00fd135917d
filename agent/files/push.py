"""`lab-agent push`: send now what lies here, and wait until all of it has arrived.

An agent that runs is asked by a file in the state folder, which only its user can make: no signal
can hit another process, and an agent of an older version takes no harm. Where none runs, the files
are sent from here, as the agent would and under its lock. Whether the server still has what it
acknowledged is asked of the server.
"""

import sqlite3
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from agent import enroll, presence, shim, status
from agent.config import Config
from agent.errors import AgentError, ConfigError
from agent.files import behind
from agent.files.behind import FileBehind, RunBehind, size_words
from agent.files.filesync import FileSync
from agent.files.missing import Missing
from agent.files.outputs import Outputs
from agent.files.userfolders import UserFolders
from agent.heartbeat import ANOTHER_SERVER
from agent.identity import ServerIdentity
from agent.journal import Attempt, Journal
from agent.presence import Record
from agent.state import State
from agent.store import Store
from agent.transport import Transport
from agent.wire import AttemptEvent, AttemptState, EventType
from agent.wish import Wish

ARRIVED, NOT_ARRIVED = 0, 1
LOOK_SECONDS = 0.3
TOLD_SECONDS = 5.0  # between two lines about how far it is
REFUSED_SECONDS = 10.0  # what the server has refused for so long is for a person
JOIN_SECONDS = 2.0
ASK_SECONDS = 1.0  # between two questions who answers at the address


def push(chosen: Config) -> int:
    """Return ARRIVED once all that lay here when it began is at the server and confirmed, or
    NOT_ARRIVED when the time is over or the server refuses what is left.

    Raises:
        ConfigError: there is no such run, or it cannot be sent from here.
    """
    found = status.named(chosen)
    try:
        _check_names(chosen, found)
        with ExitStack() as stack:
            pushing = [stack.enter_context(_begun(chosen, *one)) for one in found]
            left = _wait(pushing, chosen.timeout_seconds)
            trouble = _trouble(pushing)
    except (OSError, sqlite3.Error) as exc:
        raise ConfigError(f"The agent's journals cannot be read or written here: {exc}") from exc
    for line in status.lines_of(left):
        _say(f"  {line}")
    if trouble:
        _say(f"Whether the server still has the rest could not be asked: {trouble}")
    if left:
        _say("Not all of it has arrived.")
    elif not trouble:
        _say("All of it has arrived.")
    return NOT_ARRIVED if left or trouble else ARRIVED


def _check_names(chosen: Config, found: list[tuple[Path, Record]]) -> None:
    if not found:
        raise ConfigError(f"No agent has run here{status.which(chosen)}: there is nothing to send")
    for name in chosen.runs:
        if not any(_knows(name, folder, record) for folder, record in found):
            raise ConfigError(
                f"No run {name!r} was here{status.which(chosen)}: write run_001, project/run_001 "
                "or its experiment uid"
            )


def _knows(name: str, folder: Path, record: Record) -> bool:
    with behind.glance_at(folder, record) as glance:
        return glance.knows(name)


def _wait(pushing: list["Pushing"], timeout_seconds: float | None) -> list[RunBehind]:
    """Return what has not arrived in the end. A server that cannot be asked what it has is waited
    for as one that takes no file is."""
    pause, began = threading.Event(), shim.now()
    told_at = -TOLD_SECONDS
    while (left := [run for one in pushing for run in one.left()]) or _trouble(pushing):
        spent = shim.now() - began
        trouble = _trouble(pushing)
        refused = all(file.state == "refused" for run in left for file in run.files)
        in_vain = refused and not trouble and spent >= REFUSED_SECONDS
        if spent >= (timeout_seconds or float("inf")) or in_vain:
            break
        if spent - told_at >= TOLD_SECONDS:
            _say(f"to be sent: {size_words(sum(run.behind_bytes for run in left))}")
            if trouble:
                _say(f"the server cannot be asked what it has: {trouble}")
            told_at = spent
        pause.wait(LOOK_SECONDS)
    return left


def _trouble(pushing: list["Pushing"]) -> str | None:
    """Why a server could not be asked whether it still has all that it acknowledged."""
    return next((one.trouble for one in pushing if one.trouble), None)


_Key = tuple[str, int, str]
_Found = list[tuple[Attempt, set[str]]]  # attempts with the names of what the server lacks of them


def _key(run: RunBehind, file: FileBehind) -> _Key:
    return run.experiment_uid, run.attempt, file.name


class Pushing:
    """What of one agent's files lay here when it began, and has not arrived yet."""

    def __init__(
        self,
        folder: Path,
        record: Callable[[], Record],
        names: tuple[str, ...],
        missing: Missing,
        send_again: Callable[[_Found], None],
    ) -> None:
        """
        Args:
            record: of whoever sends, as it fares now.
            missing: what the server lacks of what it had.
            send_again: told what is found of that later than at the beginning.
        """
        self._folder, self._record, self._missing = folder, record, missing
        self._send_again = send_again
        self._doubted = {_key(run, file) for run in missing.left() for file in run.files}
        self._wanted = {
            _key(run, file): file
            for run in self._runs()
            if not names or any(run.is_called(name) for name in names)
            for file in run.files
        }

    def left(self) -> list[RunBehind]:
        """What has arrived once is not waited for again, or a script that writes on would never
        let this end."""
        left, waits = self._missing.left(), dict[_Key, FileBehind]()
        if news := self._missing.news():
            self._doubted |= {_key(run, file) for run in left for file in run.files}
            self._send_again(news)
        for run in self._runs():  # after that: what is doubted is behind, and is lacking no more
            files = {_key(run, file): file for file in run.files}
            self._wanted |= {key: files[key] for key in self._doubted & files.keys()}
            self._doubted -= files.keys()
            files = {key: file for key, file in files.items() if self._waits_for(key, file, run)}
            waits |= {key: self._wanted[key] for key in files}
            if files:
                left.append(replace(run, files=list(files.values())))
        self._wanted = waits
        return left

    @property
    def trouble(self) -> str | None:
        return self._missing.trouble

    def _waits_for(self, key: _Key, now: FileBehind, run: RunBehind) -> bool:
        return key in self._wanted and not _is_reached(self._wanted[key], now, run)

    def _runs(self) -> list[RunBehind]:
        with behind.glance_at(self._folder, self._record()) as glance:
            return glance.runs()


def _is_reached(first: FileBehind, now: FileBehind, run: RunBehind) -> bool:
    """Whether what `first` was has arrived, although there is more by now."""
    if run.ended:
        return False  # all of it is to be confirmed
    if now.grows:
        same = first.generation in (None, now.generation)
        return same and now.acked_bytes >= first.size_bytes
    return now.is_confirmed and (now.generation or 0) > (first.generation or 0)


@contextmanager
def _begun(chosen: Config, folder: Path, record: Record) -> Iterator[Pushing]:
    """Asked of the agent that runs, or sent from here."""
    meant = replace(chosen, server=record.server, host_id=record.host_id)
    missing = Missing(folder, _connection(meant, State(folder)), chosen.runs)
    if record.alive:
        wish = Wish(folder)

        def ask_agent(found: _Found) -> None:
            wish.make([attempt.id for attempt, _names in found])

        ask_agent(missing.news())
        yield Pushing(
            folder, lambda: presence.read(folder) or record, chosen.runs, missing, ask_agent
        )
        return
    with _sending(meant, folder, record, missing.news()) as (sender, send_again):
        yield Pushing(folder, sender, chosen.runs, missing, send_again)


@contextmanager
def _sending(
    chosen: Config, folder: Path, record: Record, found: _Found
) -> Iterator[tuple[Callable[[], Record], Callable[[_Found], None]]]:
    """Send what is under way within the block, as the agent would, and what is lacking again. Jobs
    are not touched, and nothing is said of them.

    Args:
        found: what is lacking by now; what is found later is for the second of what is yielded.

    Raises:
        ConfigError: an agent runs there, or the host is not enrolled.
    """
    state = State(folder)
    with (
        state.locked(),
        closing(Store(folder / "journal.sqlite3")) as store,
        closing(Store(folder / "files.sqlite3")) as files,
    ):
        connect = _connection(chosen, state)
        identity = ServerIdentity(store)
        root = behind.workspace_of(record)
        sync = FileSync(
            files,
            lambda: connect().asking_first(identity.check),
            root,
            rights_in=UserFolders(root).rights_in,
        )
        journal = Journal(store)

        def watch(attempt: Attempt, again: set[str]) -> None:
            _watch(sync, attempt, behind.outputs_of(attempt, folder, root), again)

        def send_again(found: _Found) -> None:
            for attempt, names in found:
                journal.reopen(attempt.id)
                watch(attempt, names)

        send_again(found)
        doubted = {attempt.id for attempt, _names in found}
        for attempt in journal.attempts():
            if attempt.id not in doubted:
                watch(attempt, set())
        here = _in_the_place_of(record, root)
        with _running(sync), closing(connect()) as transport:
            yield StandIn(here, identity, transport, sync).record, send_again
            _tell_arrived(identity, transport, journal, sync)


def _tell_arrived(
    identity: ServerIdentity, transport: Transport, journal: Journal, sync: FileSync
) -> None:
    """What polls of an agent would say. A server of an older version does not ask for it."""
    with suppress(AgentError):
        identity.check()
        for attempt in journal.attempts():
            watched = attempt.state is AttemptState.EXITED and attempt.run_dir is not None
            if watched and sync.settled(attempt.id):
                transport.event(attempt.id, AttemptEvent(str(uuid.uuid4()), EventType.ARRIVED))


def _in_the_place_of(record: Record, root: Path) -> Record:
    """This process, as the agent that left that note and runs no more."""
    here = presence.of_this_process(record.server, record.host_id, Path(record.workdir))
    return replace(
        here,
        workspace=str(root),
        answered_at=record.answered_at,
        version=record.version,
        program=record.program,
        arguments=record.arguments,
        directory=record.directory,
    )


def _watch(sync: FileSync, attempt: Attempt, outputs: Outputs | None, again: set[str]) -> None:
    order = attempt.order
    if attempt.run_dir is None:
        return
    if outputs is not None and again:
        outputs.note_again({name.removeprefix(f"{order.run_name}/") for name in again})
    sync.watch(
        attempt.id,
        order.experiment_uid,
        order.project,
        order.run_name,
        order.number,
        Path(attempt.run_dir),
        policy=order.sync,
        ignore=order.ignore,
        outputs=outputs,
        secret_names=order.secret_names,
    )
    if attempt.state is AttemptState.EXITED:
        sync.exited(attempt.id)
    if again:
        sync.doubt(attempt.id, again)


def _connection(chosen: Config, state: State) -> Callable[[], Transport]:
    credential = state.credential()
    if credential is None or not credential.enrolled:
        raise ConfigError(f"This host is not enrolled at {chosen.server}: lab-agent enroll")
    ca_file = enroll.pinned_ca(chosen, state)
    return lambda: Transport(chosen.server, credential.token, ca_file)


@contextmanager
def _running(sync: FileSync) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=sync.run, args=(stop,), name="files", daemon=True)
    thread.start()
    try:
        yield
    finally:  # Ctrl-C too: what was acknowledged is journalled, the rest is sent another time
        stop.set()
        sync.nudge()
        thread.join(JOIN_SECONDS)


class StandIn:
    """Does for the files what the heartbeat of an agent does: it sees who is at the address."""

    def __init__(
        self, here: Record, identity: ServerIdentity, transport: Transport, sync: FileSync
    ) -> None:
        self._here = here
        self._identity, self._transport, self._sync = identity, transport, sync
        self._asked_seconds = float("-inf")

    def record(self) -> Record:
        """This process, as the agent in whose place it stands."""
        if shim.now() - self._asked_seconds >= ASK_SECONDS:
            self._asked_seconds = shim.now()
            was, trouble = self._here.trouble, self._trouble()
            self._here = replace(self._here, trouble=trouble)
            if was and not trouble:
                self._sync.nudge()
        return self._here

    def _trouble(self) -> str | None:
        try:
            ours = self._identity.is_ours(self._transport.whoami().server_id)
        except AgentError as exc:
            self._identity.away()
            return str(exc)
        return None if ours else ANOTHER_SERVER


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
