"""What we read of /proc ourselves, held against psutil."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agent import host, kernel, shim

GONE = 2**22 + 1  # above the largest pid


@pytest.fixture
def sleeper() -> Iterator[psutil.Popen]:
    """A process of somebody else's name, with an argument that has a space in it."""
    with psutil.Popen([sys.executable, "-c", "import time; time.sleep(60)", "a b", ""]) as process:
        yield process
        process.kill()


def test_a_process_is_told_as_psutil_tells_it(sleeper: psutil.Popen) -> None:
    pid = sleeper.pid

    assert pid in set(kernel.pids())
    assert kernel.user_of(pid) == sleeper.username() == host.unix_user()
    assert kernel.uid_of(pid) == sleeper.uids().real
    assert kernel.arguments_of(pid) == sleeper.cmdline()
    assert kernel.started_at(pid) == pytest.approx(sleeper.create_time(), abs=0.1)
    assert pid in kernel.children_of(os.getpid())


def test_of_one_that_has_gone_there_is_nothing_to_tell() -> None:
    assert kernel.user_of(GONE) is None
    assert kernel.arguments_of(GONE) == []
    assert kernel.started_at(GONE) is None
    kernel.wait_for_end(GONE, 60)


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "uid_of", lambda pid: 4_000_000)

    assert kernel.user_of(1) == "4000000"


@pytest.mark.parametrize("pidfd", ["is there", "is unknown to the kernel", "is not in Python"])
def test_the_end_of_a_process_that_is_no_child_is_waited_for(
    pidfd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    if pidfd == "is unknown to the kernel":
        monkeypatch.setattr(os, "pidfd_open", _unknown)
    if pidfd == "is not in Python":
        monkeypatch.delattr(os, "pidfd_open")
    killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
    killer.start()
    began = time.monotonic()

    kernel.wait_for_end(pid, 30)

    process = shim.stat(pid)
    assert process is None or not process[0]
    assert 0.2 < time.monotonic() - began < 10
    parent.wait()
    parent.stdout.close()


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_it_is_waited_for_so_long_at_most(
    has_pidfd: bool, sleeper: psutil.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_pidfd:
        monkeypatch.setattr(os, "pidfd_open", _unknown)
    began = time.monotonic()

    kernel.wait_for_end(sleeper.pid, 0.2)

    assert 0.1 < time.monotonic() - began < 5
    assert sleeper.is_running()


def _unknown(pid: int) -> int:
    raise OSError(38, "Function not implemented")


def test_memory_and_disk_are_what_psutil_says(tmp_path: Path) -> None:
    memory, theirs = kernel.memory(), psutil.virtual_memory()
    disk, usage = kernel.disk(tmp_path), psutil.disk_usage(str(tmp_path))

    assert memory.total_bytes == theirs.total
    assert memory.available_bytes == pytest.approx(theirs.available, rel=0.1)
    assert disk.total_bytes == usage.total
    assert disk.free_bytes == pytest.approx(usage.free, rel=0.05)


def test_load_is_what_was_done_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(
        f"cpu  {line}\ncpu0 1 1 1 1\n"
        for line in ("10 0 10 100 20 0 0 0 5 0", "40 0 30 130 40 0 0 0 9 0")
    )
    monkeypatch.setattr(kernel, "_read", lambda name: next(lines))

    assert kernel.Load().percent() == 50.0


def test_load_of_a_machine_that_works_is_some() -> None:
    load, end = kernel.Load(), time.monotonic() + 0.3
    while time.monotonic() < end:
        pass

    assert 0 < load.percent() <= 100
    assert 0 <= load.percent() <= 100


def test_mounts_are_found_by_their_kind() -> None:
    theirs = [one.mountpoint for one in psutil.disk_partitions(all=True) if one.fstype == "proc"]

    assert [str(point) for point in kernel.mounts("proc")] == theirs
