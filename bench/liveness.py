"""How soon a host that died is seen to be dead: by dispatch, and on pages and in the API.

Several hosts are killed at random moments. Each has free GPUs, and jobs keep coming: the last one
that it is given tells until when dispatch took it for alive. Its state is what the API says; pages
ask the same function.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from tests.faults.stack import Agent, Lab, Stack

HOSTS = 4
CARDS = 60
SUBMIT_SECONDS = 0.2
NOT_DISPATCHABLE_SECONDS = 3.5
DISCONNECTED_SECONDS, TOLERANCE_SECONDS = 30.0, 1.0
LOOK_SECONDS = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=HOSTS, help="killed one after the other")
    hosts = parser.parse_args().hosts
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder)) as stack:
        lab = stack.lab().start()
        held = [measured(lab, host(stack, lab, number)) for number in range(hosts)]
    return 0 if all(held) else 1


def host(stack: Stack, lab: Lab, number: int) -> Agent:
    agent = stack.agent(lab, f"host{number}", None, "--simulate-gpus", str(CARDS))
    return agent.start()


def measured(lab: Lab, agent: Agent) -> bool:
    """Kill it, and whether it was seen in time. All times are this host's wall clock."""
    give_jobs(lab, 2.0)  # it is given jobs while it lives, or the measurement says nothing
    time.sleep(random.uniform(0.0, 1.0))
    given = len(assigned(lab, agent.host_id))
    agent.kill()
    died_at = time.time()
    unhealthy = until(lab, agent, died_at, lambda state: state != "healthy", 10.0)
    give_jobs(lab, 3.0)
    last = max(assigned(lab, agent.host_id))
    heard_at = seconds_of(lab.device(agent.host_id)["last_heartbeat_at"])
    disconnected = until(lab, agent, heard_at, lambda state: state == "disconnected", 40.0)
    dispatched = max(0.0, last - died_at)
    print(
        f"{agent.host_id}, given {given} jobs before: its last job {dispatched:.2f} s after it "
        f"died, not healthy after {unhealthy:.2f} s; disconnected {disconnected:.2f} s after "
        "it was last heard "
        f"(to hold: {NOT_DISPATCHABLE_SECONDS} s; {DISCONNECTED_SECONDS:.0f} ± "
        f"{TOLERANCE_SECONDS:.0f} s)",
        flush=True,
    )
    in_time = max(dispatched, unhealthy) <= NOT_DISPATCHABLE_SECONDS
    return given > 0 and in_time and abs(disconnected - DISCONNECTED_SECONDS) <= TOLERANCE_SECONDS


def until(
    lab: Lab, agent: Agent, since: float, look: Callable[[str], bool], patience_seconds: float
) -> float:
    """Seconds from `since` until its state is first seen to be so. Jobs come while it is short."""
    submitted_at = 0.0
    while not look(lab.device(agent.host_id)["state"]):
        if time.time() - since > patience_seconds:
            return patience_seconds
        if time.time() - submitted_at > SUBMIT_SECONDS and patience_seconds < 20:
            submitted_at = time.time()
            give_job(lab)
        time.sleep(LOOK_SECONDS)
    return time.time() - since


def give_jobs(lab: Lab, length: float) -> None:
    end = time.time() + length
    while time.time() < end:
        give_job(lab)
        time.sleep(SUBMIT_SECONDS)


def give_job(lab: Lab) -> None:
    lab.submit(["sleep", "100"], resources={"gpus": 1})


def assigned(lab: Lab, host_id: str) -> list[float]:
    """When each job was given to this host, as the server noted it."""
    jobs = lab.get("/api/jobs/?page_size=500")["results"]
    attempts = [a for job in jobs for a in lab.job(job["uid"])["attempts"]]
    return [
        seconds_of(attempt["created_at"]) for attempt in attempts if attempt["device"] == host_id
    ]


def seconds_of(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


if __name__ == "__main__":
    sys.exit(main())
