"""What an idle `runlab` with a local agent costs: CPU over a minute, and memory.

Memory is PSS: what processes share is counted once. CPU is in percent of one core.
"""

import sys
import time
from pathlib import Path

import psutil

from bench.server import running

SETTLE_SECONDS = 15.0
MEASURE_SECONDS = 60.0
CPU_PERCENT = 2.0
PSS_MEGABYTES = 350.0


def main() -> int:
    with running(agent=True) as server:
        time.sleep(SETTLE_SECONDS)
        before = {process.pid: seconds(process) for process in server.processes()}
        time.sleep(MEASURE_SECONDS)
        processes = server.processes()
        cpu = {p.pid: seconds(p) - before.get(p.pid, 0.0) for p in processes}
        memory = {p.pid: pss_megabytes(p.pid) for p in processes}
        for process in processes:
            percent = 100 * cpu[process.pid] / MEASURE_SECONDS
            name = server.program_of(process)
            print(f"  {percent:5.2f} %  {memory[process.pid]:6.1f} MB  {name}")
    percent = 100 * sum(cpu.values()) / MEASURE_SECONDS
    megabytes = sum(memory.values())
    print(f"runlab idle, {len(cpu)} processes: {percent:.2f} % CPU, {megabytes:.0f} MB", end=" ")
    print(f"(to hold: {CPU_PERCENT:.0f} % and {PSS_MEGABYTES:.0f} MB)")
    return 0 if percent <= CPU_PERCENT and megabytes <= PSS_MEGABYTES else 1


def seconds(process: psutil.Process) -> float:
    """CPU time so far, with that of the children it has waited for."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def pss_megabytes(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
