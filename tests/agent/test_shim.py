"""The supervisor, with real processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import process, shim
from agent.gpulock import NOTHING, GPULocks
from agent.process import Supervision
from tests.agent.conftest import clear, eventually

ID = "attempt-of-test-shim"


class Job:
    """One supervised command in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "run.log"
        self.supervision = Supervision(folder)
        self.locks = NOTHING

    def start(self, *command: str, **order: Any) -> None:
        executable = "/bin/sh" if command[0] == "sh" else command[0]
        self.supervision.start(
            {
                "folder": str(self.folder),
                "executable": executable,
                "arguments": list(command),
                "directory": str(self.folder),
                "environment": {"LAB_ATTEMPT_ID": ID, "PATH": os.defpath},
                "log": str(self.log),
                "time_limit_seconds": None,
                "grace_seconds": 0.3,
                "fence_seconds": None,
                "user": None,
                "cgroup": None,
                **order,
            },
            self.locks,
        )

    def end(self) -> Any:
        self.supervision.wait()
        ended = self.supervision.ended()
        assert ended is not None
        return ended

    @property
    def pid(self) -> int:
        running = self.supervision.running()
        assert running is not None
        return running.process.pid

    def supervisor_pid(self) -> int:
        supervisor = self.supervision.supervisor()
        assert supervisor is not None
        return supervisor.pid


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    yield made
    clear(ID)
    made.supervision.wait()


def test_of_a_cards_lock_the_command_has_its_own_opening_and_not_the_supervisors(job: Job) -> None:
    job.locks = GPULocks(job.folder).take(ID, ["GPU-0"])
    job.start("/bin/sleep", "1000")
    job.locks.close()

    of_supervisor, of_job = (_locks(pid) for pid in (job.supervisor_pid(), job.pid))
    assert of_supervisor == {*job.locks.supervisor, *job.locks.job}
    assert of_job == {*job.locks.job}
    clear(ID)


def _locks(pid: int) -> set[int]:
    folder = Path(f"/proc/{pid}/fd")
    return {int(one.name) for one in folder.iterdir() if "GPU-0" in os.readlink(one)}


def alive(pid: int) -> bool:
    found = shim.stat(pid)
    return found is not None and found[0]


def test_output_goes_to_the_log_and_the_exit_code_to_a_file(job: Job) -> None:
    job.start("sh", "-c", "echo out; echo err >&2; exit 7")

    ended = job.end()

    assert (ended.exit_code, ended.cause, ended.leftovers) == (7, None, [])
    assert job.log.read_text() == "out\nerr\n"


def test_an_end_by_signal_is_a_negative_exit_code(job: Job) -> None:
    job.start("sh", "-c", "kill -SEGV $$")

    assert job.end().exit_code == -signal.SIGSEGV


def test_the_command_leads_a_session_of_its_own_and_sees_only_its_environment(job: Job) -> None:
    job.start("sh", "-c", "env; sleep 10")

    eventually(lambda: "LAB_ATTEMPT_ID" in job.log.read_text())

    assert os.getsid(job.pid) == job.pid
    assert os.getsid(job.supervisor_pid()) == job.supervisor_pid()
    names = {line.split("=")[0] for line in job.log.read_text().splitlines()}
    assert names - {"PWD", "_", "SHLVL", "OLDPWD"} == {"LAB_ATTEMPT_ID", "PATH"}


def test_a_stop_ends_the_whole_group_with_sigterm(job: Job) -> None:
    job.start("sh", "-c", "sleep 100 & trap 'echo bye; exit 5' TERM; echo up; wait")
    eventually(lambda: "up" in job.log.read_text())

    job.supervision.ask_to_stop()

    ended = job.end()
    assert (ended.exit_code, ended.cause) == (5, "stopped")
    assert job.log.read_text() == "up\nbye\n"


def test_whoever_ignores_sigterm_is_killed_after_the_grace(job: Job) -> None:
    job.start("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
    eventually(lambda: "up" in job.log.read_text())

    job.supervision.ask_to_stop()

    ended = job.end()
    assert (ended.exit_code, ended.cause) == (-signal.SIGKILL, "stopped")


def test_a_stopped_group_is_woken_to_hear_that_it_must_end(job: Job) -> None:
    job.start("sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done")
    eventually(lambda: "up" in job.log.read_text())
    os.killpg(job.pid, signal.SIGSTOP)

    job.supervision.ask_to_stop()

    assert job.end().exit_code == 5


def test_the_time_limit_is_kept_without_any_agent(job: Job) -> None:
    job.start("sh", "-c", "sleep 100", time_limit_seconds=0.2)

    assert job.end().cause == "timed_out"


def test_a_command_that_cannot_be_noted_runs_and_is_watched_over_all_the_same(job: Job) -> None:
    """A disk that became full at that moment: what runs must not be told as not started."""
    in_its_way = job.folder / "run.json.tmp"
    in_its_way.mkdir()
    job.start("sh", "-c", "echo up; sleep 100")
    eventually(lambda: "up" in job.log.read_text())
    assert (job.supervision.running(), job.supervision.ended()) == (None, None)

    in_its_way.rmdir()
    os.kill(job.supervisor_pid(), signal.SIGUSR1)  # else it looks after some seconds
    eventually(lambda: job.supervision.running() is not None)
    job.supervision.ask_to_stop()

    assert job.end().cause == "stopped"


def test_a_lease_that_is_renewed_though_the_disk_is_full_does_not_stop_it(job: Job) -> None:
    job.supervision.touch_fence(shim.now() - 100.123)
    (job.folder / "fence.tmp").mkdir()  # nothing new can be written

    job.supervision.touch_fence(sent_at := shim.now())

    assert float((job.folder / "fence").read_text()) == sent_at


def test_a_lease_that_is_not_renewed_stops_the_job(job: Job) -> None:
    job.supervision.touch_fence(shim.now() - 100)

    job.start("sh", "-c", "sleep 100", fence_seconds=100.3)

    assert job.end().cause == "fenced"


def test_a_lease_that_is_renewed_does_not(job: Job) -> None:
    job.supervision.touch_fence(shim.now())
    job.start("sh", "-c", "sleep 1", fence_seconds=0.8)

    for _ in range(10):
        job.supervision.touch_fence(shim.now())
        eventually(lambda: True)
        signal.sigtimedwait([], 0.1)

    assert job.end().cause is None


STUBBORN = ("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")


def test_a_long_grace_ends_with_the_lease(job: Job) -> None:
    """Stopped by a wish, cut off meanwhile: by the end of its own grace it may run elsewhere."""
    job.supervision.touch_fence(shim.now())
    job.start(*STUBBORN, fence_seconds=105.0, grace_seconds=3600.0)
    eventually(lambda: "up" in job.log.read_text())
    job.supervision.ask_to_stop()

    job.supervision.touch_fence(shim.now() - 105.0 - shim.FENCE_GRACE_SECONDS)

    ended = job.end()
    assert (ended.exit_code, ended.cause) == (-signal.SIGKILL, "stopped")


def stopped_supervisor(job: Job, overdue_seconds: float) -> None:
    """Its job is past all grace by so much, and it does not see it."""
    job.supervision.touch_fence(shim.now())
    job.start(*STUBBORN, fence_seconds=105.0)
    eventually(lambda: "up" in job.log.read_text())
    os.kill(job.supervisor_pid(), signal.SIGSTOP)
    past = 105.0 + shim.FENCE_GRACE_SECONDS + overdue_seconds
    job.supervision.touch_fence(shim.now() - past)


def test_a_supervisor_that_was_stopped_is_woken_when_the_lease_is_over(job: Job) -> None:
    stopped_supervisor(job, process.FENCE_WAKE_SECONDS)

    job.supervision.enforce_fence(105.0)

    ended = job.end()
    assert (ended.exit_code, ended.cause) == (-signal.SIGKILL, "fenced")


def test_a_job_whose_supervisor_stays_stopped_is_killed_without_it(job: Job) -> None:
    stopped_supervisor(job, process.FENCE_KILL_SECONDS)
    pid, asleep = job.pid, job.supervisor_pid()

    job.supervision.enforce_fence(105.0)

    eventually(lambda: not alive(pid))
    assert job.end().exit_code == -signal.SIGKILL
    assert not alive(asleep)


def test_a_supervisor_is_left_alone_while_its_lease_may_be_renewed(job: Job) -> None:
    stopped_supervisor(job, -1.0)

    job.supervision.enforce_fence(105.0)

    assert not job.supervision.wait_for(0.3)
    assert alive(job.pid)
    os.kill(job.supervisor_pid(), signal.SIGCONT)


def test_what_the_command_leaves_behind_is_swept_up_even_in_a_session_of_its_own(
    job: Job,
) -> None:
    script = "setsid sh -c 'echo $$; exec sleep 100' & sleep 0.1; exit 0"
    job.start("sh", "-c", script)

    ended = job.end()

    assert ended.exit_code == 0
    assert not alive(int(job.log.read_text()))


SCATTERED = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)

def linger():
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(100)
    os._exit(0)

if os.fork() == 0:
    linger()
if os.fork() == 0:  # as a daemon does: a session of its own, and nobody's child
    os.setsid()
    if os.fork() == 0:
        linger()
    os._exit(0)
if sys.argv[1] == "ends":
    time.sleep(0.5)
else:
    linger()
"""


@pytest.mark.parametrize("how", ["ends", "stopped", "supervisor killed"])
def test_one_that_forks_twice_makes_sessions_and_ignores_sigterm_leaves_nothing(job: Job, how):
    job.start(sys.executable, "-c", SCATTERED, how)
    count = 2 if how == "ends" else 3
    eventually(lambda: len(job.log.read_text().split()) == count)
    members = [int(pid) for pid in job.log.read_text().split()]

    if how == "stopped":
        job.supervision.ask_to_stop()
    if how == "supervisor killed":
        os.kill(job.supervisor_pid(), signal.SIGKILL)
        job.supervision.wait()
        assert job.supervision.clear_away(ID, 0.3) == []
    else:
        job.end()

    assert [pid for pid in [job.pid, *members] if alive(pid)] == []


def test_one_that_cannot_be_run_says_why(job: Job) -> None:
    job.start("/nonexistent/python")

    ended = job.end()

    assert ended.error == "No such file or directory"
    assert job.supervision.running() is None


def test_one_whose_log_is_a_pipe_says_so_instead_of_waiting(job: Job) -> None:
    os.mkfifo(job.log)

    job.start("sh", "-c", "echo never")

    assert str(job.log) in job.end().error


def test_a_stop_that_comes_before_the_birth_prevents_it(job: Job) -> None:
    job.supervision.ask_to_stop()

    job.start("sh", "-c", "echo never")

    assert job.end().cause == "stopped"
    assert not job.log.exists()


def test_a_lease_that_ran_out_before_the_birth_is_no_wish_of_anybody(job: Job) -> None:
    """Else the server takes the end for a failure of the job, and does not run it elsewhere."""
    job.supervision.touch_fence(shim.now() - 200)

    job.start("sh", "-c", "echo never", fence_seconds=105.0)

    assert job.end().cause == "fenced"
    assert not job.log.exists()


def test_what_no_process_can_be_given_says_so(job: Job) -> None:
    job.start("sh", "-c", "true", environment={"A=B": "1"})

    assert "environment" in job.end().error


def test_a_second_supervisor_gives_way(job: Job) -> None:
    job.start("sh", "-c", "echo once; sleep 0.5")

    second = Job(job.folder)
    second.start("sh", "-c", "echo twice")

    assert second.pid == job.pid
    assert second.end().exit_code == 0
    assert job.log.read_text() == "once\n"


def test_a_killed_supervisor_leaves_no_word_and_its_orphans_can_be_cleared_away(job: Job) -> None:
    job.start("sh", "-c", "setsid sleep 100 & trap '' TERM; echo up; while :; do sleep 0.1; done")
    eventually(lambda: "up" in job.log.read_text())
    pid = job.pid
    os.kill(job.supervisor_pid(), signal.SIGKILL)
    job.supervision.wait()

    left = job.supervision.clear_away(ID, grace_seconds=0.3)

    assert job.supervision.ended() is None
    assert left == []
    assert not alive(pid)


def test_a_sigterm_from_the_system_does_not_stop_the_job_and_is_noted(job: Job) -> None:
    job.start("sh", "-c", "sleep 0.4")

    os.kill(job.supervisor_pid(), signal.SIGTERM)

    ended = job.end()
    assert (ended.exit_code, ended.cause, ended.terminated) == (0, None, True)


def test_it_is_small_and_imports_only_the_standard_library(job: Job) -> None:
    job.start("sh", "-c", "sleep 100")

    rollup = Path(f"/proc/{job.supervisor_pid()}/smaps_rollup").read_text()
    kilobytes = {line.split()[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
    assert kilobytes["Pss:"] < 10_000
    script = f"import sys; sys.path.append({str(Path(shim.__file__).parent)!r}); import shim; "
    script += "print([m for m in sys.modules if m.partition('.')[0] not in "
    script += "sys.stdlib_module_names | {'shim', '__main__'}])"
    isolated = [sys.executable, "-I", "-S", "-c", script]
    assert json.loads(subprocess.check_output(isolated)) == []


def test_neither_order_nor_environment_shows_in_the_list_of_processes(job: Job) -> None:
    job.start("sh", "-c", "sleep 100", environment={"SECRET": "xyzzy", "LAB_ATTEMPT_ID": ID})

    supervisor = Path(f"/proc/{job.supervisor_pid()}")

    assert b"xyzzy" not in (supervisor / "cmdline").read_bytes()
    assert b"xyzzy" not in (supervisor / "environ").read_bytes()
    assert not any(b"xyzzy" in path.read_bytes() for path in job.folder.iterdir())
