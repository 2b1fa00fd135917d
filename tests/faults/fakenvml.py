"""A real agent on cards that do not exist: `python -m tests.faults.fakenvml FOLDER agent …`.

FOLDER holds a folder a card, named for its UUID. Whoever uses memory of the card has a file there,
named for its pid, with the number of bytes (tests.faults.gpujob). As with a real driver the memory
of a process that has ended is not back at once, and nobody is shown to hold it meanwhile.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

TOTAL_BYTES = 24 * 2**30
LINGER_SECONDS = 1.5  # a large card needs some time to clear its memory


def memory(card: Path) -> dict[int, tuple[int, bool]]:
    """pid -> (bytes, whether it lives), of all that holds memory of the card now."""
    found = {}
    for file in card.glob("[0-9]*"):
        if not file.name.isdigit():
            continue
        with suppress(OSError, ValueError):
            size = int(file.read_text())
            lives = Path("/proc", file.name).exists()
            if lives or not _is_over(card / f"{file.name}.ended"):
                found[int(file.name)] = (size, lives)
    return found


def _is_over(mark: Path) -> bool:
    """Whether a process, seen to have ended first when `mark` was made, has left no memory."""
    with suppress(FileExistsError):
        mark.touch(exist_ok=False)
    return time.time() - mark.stat().st_mtime >= LINGER_SECONDS


class NVMLError(Exception):
    pass


class FakeNVML(ModuleType):
    """As much of pynvml as an agent asks for; any other question is one that this driver lacks."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    NVML_AGGREGATE_ECC = 1
    NVML_CLOCK_GRAPHICS = 0
    NVML_CLOCK_MEM = 2
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    nvmlEventTypeXidCriticalError = 8

    def __init__(self, folder: Path) -> None:
        super().__init__("pynvml")
        self._cards = sorted(folder.iterdir())

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def not_supported(*about: object) -> None:
            raise NVMLError(name)

        return not_supported

    def nvmlInit(self) -> None:
        pass

    def nvmlSystemGetDriverVersion(self) -> str:
        return "fake"

    def nvmlDeviceGetCount(self) -> int:
        return len(self._cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Path:
        return self._cards[index]

    def nvmlDeviceGetUUID(self, card: Path) -> str:
        return card.name

    def nvmlDeviceGetName(self, card: Path) -> str:
        return "Fake GPU"

    def nvmlDeviceGetMemoryInfo(self, card: Path) -> SimpleNamespace:
        used = sum(size for size, _ in memory(card).values())
        return SimpleNamespace(used=used, total=TOTAL_BYTES)

    def nvmlDeviceGetComputeRunningProcesses(self, card: Path) -> list[SimpleNamespace]:
        return list(self._processes(card))

    def _processes(self, card: Path) -> Iterator[SimpleNamespace]:
        for pid, (size, lives) in memory(card).items():
            if lives:
                yield SimpleNamespace(pid=pid, usedGpuMemory=size)


def main() -> int:
    sys.modules["pynvml"] = FakeNVML(Path(sys.argv[1]))
    from agent.__main__ import main as agent  # it imports pynvml

    return agent(sys.argv[3:])  # after the folder and the word `agent`


if __name__ == "__main__":
    sys.exit(main())
