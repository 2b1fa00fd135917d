"""What an agent costs its GPU host, idle and with a job, at one heartbeat a second.

CPU in percent of one core over a minute; memory as RSS (all that is mapped) and PSS (what it
shares with others counted in part) of the agent, and of a running job's supervisor.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.idle import pss_megabytes, seconds
from tests.faults import workload
from tests.faults.stack import Agent, Lab, Stack

SETTLE_SECONDS = 10.0
AGENT_MEGABYTES = 60.0
AGENT_CPU_PERCENT = 1.0
SUPERVISOR_MEGABYTES = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the two")
    length = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder)) as stack:
        lab = stack.lab().start()
        agent = stack.agent(lab, "gpu1").start()
        held = [measured(agent, "idle", length)]
        supervisor = run_a_job(lab, agent, length + 2 * SETTLE_SECONDS)
        held.append(measured(agent, "one job", length))
        small = megabytes(supervisor)
    print(f"supervisor: RSS {small[0]:.1f} MB, PSS {small[1]:.1f} MB", end=" ")
    print(f"(to hold: {SUPERVISOR_MEGABYTES:.0f} MB of PSS: the agent runs the same Python)")
    return 0 if all(held) and small[1] < SUPERVISOR_MEGABYTES else 1


def run_a_job(lab: Lab, agent: Agent, length: float) -> int:
    """Start one that writes a row a second, and return its supervisor's pid."""
    script, truth = Path(workload.__file__), agent.folder / "truth"
    command = [sys.executable, str(script), "--truth", str(truth), "--seconds", f"{length:g}"]
    uid = lab.submit([*command, "--rows-per-second", "1"])
    return psutil.Process(lab.wait_running(uid).pid).ppid()


def measured(agent: Agent, state: str, length: float) -> bool:
    """Whether the agent holds its numbers over so many seconds."""
    time.sleep(SETTLE_SECONDS)
    assert agent.process is not None
    process = psutil.Process(agent.process.pid)
    before = seconds(process)
    time.sleep(length)
    percent = 100 * (seconds(process) - before) / length
    rss, pss = megabytes(process.pid)
    print(f"agent, {state}: {percent:.2f} % CPU, RSS {rss:.1f} MB, PSS {pss:.1f} MB", end=" ")
    print(f"(to hold: {AGENT_CPU_PERCENT:.0f} %, {AGENT_MEGABYTES:.0f} MB)", flush=True)
    return percent < AGENT_CPU_PERCENT and max(rss, pss) < AGENT_MEGABYTES


def megabytes(pid: int) -> tuple[float, float]:
    return psutil.Process(pid).memory_info().rss / 1024**2, pss_megabytes(pid)


if __name__ == "__main__":
    sys.exit(main())
