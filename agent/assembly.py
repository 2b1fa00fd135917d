"""The agent put together: which loop gets what."""

import logging
import os
import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from agent import gpus, host, users, uvproject, wire, workspace
from agent.attempts import Attempts
from agent.code import folders
from agent.code.cache import CodeCache
from agent.code.caches import Caches
from agent.code.laying import CodeLaying
from agent.code.source import SourceWatch
from agent.config import Config
from agent.daemon import Daemon, Loop
from agent.errors import AgentError
from agent.events import EventLoop
from agent.files import resume, userfolders
from agent.files.audit import Audit
from agent.files.bandwidth import Bandwidth
from agent.files.filejournal import FileJournal
from agent.files.filesync import FileSync
from agent.files.keeping import Keeping
from agent.files.userfolders import UserFolders
from agent.gpuchoice import GPUChoice
from agent.gpulock import GPULocks, lock_folder
from agent.heartbeat import Hardware, HeartbeatLoop, Instance
from agent.identity import ServerIdentity
from agent.journal import Journal
from agent.lacks import Lacks
from agent.poll import PollLoop
from agent.presence import Presence
from agent.service.notify import Notifier
from agent.state import State
from agent.store import Store
from agent.surroundings import Surroundings
from agent.transport import Transport
from agent.wire import AttemptOrder, GPUReading, JobUser
from agent.wish import Wish
from agent.workspace import Workspace

logger = logging.getLogger(__name__)


class Agent:
    """All parts of one agent that is enrolled. Nothing runs before run()."""

    def __init__(
        self,
        config: Config,
        state: State,
        store: Store,
        connect: Callable[[], Transport],
        presence: Presence,
    ) -> None:
        """`connect` makes a transport with the agent's token; each loop gets its own."""
        self._connect = connect
        self._presence = presence
        self._notifier = Notifier()
        self._store = store
        self._stop = threading.Event()
        self._daemon = Daemon(self._stop)
        self._instance = Instance(str(uuid.uuid4()), store.get("instance_id"))
        self._journal = Journal(store)
        self._lacks = Lacks(store, as_submitter=config.run_as is JobUser.SUBMITTER)
        self._server = ServerIdentity(store, config.accept_new_server)
        self._locks = GPULocks(lock_folder(config.lock_dir))
        self._choice = GPUChoice(config.gpus)
        self._nvml, self._gpus = self._gpu_watch(config)
        root = self._claim_workspace(config)
        presence.works_in(root)
        self._folders = UserFolders(root)
        self._keeping: Keeping | None = None
        files = Store(state.folder / "files.sqlite3")
        self._files = self._file_sync(config, files, state, root)
        self._events = EventLoop(self._to_our_server().event, self._journal)
        self._caches = self._kept_caches(config, state, root)
        self._attempts = Attempts(self._surroundings(config, state, root))
        self._audit = Audit(
            self._to_our_server, self._journal, FileJournal(files), self._attempts.offer_again
        )
        self._poll = PollLoop(
            connect().poll,
            connect().poll,
            self._attempts,
            self._server,
            self._instance.id,
            config.poll_seconds,
        )
        self._source = SourceWatch(_trusted_source(config))
        self._heartbeat = self._heartbeat_loop(config)

    def run(self) -> int:
        """Block until a signal; return the exit code. Jobs go on."""
        self._daemon.add(
            Loop("gpus", self._gpus.run, self._gpus.nudge),
            Loop("heartbeat", self._heartbeat.run, self._heartbeat.nudge),
            Loop("poll", self._poll.run, self._poll.nudge),
            Loop("prompt poll", self._poll.run_prompt, self._poll.nudge),
            Loop("events", self._events.run, self._events.nudge),
            Loop("files", self._files.run, self._files.nudge),
            Loop("audit", self._audit.run, self._audit.nudge),
            Loop("source", self._source.run, self._source.nudge),
            Loop("lacks", self._lacks.run, self._lacks.nudge),
            Loop("caches", self._caches.run, self._caches.nudge),
        )
        if self._keeping is not None:
            self._daemon.add(Loop("keeping", self._keeping.run, self._keeping.nudge))
        self._presence.begin()
        self._attempts.resume()
        self._notifier.ready()
        code = self._daemon.run()
        self._notifier.stopping()
        self._say_goodbye()
        if code == 0:
            self._presence.end()
        return code

    def _gpu_watch(self, config: Config) -> tuple[gpus.NVML | None, gpus.GPUWatch]:
        if config.simulate_gpus:
            cards = gpus.simulated(config.simulate_gpus, host.machine_id())
            return None, self._watch_of(lambda: cards, config)
        owners = gpus.Owners(lambda: self._attempts.leaders())
        nvml = gpus.NVML(owners.attempt_of)
        return nvml, self._watch_of(nvml.read, config)

    def _watch_of(self, read: Callable[[], list[GPUReading]], config: Config) -> gpus.GPUWatch:
        """Of the cards that are this agent's, with what other agents of this host have."""
        choice = self._choice
        return gpus.GPUWatch(lambda: self._locks.look(choice.of(read())), config.heartbeat_seconds)

    def _file_sync(self, config: Config, store: Store, state: State, root: Path) -> FileSync:
        bandwidth = Bandwidth(config.max_upload) if config.max_upload else None
        rights_in = self._folders.rights_in
        if config.keep_days is not None:
            self._keeping = Keeping(store, config.keep_days, rights_in)
        return FileSync(
            store,
            lambda: self._to_our_server().sharing(bandwidth),
            root,
            config.sync_seconds,
            rights_in=rights_in,
            is_pushed=partial(self._is_pushed, Wish(state.folder)),
            keeping=self._keeping,
            news=lambda: self._poll.changed(),
        )

    def _is_pushed(self, wish: Wish) -> bool:
        attempt_ids = wish.heard()
        self._audit.wish(attempt_ids or ())
        return attempt_ids is not None

    def _claim_workspace(self, config: Config) -> Path:
        parts = urlsplit(config.server)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return workspace.claim(
            config.workdir,
            parts.hostname or "",
            port,
            self._store.get("server_id") or "",
            config.host_id,
        )

    def _surroundings(self, config: Config, state: State, root: Path) -> Surroundings:
        return Surroundings(
            journal=self._journal,
            workspace=Workspace(root, self._journal),
            files=self._files,
            gpus=self._gpus,
            locks=self._locks,
            attempts_dir=state.folder / "attempts",
            source=config.source,
            fetch_config=self._fetch_config,
            lay_in=self._lay_in,
            code=self._code_laying(state),
            kept=self._caches.note,
            changed=self._changed,
            stop=self._stop,
            lacks=self._lacks,
            driver=self._driver,
            as_submitter=config.run_as is JobUser.SUBMITTER,
        )

    def _code_laying(self, state: State) -> CodeLaying:
        return CodeLaying(
            self._connect,
            CodeCache(state.folder / "code"),
            state.folder / "attempts",
            self._folders.rights_in,
            self._caches.note,
        )

    def _kept_caches(self, config: Config, state: State, root: Path) -> Caches:
        as_submitter = config.run_as is JobUser.SUBMITTER

        def rights_of(user: str) -> AbstractContextManager[None]:
            found = users.of_order(user, as_submitter=as_submitter) if user else users.own()
            return found.rights()

        caches = Caches(self._store, self._journal.attempts, rights_of)
        uv = state.folder / uvproject.NAME
        found = [*uv.glob("*"), *root.glob(f"*/{folders.NAME}/.git-*")]
        caches.adopt(path for path in found if path.is_dir())
        return caches

    def _heartbeat_loop(self, config: Config) -> HeartbeatLoop:
        hardware = Hardware(
            gpus=self._gpus.latest,
            driver=self._driver,
            source=self._source.latest,
            source_directory=config.source,
            workdir=config.workdir,
            run_as=config.run_as,
            driver_answers=self._driver_answers,
            gpus_left_out=lambda: self._choice.left_out,
            lacks=self._lacks.latest,
        )
        return HeartbeatLoop(
            self._connect().heartbeat,
            self._instance,
            hardware,
            self._server,
            config.heartbeat_seconds,
            heard=self._heard,
            turned=self._turned,
        )

    def _to_our_server(self) -> Transport:
        """For what is settled once it is acknowledged."""
        return self._connect().asking_first(self._server.check)

    def _driver(self) -> tuple[str | None, str | None]:
        return (self._nvml.driver_version, self._nvml.cuda_version) if self._nvml else (None, None)

    def _driver_answers(self) -> bool | None:
        if self._nvml is None or self._nvml.answers is None:
            return None
        return self._nvml.answers and self._gpus.is_fresh

    def _heard(self) -> None:
        """The server knows this instance from now on; whoever waited for it need not any more."""
        self._store.put("instance_id", self._instance.id)
        for waiting in (self._poll, self._events, self._files, self._audit):
            waiting.nudge()

    def _turned(self, trouble: str | None) -> None:
        self._notifier.turned(trouble)
        self._presence.turned(trouble)

    def _changed(self) -> None:
        self._events.changed()
        self._poll.changed()

    def _fetch_config(self, attempt_id: str) -> bytes:
        with closing(self._connect()) as transport:
            return transport.config(attempt_id)

    def _lay_in(self, order: AttemptOrder, run_dir: Path) -> None:
        with closing(self._connect()) as transport:
            rights = partial(self._folders.rights_in, run_dir)
            resume.lay_in(transport, order, run_dir, rights)

    def _say_goodbye(self) -> None:
        try:
            with closing(self._connect()) as transport:
                transport.goodbye(wire.Goodbye(self._instance.id))
        except AgentError as exc:
            logger.info("the server did not hear the goodbye: %s", exc)


def _trusted_source(config: Config) -> Path | None:
    by_others = config.run_as is JobUser.SUBMITTER and userfolders.open_to_others(config.source)
    return None if by_others else config.source


def checked(config: Config) -> Config:
    """What was chosen, once jobs can run as the user that it says. Before anything is written.

    Raises:
        ConfigError: they cannot, or should not, run there as other users.
    """
    if config.run_as is JobUser.SUBMITTER:
        users.check_rights()
        workdir = config.workdir.resolve()  # a link to it is not what is looked at
        userfolders.check_workdir(workdir)
        return replace(config, workdir=workdir)
    if os.geteuid() == 0:
        logger.warning("jobs run as root here: --run-as submitter runs them as their submitters")
    return config
