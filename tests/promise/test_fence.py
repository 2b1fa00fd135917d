"""Policy `requeue`: never two living processes of one job, whoever stops its supervisor.

The limits are shorter than the real ones, 105 s and 135 s, and as far apart as these.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from agent import wire
from tests.faults import history
from tests.faults.processes import Born, wait_for
from tests.faults.stack import Lab, Stack

FENCE_SECONDS = 8.0
LEASE_SECONDS = FENCE_SECONDS + wire.LEASE_SECONDS - wire.FENCE_SECONDS
LATE_SECONDS = 40.0
LOOK_SECONDS = 0.02


class Watch:
    """Notes when each process of a job is first and last seen alive, by the host's clock."""

    def __init__(self, uid: str) -> None:
        self._needle = f"LAB_EXPERIMENT_UID={uid}".encode()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.lives: dict[Born, tuple[float, float]] = {}

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join()

    def overlaps(self) -> list[str]:
        """In the order of their births: each must have ended before the next began."""
        lives = sorted(self.lives.values())
        pairs = pairwise(lives)
        return [f"{one} and {two}" for one, two in pairs if one[1] >= two[0]]

    def _run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            for born in self._alive():
                now = time.monotonic()
                began, _ = self.lives.get(born, (now, now))
                self.lives[born] = began, now

    def _alive(self) -> Iterator[Born]:
        for name in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError, psutil.NoSuchProcess):
                if self._needle in Path("/proc", name, "environ").read_bytes():
                    born = Born.of(int(name))
                    if born.alive:
                        yield born


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    limits = {"FENCE_SECONDS": FENCE_SECONDS, "LEASE_SECONDS": LEASE_SECONDS}
    (tmp_path / "limits.json").write_text(json.dumps(limits))
    with Stack(tmp_path, held=True) as made:
        yield made


@pytest.mark.parametrize("stopped", ["supervisor", "supervisor and job", "again and again"])
def test_a_stopped_supervisor_on_a_host_that_is_cut_off(stack: Stack, stopped: str):
    lab = stack.lab().start()
    proxy = stack.proxy(lab)
    lost = stack.agent(lab, "gpu1", proxy.url, "--poll-interval", "1").start()
    uid = submit(lab, lost.folder)
    first = lab.wait_running(uid)
    supervisor = Born.of(psutil.Process(first.pid).ppid())
    stack.agent(lab, "gpu2", None, "--poll-interval", "1").start()

    with Watch(uid) as watch, Stopping(supervisor, stopped == "again and again"):
        os.kill(supervisor.pid, signal.SIGSTOP)
        if stopped == "supervisor and job":
            os.killpg(first.pid, signal.SIGSTOP)
        proxy.cut()
        wait_for(
            lambda: (
                [a["device"] for a in lab.job(uid)["attempts"] if a["pid"]] == ["gpu1", "gpu2"]
            ),
            "it runs elsewhere",
            LEASE_SECONDS + LATE_SECONDS,
        )
        assert not (lost.folder / "faults").exists()  # the first would hold the second's lock
        second = lab.wait_running(uid)
        proxy.heal()
        lost.wait_healthy()
        time.sleep(3)

    assert not first.alive
    assert second.alive
    assert {first, second} == set(watch.lives)
    assert watch.overlaps() == []
    lab.post(f"/api/jobs/{uid}/cancel/")
    lab.wait_state(uid, "cancelled")
    assert history.faults_of(lab.events(uid), "cancelled") == []
    assert [attempt["outcome"] for attempt in lab.job(uid)["attempts"]] == ["lost", "cancelled"]


def submit(lab: Lab, folder: Path) -> str:
    command = [sys.executable, "-m", "tests.faults.subject"]
    command += ["--folder", str(folder), "--seconds", "200"]
    return lab.submit(command, on_device_lost="requeue")


class Stopping:
    """Somebody who stops the supervisor as soon as it is woken, if `again`."""

    def __init__(self, supervisor: Born, again: bool) -> None:
        self._supervisor = supervisor
        self._again = again
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while self._again and self._supervisor.alive and not self._ended.wait(0.001):
            with suppress(ProcessLookupError):
                os.kill(self._supervisor.pid, signal.SIGSTOP)
