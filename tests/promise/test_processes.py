"""kill -9 of whatever a server consists of: the queue goes on, and jobs do not notice."""

import os
import sys
import time
from contextlib import suppress

import psutil

from tests.faults import processes
from tests.faults.processes import Born, wait_for
from tests.faults.stack import Lab, LocalAgent, Stack
from tests.promise.witness import UNTIL_TOLD_SECONDS, Witness

NEXT_START_SECONDS = 15.0
GONE_SECONDS = 5.0
QUICK = [sys.executable, "-c", "pass"]
#: Of a dispatch cluster, in the order in which they come to be.
MEMBERS = ["first", "sentinel", "worker that is next in line", "monitor", "pusher"]


def members(lab: Lab) -> list[Born]:
    """The processes of the dispatch cluster, as MEMBERS names them, once it is whole."""
    return wait_for(lambda: _members(lab), "a whole cluster", 45)


def _members(lab: Lab) -> list[Born]:
    with suppress(psutil.NoSuchProcess):  # it has just ended
        found = processes.tree(lab.program("dispatch"))
        found.sort(key=lambda born: (born.created_at, born.pid))
        return found if len(found) == len(MEMBERS) else []
    return []


def starts_in_time(lab: Lab) -> float:
    """Submit a job; how many seconds passed until its process ran and had its end."""
    began = time.monotonic()
    uid = lab.submit(QUICK)
    lab.wait_state(uid, "succeeded", NEXT_START_SECONDS)
    return time.monotonic() - began


def test_the_next_job_starts_whichever_process_of_the_cluster_is_killed(stack: Stack):
    lab = stack.lab().start()
    stack.agent(lab, "gpu1").start()
    starts_in_time(lab)

    for at, which in enumerate(MEMBERS):
        cluster = members(lab)
        processes.kill([cluster[at]])
        assert starts_in_time(lab) <= NEXT_START_SECONDS
        # A new monitor beside the old worker would never get the lock that the killed one held,
        # and what is executed would come again for ever; jobs start all the same.
        wait_for(lambda: not any(born.alive for born in cluster), f"all go with the {which}", 10)  # noqa: B023


def test_a_job_is_not_lost_when_the_cluster_is_killed_as_it_comes(stack: Stack):
    lab = stack.lab().start()
    stack.agent(lab, "gpu1").start()

    for which, pause_seconds in ((2, 0.0), (2, 0.01), (3, 0.0), (4, 0.02), (1, 0.005)):
        victim = members(lab)[which]
        uid = lab.submit(QUICK)
        time.sleep(pause_seconds)
        processes.kill([victim])
        job = lab.wait_state(uid, "succeeded", NEXT_START_SECONDS)
        assert len(job["attempts"]) == 1


def test_kill_9_of_runlab_leaves_the_running_job_which_the_next_start_finds(stack: Stack):
    lab = stack.lab("lab", "--agent").start()
    agent = LocalAgent(lab)
    agent.wait_healthy()
    before = set(processes.mentioning(lab.folder))
    witness = Witness.start(lab, agent, UNTIL_TOLD_SECONDS)
    supervisor = Born.of(psutil.Process(witness.process.pid).ppid())

    lab.kill_supervisor()

    wait_for(lambda: not any(born.alive for born in before), "runlab is gone", GONE_SECONDS)
    assert set(processes.mentioning(lab.folder)) == {supervisor, witness.process}
    assert supervisor.alive
    assert os.getsid(witness.process.pid) != os.getsid(0)
    assert witness.goes_on()

    lab.start()
    agent.wait_healthy()

    assert witness.goes_on()
    witness.ends_well()
    wait_for(lambda: not supervisor.alive, "the job's supervisor has ended", GONE_SECONDS)


def test_ctrl_c_and_a_new_start_leave_the_running_job_alone(stack: Stack):
    lab = stack.lab("lab", "--agent").start()
    agent = LocalAgent(lab)
    agent.wait_healthy()
    witness = Witness.start(lab, agent, UNTIL_TOLD_SECONDS)

    supervisor = Born.of(psutil.Process(witness.process.pid).ppid())

    assert lab.stop() == 0
    assert set(processes.mentioning(lab.folder)) == {supervisor, witness.process}
    lab.start()
    agent.wait_healthy()

    witness.ends_well()


def test_a_killed_supervisor_of_a_job_is_told_and_leaves_no_process(stack: Stack):
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1").start()
    witness = Witness.start(lab, agent, 60, max_attempts=1)

    processes.kill([Born.of(psutil.Process(witness.process.pid).ppid())])
    job = lab.wait_state(witness.uid, "failed")

    assert job["attempts"][0]["outcome"] == "supervisor_lost"
    assert not witness.process.alive
