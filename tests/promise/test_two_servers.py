"""Two lab servers on one host with two cards, an agent for each: never two jobs on one card."""

import random
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.faults import gpujob, processes
from tests.faults.processes import Born, wait_for
from tests.faults.stack import Agent, Lab, Stack

JOB_SECONDS = 2.5
ENDS_SECONDS = 240.0
NEXT_KILL_SECONDS = 3.0
GPUS = (1, 1, 2, 1, 1)  # what the jobs of each server ask for
SEED = 7


class Host:
    """The cards, and what the jobs that ran on them saw."""

    def __init__(self, folder: Path) -> None:
        self.cards = folder / "cards"
        for name in ("GPU-aaaa", "GPU-bbbb"):
            (self.cards / name).mkdir(parents=True)

    def submit(self, lab: Lab, gpus: int, seconds: float = JOB_SECONDS) -> str:
        command = [sys.executable, gpujob.__file__, "--cards", str(self.cards)]
        command += ["--seconds", f"{seconds:g}"]
        return lab.submit(command, resources={"gpus": gpus})

    def said(self) -> list[str]:
        log = self.cards.parent / "jobs.log"
        return log.read_text().splitlines() if log.exists() else []

    def wrong(self, *kinds: str) -> list[str]:
        return [line for line in self.said() if line.startswith(kinds)]


def a_host_of_two_servers(stack: Stack, folder: Path) -> tuple[Host, list[Lab], list[Agent]]:
    host = Host(folder)
    labs = [stack.lab(name).start() for name in ("one", "two")]
    agents = [
        stack.agent(lab, "gpu1", folder=f"agent-{lab.folder.name}", cards=host.cards).start()
        for lab in labs
    ]
    return host, labs, agents


def reason(lab: Lab, uid: str) -> str:
    return str(lab.job(uid)["waiting_reason"])


def test_jobs_of_two_servers_take_turns_and_find_each_card_empty(stack: Stack, tmp_path: Path):
    host, labs, agents = a_host_of_two_servers(stack, tmp_path)
    long = host.submit(labs[0], gpus=2, seconds=15)
    labs[0].wait_running(long)
    waiting = host.submit(labs[1], gpus=1)
    wait_for(
        lambda: "used by another lab server on gpu1" in reason(labs[1], waiting), "it says why", 15
    )

    uids = [(lab, host.submit(lab, gpus)) for gpus in GPUS for lab in labs]
    for lab, uid in [(labs[0], long), (labs[1], waiting), *uids]:
        lab.wait_state(uid, "succeeded", ENDS_SECONDS)

    assert host.wrong(gpujob.SHARED, gpujob.HELD) == []
    assert len(host.said()) == 2 + 1 + 2 * sum(GPUS)
    assert all("Traceback" not in agent.said() for agent in agents)


def test_jobs_of_two_servers_never_meet_whoever_is_killed(stack: Stack, tmp_path: Path):
    host, labs, agents = a_host_of_two_servers(stack, tmp_path)
    uids = [(lab, host.submit(lab, gpus)) for gpus in GPUS for lab in labs]
    draw = random.Random(SEED)

    def all_over() -> bool:
        states = {lab.job(uid)["state"] for lab, uid in uids}
        return states <= {"succeeded", "failed"}

    limit = time.monotonic() + ENDS_SECONDS
    while not all_over():
        assert time.monotonic() < limit, [lab.job(uid)["attempts"] for lab, uid in uids]
        agent = draw.choice(agents)
        agent.kill()
        if draw.random() < 0.3:
            kill_a_supervisor(agent)
        time.sleep(draw.uniform(0, NEXT_KILL_SECONDS))
        agent.launch()
        time.sleep(NEXT_KILL_SECONDS)

    assert host.wrong(gpujob.SHARED) == []
    outcomes = {try_["outcome"] for lab, uid in uids for try_ in lab.job(uid)["attempts"]}
    assert outcomes <= {"succeeded", "supervisor_lost", "gpu_taken"}
    assert "succeeded" in outcomes


def kill_a_supervisor(agent: Agent) -> None:
    """Its job lives on, and nobody watches over it."""
    found = [
        born
        for born, line in processes.mentioning(agent.state_dir).items()
        if "shim.main()" in line
    ]
    with suppress(psutil.NoSuchProcess):
        processes.kill([Born.of(born.pid) for born in found[:1]])
