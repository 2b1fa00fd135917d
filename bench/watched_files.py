"""What an agent costs while it watches twenty files of a run that do not change.

CPU in percent of one core; the same run with twenty files that have all arrived.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.idle import seconds
from tests.faults.stack import Stack

FILES = 20
CPU_PERCENT = 2.0
SETTLE_SECONDS = 10.0
SCRIPT = """
import os, time
from pathlib import Path
folder = Path(os.environ["LAB_RUN_DIR"], os.environ["LAB_RUN_NAME"])
folder.mkdir(parents=True, exist_ok=True)
for number in range({files}):
    (folder / f"{{number}}.csv").write_text("epoch,loss\\n" + "1,0.5\\n" * 10_000)
time.sleep({seconds})
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    length = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder)) as stack:
        lab = stack.lab().start()
        agent = stack.agent(lab, "gpu1").start()
        script = SCRIPT.format(files=FILES, seconds=length + 10 * SETTLE_SECONDS)
        uid = lab.submit([sys.executable, "-c", script])
        lab.wait_running(uid)
        time.sleep(SETTLE_SECONDS)
        arrived = lab.get(f"/api/sync/status/{uid}")["data"]["files"]
        assert len(arrived) >= FILES, sorted(arrived)
        assert agent.process is not None
        process = psutil.Process(agent.process.pid)
        before = seconds(process)
        time.sleep(length)
        percent = 100 * (seconds(process) - before) / length
    print(f"agent with {len(arrived)} watched files at rest: {percent:.2f} % of a core", end=" ")
    print(f"(to hold: {CPU_PERCENT:.0f} %)")
    return 0 if percent < CPU_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main())
