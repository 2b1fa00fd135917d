"""The GPUs of this host, as NVML sees them.

A driver that will not answer one question still answers the others: each value is read by
itself, and None where it failed. A driver may also hang, for minutes, with a card that fell off
the bus: GPUWatch reads in a thread of its own, so the heartbeat never waits for it.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pynvml

from agent import kernel, shim
from agent.wire import SIMULATED, GPUProcess, GPUReading

logger = logging.getLogger(__name__)

INIT_AGAIN_SECONDS = 60.0  # a driver may be installed, or come back, while we run
OLD_SECONDS = 10.0  # a reading older than this says nothing about now
XIDS_KEPT = 64
PROCESSES_KEPT = 256
#: NVML's bits that say why clocks are held down. Being idle, or set so by a person, is no reason.
THROTTLE_REASONS = {
    0x04: "power_cap",
    0x08: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "power_brake",
}


class NVML:
    """Readings of all cards. Without a driver there are none, and that is no error."""

    def __init__(self, attempt_of: Callable[[int], str | None], nvml: Any = pynvml) -> None:
        """`attempt_of` names the attempt that a process belongs to, None: no job of ours."""
        self._nvml = nvml
        self._attempt_of = attempt_of
        self._ready = False
        self._next_init = 0.0
        self._xids: dict[str, list[int]] = {}
        self._events: Any = None
        #: Whether the driver answered when it was last asked; None: there is none.
        self.answers: bool | None = None
        self.driver_version: str | None = None
        self.cuda_version: str | None = None

    def read(self) -> list[GPUReading]:
        if not self._initialised():
            return []
        self._collect_xids()
        count = self._ask(self._nvml.nvmlDeviceGetCount)
        self.answers = count is not None
        cards = [self._card(index) for index in range(count or 0)]
        readings = [card for card in cards if card is not None]
        if count is None or (cards and not readings):
            self._begin_anew()
        return readings

    def _initialised(self) -> bool:
        if not self._ready and shim.now() >= self._next_init:
            self._next_init = shim.now() + INIT_AGAIN_SECONDS
            try:
                self._nvml.nvmlInit()
            except self._nvml.NVMLError as exc:
                logger.debug("no NVML: %s", exc)
                absent = getattr(exc, "value", None) == self._nvml.NVML_ERROR_LIBRARY_NOT_FOUND
                self.answers = None if absent else False
            else:
                self._ready = True
                self.driver_version = _text(self._ask(self._nvml.nvmlSystemGetDriverVersion))
                cuda = self._ask(self._nvml.nvmlSystemGetCudaDriverVersion_v2)
                self.cuda_version = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None
                self._listen_for_xids()
        return self._ready

    def _begin_anew(self) -> None:
        """The driver was unloaded, or knows no card any more: only a new beginning finds what is
        loaded next. What was asked of the old one must not be used again, its events neither."""
        self._ready, self._events = False, None
        self._next_init = shim.now() + INIT_AGAIN_SECONDS
        self._ask(self._nvml.nvmlShutdown)

    def _ask(self, question: Callable[..., Any], *about: Any) -> Any:
        try:
            return question(*about)
        except (self._nvml.NVMLError, AttributeError):  # an old driver lacks whole functions
            return None

    def _card(self, index: int) -> GPUReading | None:
        nvml = self._nvml
        card = self._ask(nvml.nvmlDeviceGetHandleByIndex, index)
        uuid = _text(self._ask(nvml.nvmlDeviceGetUUID, card)) if card is not None else None
        if uuid is None:
            return None  # a lost card is not offered; its attempt goes on or fails by itself
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, card)
        load = self._ask(nvml.nvmlDeviceGetUtilizationRates, card)
        return GPUReading(
            uuid=uuid,
            index=index,
            name=_text(self._ask(nvml.nvmlDeviceGetName, card)) or "GPU",
            memory_used_bytes=memory and int(memory.used),
            memory_total_bytes=memory and int(memory.total),
            utilization_percent=load and min(100.0, float(load.gpu)),
            temperature_celsius=self._ask(
                nvml.nvmlDeviceGetTemperature, card, nvml.NVML_TEMPERATURE_GPU
            ),
            power_watts=_watts(self._ask(nvml.nvmlDeviceGetPowerUsage, card)),
            power_limit_watts=_watts(self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit, card)),
            xid_errors=list(self._xids.get(uuid, [])),
            ecc_errors=self._ask(
                nvml.nvmlDeviceGetTotalEccErrors,
                card,
                nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                nvml.NVML_VOLATILE_ECC,
            ),
            processes=self._processes(card),
            graphics_clock_mhz=self._ask(
                nvml.nvmlDeviceGetClockInfo, card, nvml.NVML_CLOCK_GRAPHICS
            ),
            memory_clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, card, nvml.NVML_CLOCK_MEM),
            throttle_reasons=self._throttle_reasons(card),
            ecc_errors_lifetime=self._ask(
                nvml.nvmlDeviceGetTotalEccErrors,
                card,
                nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                nvml.NVML_AGGREGATE_ECC,
            ),
            remap_pending=self._remap_pending(card),
        )

    def _throttle_reasons(self, card: Any) -> list[str]:
        bits = self._ask(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons, card) or 0
        return [word for bit, word in THROTTLE_REASONS.items() if bits & bit]

    def _remap_pending(self, card: Any) -> bool | None:
        rows = self._ask(self._nvml.nvmlDeviceGetRemappedRows, card)
        return None if rows is None else bool(rows[2])

    def _processes(self, card: Any) -> list[GPUProcess]:
        used: dict[int, int | None] = {}
        for question in (
            self._nvml.nvmlDeviceGetComputeRunningProcesses,
            self._nvml.nvmlDeviceGetGraphicsRunningProcesses,
        ):
            for process in self._ask(question, card) or []:
                used[process.pid] = process.usedGpuMemory or used.get(process.pid)
        return [
            GPUProcess(pid, kernel.user_of(pid) or "?", memory, self._attempt_of(pid))
            for pid, memory in list(used.items())[:PROCESSES_KEPT]
        ]

    def _listen_for_xids(self) -> None:
        nvml = self._nvml
        self._events = self._ask(nvml.nvmlEventSetCreate)
        for index in range(self._ask(nvml.nvmlDeviceGetCount) or 0):
            card = self._ask(nvml.nvmlDeviceGetHandleByIndex, index)
            xid = nvml.nvmlEventTypeXidCriticalError
            self._ask(nvml.nvmlDeviceRegisterEvents, card, xid, self._events)

    def _collect_xids(self) -> None:
        nvml = self._nvml
        while self._events is not None:
            event = self._ask(nvml.nvmlEventSetWait_v2, self._events, 0)
            if event is None:  # none is waiting: NVML calls that a timeout
                return
            uuid = _text(self._ask(nvml.nvmlDeviceGetUUID, event.device)) or "?"
            kept = [*self._xids.get(uuid, []), int(event.eventData)]
            self._xids[uuid] = kept[-XIDS_KEPT:]


def simulated(count: int, machine_id: str) -> list[GPUReading]:
    """Cards that do not exist, for trying the lab out on a host without any."""
    return [
        GPUReading(
            uuid=f"{SIMULATED}{machine_id[:12]}-{index}",
            index=index,
            name="Simulated GPU",
            memory_used_bytes=0,
            memory_total_bytes=24 * 1024**3,
            utilization_percent=0.0,
            simulated=True,
        )
        for index in range(count)
    ]


@dataclass(frozen=True)
class _Snapshot:
    read_at_seconds: float = 0.0  # CLOCK_BOOTTIME
    readings: list[GPUReading] = field(default_factory=list)


class GPUWatch:
    """Reads the cards each second, and keeps the last reading for whoever asks."""

    def __init__(self, read: Callable[[], list[GPUReading]], interval_seconds: float) -> None:
        self._read = read
        self._interval = interval_seconds
        self._last = _Snapshot()
        self._fresh = threading.Condition()
        self._asked = threading.Event()

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._asked.clear()
            began = shim.now()  # what ends after this moment may still be in the reading
            snapshot = _Snapshot(began, self._read())
            with self._fresh:
                self._last = snapshot
                self._fresh.notify_all()
            self._asked.wait(self._interval)

    def nudge(self) -> None:
        self._asked.set()

    def latest(self) -> list[GPUReading]:
        """The cards now. Values are None when the driver has not answered for 10 s."""
        last = self._begun()
        return last.readings if self.is_fresh else [_what_stays(r) for r in last.readings]

    @property
    def is_fresh(self) -> bool:
        """Whether the last reading tells of now, and the driver does not hang."""
        return shim.now() - self._last.read_at_seconds <= OLD_SECONDS

    def newer(self, than_seconds: float, timeout_seconds: float) -> list[GPUReading] | None:
        """A reading begun after `than_seconds` (CLOCK_BOOTTIME), or None if there comes none."""
        self.nudge()
        with self._fresh:
            if self._fresh.wait_for(
                lambda: self._last.read_at_seconds > than_seconds, timeout_seconds
            ):
                return self._last.readings
        return None

    def indices(self) -> dict[str, int]:
        return {reading.uuid: reading.index for reading in self._begun().readings}

    def _begun(self) -> _Snapshot:
        """The last reading; at the very start the first one, which may take a driver seconds."""
        with self._fresh:
            self._fresh.wait_for(lambda: self._last.read_at_seconds > 0, OLD_SECONDS)
            return self._last

    def memory_used(self, uuids: list[str]) -> dict[str, int]:
        """UUID → bytes in use, for those of `uuids` whose card says so."""
        return {
            r.uuid: r.memory_used_bytes
            for r in self._last.readings
            if r.uuid in uuids and r.memory_used_bytes is not None
        }


def _what_stays(reading: GPUReading) -> GPUReading:
    """What is true of a card also while its driver hangs; errors that happened did happen."""
    return GPUReading(
        uuid=reading.uuid,
        index=reading.index,
        name=reading.name,
        simulated=reading.simulated,
        xid_errors=reading.xid_errors,
        used_elsewhere=reading.used_elsewhere,
    )


class Owners:
    """Which attempt a process belongs to: by its variable, its session, or its ancestors."""

    def __init__(self, leaders: Callable[[], Mapping[int, str]]) -> None:
        """`leaders` gives pid → attempt id of the supervisors and commands that run now."""
        self._leaders = leaders
        self._known: dict[tuple[int, int], str | None] = {}

    def attempt_of(self, pid: int) -> str | None:
        process = shim.stat(pid)
        if process is None:
            return None
        key = (pid, process[2])
        if key not in self._known:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[key] = _variable(pid) or self._by_kinship(pid)
        return self._known[key]

    def _by_kinship(self, pid: int) -> str | None:
        leaders = self._leaders()
        with suppress(OSError):
            if found := leaders.get(os.getsid(pid)):
                return found
        while pid > 1:
            if pid in leaders:
                return leaders[pid]
            process = shim.stat(pid)
            pid = process[1] if process else 0
        return None


def _variable(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            for item in file.read().split(b"\0"):
                if item.startswith(b"LAB_ATTEMPT_ID="):
                    return item.partition(b"=")[2].decode(errors="replace")
    except OSError:  # another user's
        pass
    return None


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000
