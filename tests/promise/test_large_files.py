"""A checkpoint on its way while server and agent are killed: it goes on, and ends up whole."""

import sys
from pathlib import Path

from tests.faults.processes import wait_for
from tests.faults.stack import Agent, Lab, Stack, sha256_of

SIZE_BYTES = 96 * 1024**2
BYTES_PER_SECOND = 8e6
SECONDS = 120.0
WRITES = (  # by rename: a busy disk may hold up a write for as long as a file stands still
    "import os; at = os.environ['LAB_CHECKPOINT']; "
    f"open(at + '.part', 'wb').write(os.urandom({SIZE_BYTES})); os.rename(at + '.part', at); "
    "open(os.environ['LAB_METRICS_CSV'], 'w').write('epoch,loss\\n0,1\\n')"
)


def test_a_checkpoint_survives_kills_of_both_sides_and_sends_little_twice(stack: Stack):
    lab = stack.lab().start()
    proxy = stack.proxy(lab)
    proxy.bytes_per_second = BYTES_PER_SECOND
    agent = stack.agent(lab, "gpu1", proxy.url).start()
    uid = lab.submit([sys.executable, "-c", WRITES])

    for share, kill in ((0.15, lab.kill_all), (0.4, agent.kill), (0.6, lab.kill_all)):
        had = wait_for(lambda: enough(lab, share), f"{share:.0%} has come", SECONDS)  # noqa: B023
        kill()
        (agent.launch if kill == agent.kill else lab.start)()
        assert received(lab) >= had - 8 * 1024**2  # at most the chunk that was being written

    wait_for(lambda: whole(lab, agent), "it is whole", SECONDS)
    files = lab.get(f"/api/sync/status/{uid}")["data"]["files"]
    assert files["run_001.pt"]["generation"] == 1
    assert files["run_001.pt"]["complete"]
    lab.wait_state(uid, "succeeded")


def received(lab: Lab) -> int:
    """Bytes of the upload on the server's disk; all of a file that is in its place."""
    parts = list((lab.data_dir / "logs" / ".uploads").glob("*"))
    placed = lab.run_dir() / "run_001.pt"
    found: list[Path] = parts or [placed]
    return max((path.stat().st_size for path in found if path.exists()), default=0)


def enough(lab: Lab, share: float) -> int:
    has = received(lab)
    return has if has > share * SIZE_BYTES else 0


def whole(lab: Lab, agent: Agent) -> bool:
    there = sha256_of(lab.run_dir(), "run_001")
    return there == sha256_of(agent.run_dir(), "run_001") and "run_001.pt" in there
