"""The agent put together: which loop gets what."""

import logging
import threading
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from agent import gpus, host, resume, wire, workspace
from agent.attempts import Attempts
from agent.config import Config
from agent.daemon import Daemon, Loop
from agent.errors import AgentError
from agent.events import EventLoop
from agent.filesync import FileSync
from agent.heartbeat import Hardware, HeartbeatLoop, Instance
from agent.identity import ServerIdentity
from agent.journal import Journal
from agent.poll import PollLoop
from agent.runner import Surroundings
from agent.source import SourceWatch
from agent.state import State
from agent.store import Store
from agent.transport import Transport
from agent.wire import AttemptOrder
from agent.workspace import Workspace

logger = logging.getLogger(__name__)


class Agent:
    """All parts of one agent that is enrolled. Nothing runs before run()."""

    def __init__(
        self, config: Config, state: State, store: Store, connect: Callable[[], Transport]
    ) -> None:
        """`connect` makes a transport with the agent's token; each loop gets its own."""
        self._connect = connect
        self._store = store
        self._stop = threading.Event()
        self._daemon = Daemon(self._stop)
        self._instance = Instance(str(uuid.uuid4()), store.get("instance_id"))
        self._journal = Journal(store)
        self._server = ServerIdentity(store, config.accept_new_server)
        self._nvml, self._gpus = self._gpu_watch(config)
        root = self._claim_workspace(config)
        self._files = FileSync(Store(state.folder / "files.sqlite3"), self._to_our_server, root)
        self._events = EventLoop(self._to_our_server().event, self._journal)
        self._attempts = Attempts(self._surroundings(config, state, root))
        self._poll = PollLoop(
            connect().poll,
            connect().poll,
            self._attempts,
            self._server,
            self._instance.id,
            config.poll_seconds,
        )
        self._source = SourceWatch(config.source)
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
            Loop("source", self._source.run, self._source.nudge),
        )
        self._attempts.resume()
        code = self._daemon.run()
        self._say_goodbye()
        return code

    def _gpu_watch(self, config: Config) -> tuple[gpus.NVML | None, gpus.GPUWatch]:
        if config.simulate_gpus:
            cards = gpus.simulated(config.simulate_gpus, host.machine_id())
            return None, gpus.GPUWatch(lambda: cards, config.heartbeat_seconds)
        owners = gpus.Owners(lambda: self._attempts.leaders())
        nvml = gpus.NVML(owners.attempt_of)
        return nvml, gpus.GPUWatch(nvml.read, config.heartbeat_seconds)

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
            attempts_dir=state.folder / "attempts",
            source=config.source,
            fetch_config=self._fetch_config,
            lay_in=self._lay_in,
            changed=self._changed,
            stop=self._stop,
        )

    def _heartbeat_loop(self, config: Config) -> HeartbeatLoop:
        hardware = Hardware(
            gpus=self._gpus.latest,
            driver=self._driver,
            source=self._source.latest,
            source_directory=config.source,
            workdir=config.workdir,
        )
        return HeartbeatLoop(
            self._connect().heartbeat,
            self._instance,
            hardware,
            self._server,
            config.heartbeat_seconds,
            heard=self._heard,
        )

    def _to_our_server(self) -> Transport:
        """For what is settled once it is acknowledged."""
        return self._connect().asking_first(self._server.check)

    def _driver(self) -> tuple[str | None, str | None]:
        return (self._nvml.driver_version, self._nvml.cuda_version) if self._nvml else (None, None)

    def _heard(self) -> None:
        """The server knows this instance from now on; whoever waited for it need not any more."""
        self._store.put("instance_id", self._instance.id)
        for waiting in (self._poll, self._events, self._files):
            waiting.nudge()

    def _changed(self) -> None:
        self._events.changed()
        self._poll.changed()

    def _fetch_config(self, attempt_id: str) -> bytes:
        with closing(self._connect()) as transport:
            return transport.config(attempt_id)

    def _lay_in(self, order: AttemptOrder, run_dir: Path) -> None:
        with closing(self._connect()) as transport:
            resume.lay_in(transport, order, run_dir)

    def _say_goodbye(self) -> None:
        try:
            with closing(self._connect()) as transport:
                transport.goodbye(wire.Goodbye(self._instance.id))
        except AgentError as exc:
            logger.info("the server did not hear the goodbye: %s", exc)
