"""Readings of cards, from an NVML that answers as told."""

import os
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from agent import gpus
from agent.gpus import NVML, GPUWatch
from agent.wire import GPUReading
from tests.agent.conftest import eventually

GIB = 1024**3


class NVMLError(Exception):
    pass


class FakeNVML:
    """Two cards. A question whose name is in `broken` fails."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = NVML_MEMORY_ERROR_TYPE_UNCORRECTED = NVML_VOLATILE_ECC = 0
    NVML_AGGREGATE_ECC, NVML_CLOCK_GRAPHICS, NVML_CLOCK_MEM = 1, 0, 2
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    nvmlEventTypeXidCriticalError = 8

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.processes: list[Any] = []
        self.xids: list[int] = []
        self.told: list[str] = []  # of beginnings and ends, in order
        self.throttled = 0x01  # idle

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in object.__getattribute__(self, "broken"):
            return lambda *_: self.fail()
        return object.__getattribute__(self, name)

    def fail(self) -> Any:
        raise NVMLError("no")

    def nvmlInit(self) -> None:
        self.told.append("init")

    def nvmlShutdown(self) -> None:
        self.told.append("shutdown")

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"550.54.15"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 12040

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, card: int) -> str:
        return f"GPU-{card}"

    def nvmlDeviceGetName(self, card: int) -> str:
        return "NVIDIA H100"

    def nvmlDeviceGetMemoryInfo(self, card: int) -> Any:
        return SimpleNamespace(used=2 * GIB, total=80 * GIB)

    def nvmlDeviceGetUtilizationRates(self, card: int) -> Any:
        return SimpleNamespace(gpu=97)

    def nvmlDeviceGetTemperature(self, card: int, sensor: int) -> int:
        return 61

    def nvmlDeviceGetPowerUsage(self, card: int) -> int:
        return 312_500

    def nvmlDeviceGetEnforcedPowerLimit(self, card: int) -> int:
        return 700_000

    def nvmlDeviceGetTotalEccErrors(self, card: int, kind: int, counter: int) -> int:
        return 7 if counter == self.NVML_AGGREGATE_ECC else 0

    def nvmlDeviceGetClockInfo(self, card: int, clock: int) -> int:
        return 1980 if clock == self.NVML_CLOCK_GRAPHICS else 2619

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, card: int) -> int:
        return self.throttled

    def nvmlDeviceGetRemappedRows(self, card: int) -> tuple[int, int, int, int]:
        return (0, 1, 1, 0)

    def nvmlDeviceGetComputeRunningProcesses(self, card: int) -> list[Any]:
        return self.processes if card == 0 else []

    def nvmlDeviceGetGraphicsRunningProcesses(self, card: int) -> list[Any]:
        return []

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlDeviceRegisterEvents(self, card: int, kind: int, events: object) -> None: ...

    def nvmlEventSetWait_v2(self, events: object, timeout: int) -> Any:
        if not self.xids:
            raise NVMLError("timeout")
        return SimpleNamespace(device=1, eventData=self.xids.pop(0))


def reading(**fields: Any) -> GPUReading:
    return GPUReading(**{"uuid": "GPU-0", "index": 0, "name": "H100", **fields})


def test_a_card_is_read_with_units_and_its_processes_with_their_owner() -> None:
    nvml = FakeNVML()
    nvml.processes = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=GIB)]

    read = NVML({os.getpid(): "attempt-1"}.get, nvml)
    first, second = read.read()

    assert first.memory_used_bytes == 2 * GIB
    assert first.power_watts == 312.5
    assert first.utilization_percent == 97.0
    [process] = first.processes
    assert (process.memory_bytes, process.attempt_id) == (GIB, "attempt-1")
    assert process.user != "?"
    assert second.uuid == "GPU-1"
    assert (read.driver_version, read.cuda_version) == ("550.54.15", "12.4")


@pytest.mark.parametrize(
    ("question", "field"),
    [
        ("nvmlDeviceGetMemoryInfo", "memory_used_bytes"),
        ("nvmlDeviceGetUtilizationRates", "utilization_percent"),
        ("nvmlDeviceGetTemperature", "temperature_celsius"),
        ("nvmlDeviceGetPowerUsage", "power_watts"),
        ("nvmlDeviceGetEnforcedPowerLimit", "power_limit_watts"),
        ("nvmlDeviceGetTotalEccErrors", "ecc_errors"),
        ("nvmlDeviceGetClockInfo", "graphics_clock_mhz"),
        ("nvmlDeviceGetRemappedRows", "remap_pending"),
    ],
)
def test_a_question_that_fails_costs_its_own_value_only(question: str, field: str) -> None:
    nvml = FakeNVML()
    nvml.broken = {question}

    first, _ = NVML(lambda pid: None, nvml).read()

    values = {
        *("memory_used_bytes", "utilization_percent", "temperature_celsius"),
        *("power_watts", "power_limit_watts", "ecc_errors"),
        *("graphics_clock_mhz", "remap_pending"),
    }
    assert getattr(first, field) is None
    assert all(getattr(first, other) is not None for other in values - {field})


def test_clocks_are_told_with_why_they_are_held_down_and_errors_of_a_lifetime() -> None:
    nvml = FakeNVML()
    nvml.throttled = 0x01 | 0x02 | 0x08 | 0x40

    first, _ = NVML(lambda pid: None, nvml).read()

    assert (first.graphics_clock_mhz, first.memory_clock_mhz) == (1980, 2619)
    assert first.throttle_reasons == ["hw_slowdown", "hw_thermal"]
    assert (first.ecc_errors, first.ecc_errors_lifetime, first.remap_pending) == (0, 7, True)


@pytest.mark.parametrize(("value", "answers"), [(12, None), (9, False)])
def test_a_host_without_a_driver_has_no_cards_and_one_that_fails_is_told(
    value: int, answers: bool | None
) -> None:
    nvml = FakeNVML()
    nvml.nvmlInit = lambda: _raise(value)  # type: ignore[method-assign]
    read = NVML(lambda pid: None, nvml)

    assert read.read() == []
    assert read.answers is answers


def _raise(value: int) -> None:
    error = NVMLError("no")
    error.value = value  # type: ignore[attr-defined]
    raise error


@pytest.mark.parametrize(
    "question", ["nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"], ids=["driver", "all cards"]
)
def test_after_a_driver_reload_nvml_is_begun_anew_and_nothing_of_the_old_one_is_used(
    monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    monkeypatch.setattr(gpus, "INIT_AGAIN_SECONDS", 0.0)
    nvml = FakeNVML()
    nvml.xids = [79]
    read = NVML(lambda pid: None, nvml)
    assert len(read.read()) == 2
    assert read.answers

    nvml.broken = {question}
    assert read.read() == []
    assert read.answers is (question != "nvmlDeviceGetCount")
    assert read._events is None

    nvml.broken = set()
    assert [card.xid_errors for card in read.read()] == [[], [79]]
    assert nvml.told == ["init", "shutdown", "init"]


def test_a_card_off_the_bus_costs_the_others_nothing() -> None:
    nvml = FakeNVML()
    nvml.nvmlDeviceGetHandleByIndex = (  # type: ignore[method-assign]
        lambda index: nvml.fail() if index == 0 else index
    )
    read = NVML(lambda pid: None, nvml)

    assert [card.uuid for card in read.read()] == ["GPU-1"]
    assert read.answers


def test_this_hosts_own_library_is_asked_without_harm() -> None:
    assert isinstance(NVML(lambda pid: None).read(), list)


def test_critical_errors_are_kept_with_their_card() -> None:
    nvml = FakeNVML()
    nvml.xids = [79, 48]

    first, second = NVML(lambda pid: None, nvml).read()

    assert first.xid_errors == []
    assert second.xid_errors == [79, 48]


def test_a_hung_driver_holds_up_nobody_and_its_old_values_are_not_given_as_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hangs, stop = threading.Event(), threading.Event()
    first = reading(memory_used_bytes=GIB, xid_errors=[79], used_elsewhere=True)
    answers = iter([lambda: [first], lambda: hangs.wait() and []])
    watch = GPUWatch(lambda: next(answers)() or [], interval_seconds=0.01)
    thread = threading.Thread(target=watch.run, args=(stop,), daemon=True)
    thread.start()
    eventually(lambda: watch.memory_used(["GPU-0"]) == {"GPU-0": GIB})

    monkeypatch.setattr(gpus, "OLD_SECONDS", -1.0)
    [old] = watch.latest()

    assert (old.uuid, old.memory_used_bytes, old.used_elsewhere) == ("GPU-0", None, True)
    assert old.xid_errors == [79], "forgotten and told again, they would look new"
    assert not watch.is_fresh
    assert watch.newer(than_seconds=float("inf"), timeout_seconds=0.01) is None
    stop.set()
    hangs.set()
    watch.nudge()
    thread.join()


def test_a_process_belongs_to_the_attempt_whose_session_or_ancestor_it_is() -> None:
    pid = os.getpid()

    assert gpus.Owners(lambda: {os.getppid(): "attempt-1"}).attempt_of(pid) == "attempt-1"
    assert gpus.Owners(lambda: {os.getsid(0): "attempt-2"}).attempt_of(pid) == "attempt-2"
    assert gpus.Owners(dict).attempt_of(pid) is None
