"""Readings of cards, from an NVML that answers as told."""

import os
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from agent import gpus
from agent.gpus import NVML, GPUWatch, still_held
from agent.wire import GPUProcess, GPUReading
from tests.agent.conftest import eventually

GIB = 1024**3


class NVMLError(Exception):
    pass


class FakeNVML:
    """Two cards. A question whose name is in `broken` fails."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = NVML_MEMORY_ERROR_TYPE_UNCORRECTED = NVML_VOLATILE_ECC = 0
    nvmlEventTypeXidCriticalError = 8

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.processes: list[Any] = []
        self.xids: list[int] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in object.__getattribute__(self, "broken"):
            return lambda *_: self.fail()
        return object.__getattribute__(self, name)

    def fail(self) -> Any:
        raise NVMLError("no")

    def nvmlInit(self) -> None: ...

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
        return 0

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
    ],
)
def test_a_question_that_fails_costs_its_own_value_only(question: str, field: str) -> None:
    nvml = FakeNVML()
    nvml.broken = {question}

    first, _ = NVML(lambda pid: None, nvml).read()

    values = {
        *("memory_used_bytes", "utilization_percent", "temperature_celsius"),
        *("power_watts", "power_limit_watts", "ecc_errors"),
    }
    assert getattr(first, field) is None
    assert all(getattr(first, other) is not None for other in values - {field})


def test_a_host_without_a_driver_has_no_cards() -> None:
    nvml = FakeNVML()
    nvml.broken = {"nvmlInit"}

    assert NVML(lambda pid: None, nvml).read() == []


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
    answers = iter([lambda: [reading(memory_used_bytes=GIB)], lambda: hangs.wait() and []])
    watch = GPUWatch(lambda: next(answers)() or [], interval_seconds=0.01)
    thread = threading.Thread(target=watch.run, args=(stop,))
    thread.start()
    eventually(lambda: watch.memory_used(["GPU-0"]) == {"GPU-0": GIB})

    monkeypatch.setattr(gpus, "OLD_SECONDS", -1.0)
    [old] = watch.latest()

    assert (old.uuid, old.memory_used_bytes) == ("GPU-0", None)
    assert watch.newer(than_seconds=float("inf"), timeout_seconds=0.01) is None
    stop.set()
    hangs.set()
    watch.nudge()
    thread.join()


def test_memory_is_back_when_the_card_holds_no_more_than_before() -> None:
    assert still_held(reading(memory_used_bytes=GIB), "a", before_bytes=GIB) is None
    assert still_held(reading(memory_used_bytes=9 * GIB), "a", before_bytes=GIB) == []


def test_a_process_of_the_attempt_holds_its_card() -> None:
    ours = GPUProcess(1, "kim", GIB, "a")

    assert still_held(reading(memory_used_bytes=0, processes=[ours]), "a", 0) == [ours]


def test_memory_of_somebody_who_came_meanwhile_is_not_waited_for() -> None:
    theirs = GPUProcess(1, "lee", 8 * GIB, None)
    card = reading(memory_used_bytes=9 * GIB, processes=[theirs])

    assert still_held(card, "a", before_bytes=GIB) is None


def test_a_process_belongs_to_the_attempt_whose_session_or_ancestor_it_is() -> None:
    pid = os.getpid()

    assert gpus.Owners(lambda: {os.getppid(): "attempt-1"}).attempt_of(pid) == "attempt-1"
    assert gpus.Owners(lambda: {os.getsid(0): "attempt-2"}).attempt_of(pid) == "attempt-2"
    assert gpus.Owners(dict).attempt_of(pid) is None
