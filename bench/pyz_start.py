"""From `python agent.pyz` to its first heartbeat: on a new host, and when it has been unpacked.

Against a server that answers at once: what is measured is the agent alone. The first start also
unpacks, compiles and enrolls.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.agent.server import FakeServer, serving

FIRST_SECONDS = 3.0
REPEATS = 3


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "labsite.settings")
    from labsite.zipapps import AGENT

    first, again = [], []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, serving() as server:
            pyz = Path(folder) / "agent.pyz"
            pyz.write_bytes(AGENT.content)
            first.append(start(pyz, server))
            again.append(start(pyz, server))
    size = len(AGENT.content) / 1e6
    print(
        f"agent.pyz ({size:.2f} MB) to its first heartbeat: {min(first):.2f} s on a new host "
        f"(to hold: {FIRST_SECONDS:.0f}), {min(again):.2f} s once unpacked"
    )
    return 0 if min(first) <= FIRST_SECONDS else 1


def start(pyz: Path, server: FakeServer) -> float:
    """Seconds until the server has heard of it."""
    beats = len(server.asked("/api/devices/heartbeat"))
    folder = str(pyz.parent)
    command = [sys.executable, str(pyz), "--server", server.url, "--enroll-code", "a-code"]
    command += ["--state-dir", folder, "--workdir", folder, "--lock-dir", folder]
    began = time.monotonic()
    with subprocess.Popen(command, cwd=folder, env={}, stderr=subprocess.DEVNULL) as agent:
        server.wait(lambda: len(server.asked("/api/devices/heartbeat")) > beats)
        seconds = time.monotonic() - began
        agent.terminate()
    return seconds


if __name__ == "__main__":
    sys.exit(main())
