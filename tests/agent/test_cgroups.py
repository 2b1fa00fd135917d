"""A job in a cgroup of its own, where this machine lets us make one."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import cgroups, shim
from agent.service.unitfiles import DELEGATED
from tests.agent.conftest import AgentProcess, eventually
from tests.agent.jobs import FOREVER, started, supervisor_and_command
from tests.agent.server import FakeServer
from tests.agent.test_shim import ID, Job, alive, job

__all__ = ["job"]  # the fixture
DELEGATION = {DELEGATED: "yes"}
#: Leaves the session, tells nobody whose it is, and says its pid.
DISGUISED = "setsid env -i sleep 1000 & echo $!; exec sleep 1000"
#: Is another process each time that somebody looks, and has no ear for SIGTERM.
FLEEING = f"""{sys.executable} -c '
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.setsid()
print("up", flush=True)
while True:
    if os.fork():
        os._exit(0)
' & sleep 0.5"""


@pytest.fixture
def cgroup(job: Job) -> Iterator[shim.Cgroup]:
    path = cgroups.of_attempt(f"of-a-test-{os.getpid()}", DELEGATION)
    if path is None:
        pytest.skip("no cgroup of version 2 can be made here")
    made = shim.Cgroup(path)
    yield made
    made.kill()
    eventually(lambda: not made.members())
    made.remove()


def killed_with_its_supervisor(job: Job) -> int:
    """Only what has disguised itself is left. Return its pid."""
    eventually(lambda: job.log.exists() and job.log.read_text())
    pid = int(job.log.read_text())
    os.kill(job.supervisor_pid(), signal.SIGKILL)
    os.kill(job.pid, signal.SIGKILL)
    job.supervision.wait()
    return pid


def test_a_job_is_in_its_own_and_the_supervisor_is_not(job: Job, cgroup: shim.Cgroup) -> None:
    job.start("sh", "-c", "sleep 1000 & wait", cgroup=cgroup.path)

    eventually(lambda: len(cgroup.members()) == 2)

    assert job.pid in cgroup.members()
    assert job.supervisor_pid() not in cgroup.members()


def test_it_is_gone_with_the_job(job: Job, cgroup: shim.Cgroup) -> None:
    assert cgroup.path is not None
    job.start("sh", "-c", f"mkdir {cgroup.path}/of-the-job", cgroup=cgroup.path)

    assert job.end().exit_code == 0
    assert not Path(cgroup.path).exists()


def test_what_flees_from_process_to_process_is_ended(job: Job, cgroup: shim.Cgroup) -> None:
    job.start("sh", "-c", FLEEING, cgroup=cgroup.path)

    ended = job.end()

    assert job.log.read_text() == "up\n"
    assert (ended.exit_code, ended.leftovers) == (0, [])
    assert cgroup.members() == []


def test_what_has_disguised_itself_is_ended_without_its_supervisor(
    job: Job, cgroup: shim.Cgroup
) -> None:
    job.start("sh", "-c", DISGUISED, cgroup=cgroup.path)
    pid = killed_with_its_supervisor(job)
    assert alive(pid)

    left = job.supervision.clear_away(ID, grace_seconds=0.3)

    assert left == []
    assert not alive(pid)


def test_a_job_runs_also_when_none_can_be_made(job: Job, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()

    job.start("sh", "-c", "exit 7", cgroup=str(tmp_path / "a-file" / "job"))

    assert job.end().exit_code == 7


def test_none_is_made_in_a_tree_that_is_not_ours() -> None:
    assert cgroups.of_attempt("a1", {}) is None


def test_the_agent_of_our_service_gives_each_job_its_own(
    agent: AgentProcess,
    server: FakeServer,
    cgroup: shim.Cgroup,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(DELEGATED, "yes")
    order = server.order(command=FOREVER)
    agent.start()
    pid = started(server, order)
    path = Path(cgroups.of_attempt(order["id"], DELEGATION) or "")

    assert shim.Cgroup(str(path)).members() == [pid]

    for process in supervisor_and_command(order["id"]):
        os.kill(process, signal.SIGKILL)
    assert server.wait_event(order["id"], "exited")["cause"] == "supervisor_lost"
    assert not path.exists()
