"""The loop "I am alive, and so are my GPUs"."""

import itertools
import logging
import os
import platform
import random
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from agent import host, kernel, shim, wire
from agent.backoff import Bell
from agent.complaint import Complaint
from agent.errors import AgentError, Unauthorized, WrongProtocol
from agent.identity import ServerIdentity
from agent.interpreters import Interpreter

logger = logging.getLogger(__name__)

HOPELESS_SECONDS = 60.0
ANOTHER_SERVER = "another server answers at that address: the log says more"
DISK_SECONDS = 0.2  # that a beat waits for a disk to tell how full it is
OLD_DISK_SECONDS = 60.0
JITTER = 0.1  # so that agents started together do not beat together for ever


@dataclass(frozen=True)
class Instance:
    """This run of the agent, and the one before it on the same state."""

    id: str
    previous_id: str | None


@dataclass(frozen=True)
class Hardware:
    """Where a beat's readings come from; each returns at once."""

    gpus: Callable[[], list[wire.GPUReading]]
    driver: Callable[[], tuple[str | None, str | None]]  # driver's and CUDA's version
    source: Callable[[], wire.Source | None]
    source_directory: Path
    workdir: Path
    run_as: wire.JobUser = wire.JobUser.AGENT
    #: None: there is no driver, or only simulated cards.
    driver_answers: Callable[[], bool | None] = lambda: None
    gpus_left_out: Callable[[], list[str]] = list  # UUIDs; `--gpus` names others
    lacks: Callable[[], list[wire.Lack]] = list


class HeartbeatLoop:
    """Beats at its own pace whatever else goes on, and never gives up."""

    def __init__(
        self,
        send: Callable[[wire.Heartbeat], wire.HeartbeatReply],
        instance: Instance,
        hardware: Hardware,
        server: ServerIdentity,
        interval_seconds: float,
        heard: Callable[[], None],
        turned: Callable[[str | None], None] = lambda trouble: None,
    ) -> None:
        """`heard` is called when the server answers for the first time, or again; `turned` after
        each beat, with why it was not answered, or None."""
        self._send = send
        self._instance = instance
        self._hardware = hardware
        self._server = server
        self._own_interval = self._interval = interval_seconds
        self._heard = heard
        self._turned = turned
        self._trouble: str | None = None
        self._silent = True
        self._numbers = itertools.count(1)
        self._constant = _constant_facts()
        self._load = kernel.Load()
        self._disk = _Disk(hardware.workdir)
        self._bell = Bell()
        self._complaint = Complaint(logger)

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            began = shim.now()
            pause = self.beat()
            self._turned(self._trouble)
            self._bell.wait(max(0.0, began + pause - shim.now()))

    def nudge(self) -> None:
        """It is time to stop."""
        self._bell.ring()

    def beat(self) -> float:
        """Send one beat. Return how many seconds after its beginning the next is due."""
        try:
            reply = self._send(self._message())
        except Unauthorized as exc:
            self._wrong(f"The server does not accept this agent's token: {exc}")
            return HOPELESS_SECONDS
        except WrongProtocol as exc:
            self._wrong(f"Agent and server are of different versions: {exc}")
            return HOPELESS_SECONDS
        except AgentError as exc:
            self._wrong(f"heartbeat failed: {exc}")
            return self._interval
        ours = self._server.is_ours(reply.server_id)
        self._trouble = None if ours else ANOTHER_SERVER
        if self._silent:
            self._silent = False
            self._complaint.over("the server answers heartbeats again")
            self._heard()
        asked = min(reply.next_heartbeat_seconds, wire.MAX_HEARTBEAT_SECONDS)
        self._interval = max(self._own_interval, asked)
        return self._interval * random.uniform(1 - JITTER, 1)  # noqa: S311 - not a secret

    def _wrong(self, text: str) -> None:
        self._silent = True
        self._trouble = text
        self._server.away()
        self._complaint.about(text)

    def _message(self) -> wire.Heartbeat:
        memory, disk = kernel.memory(), self._disk.latest()
        driver, cuda = self._hardware.driver()
        return fitting(
            replace(
                self._constant,
                instance_id=self._instance.id,
                previous_instance_id=self._instance.previous_id,
                seq=next(self._numbers),
                interval_seconds=self._interval,
                cpu_percent=self._load.percent(),
                memory_used_bytes=memory.used_bytes,
                memory_total_bytes=memory.total_bytes,
                disk_free_bytes=disk.free_bytes if disk else None,
                disk_total_bytes=disk.total_bytes if disk else None,
                driver_version=driver,
                cuda_version=cuda,
                source_directory=str(self._hardware.source_directory),
                source=self._hardware.source(),
                run_as=self._hardware.run_as,
                gpus=self._hardware.gpus(),
                driver_answers=self._hardware.driver_answers(),
                gpus_left_out=self._hardware.gpus_left_out()[: wire.MAX_GPUS],
                lacks=self._hardware.lacks(),
            )
        )


class _Disk:
    """How full a disk is. It is asked in a thread of its own: one that hangs, as a network's does
    whose server is away, holds up no beat, and one that is gone keeps none from being sent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: kernel.Disk | None = None
        self._told_seconds = 0.0
        self._asked, self._told = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._answer, name="disk", daemon=True)

    def latest(self) -> kernel.Disk | None:
        """As it told last; None: it cannot be asked, or has told nothing for long."""
        if not self._thread.is_alive():
            self._thread.start()
        self._told.clear()
        self._asked.set()
        self._told.wait(DISK_SECONDS)
        is_old = shim.now() - self._told_seconds > OLD_DISK_SECONDS
        return None if is_old else self._last

    def _answer(self) -> None:
        while self._asked.wait():
            self._asked.clear()
            try:
                self._last = kernel.disk(self._path)
            except OSError:
                self._last = None
            self._told_seconds = shim.now()
            self._told.set()


def fitting(beat: wire.Heartbeat) -> wire.Heartbeat:
    """The beat with as many GPU processes as its limit of 64 KiB leaves room for."""
    kept = 256
    while len(wire.dumps(beat)) > wire.MAX_HEARTBEAT_BYTES and kept:
        kept //= 4
        beat = replace(beat, gpus=[replace(g, processes=g.processes[:kept]) for g in beat.gpus])
    return beat


def agent_version() -> str:
    try:
        return version("labsite")
    except PackageNotFoundError:  # run from a copied folder
        return "unknown"


def _constant_facts() -> wire.Heartbeat:
    return wire.Heartbeat(
        instance_id="",
        boot_id=shim.boot_id(),
        seq=0,
        agent_version=agent_version(),
        interval_seconds=1.0,
        cpu_count=os.cpu_count(),
        torch_version=Interpreter(Path(sys.prefix), {}).torch_version(),
        python_version=platform.python_version(),
        unix_user=host.unix_user(),
    )
