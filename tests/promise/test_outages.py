"""Connection lost is not job dead: a minute without server, network or agent.

Each time a long job lives through the whole outage, and a short one ends within it: its end, and
what it wrote by then, must arrive as well.
"""

import csv
import sys
import time
from pathlib import Path

import pytest

from tests.faults import processes
from tests.faults.processes import Born, wait_for
from tests.faults.proxy import FaultProxy
from tests.faults.stack import Agent, Lab, Stack
from tests.promise.witness import UNTIL_TOLD_SECONDS, Witness

OUTAGE_SECONDS = 60.0
LONG_SECONDS = OUTAGE_SECONDS + 20
SHORT_SECONDS = 20.0
GPU = {"gpus": 1}

DIGITS = f"""\
epochs: {int(LONG_SECONDS)}
batch_size: 256
width: 8
epoch_seconds: 1
lab:
  command: [python, examples/digits/train.py, --config, "{{config}}"]
  python: {sys.prefix}
"""


def start_both(lab: Lab, agent: Agent) -> tuple[Witness, ...]:
    """A job that outlives the outage, and one under `requeue` that ends within it."""
    return (
        Witness.start(lab, agent, UNTIL_TOLD_SECONDS, "long", resources=GPU),
        Witness.start(lab, agent, SHORT_SECONDS, "short", resources=GPU, on_device_lost="requeue"),
    )


def test_a_server_that_is_killed_and_away_for_a_minute(stack: Stack):
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1", None, "--simulate-gpus", "2").start()
    running = start_both(lab, agent)

    lab.kill_all()
    time.sleep(OUTAGE_SECONDS)
    assert running[0].goes_on()
    lab.start()
    agent.wait_healthy()

    for witness in running:
        witness.ends_well()


def test_the_real_example_trains_on_while_the_server_is_killed_and_away(stack: Stack):
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1").start()
    wish = {"project": "digits", "config": DIGITS, "resources": {"gpus": 0}}
    uid = lab.post("/api/jobs/", **wish)["uid"]
    process = lab.wait_running(uid)
    metrics = agent.run_dir("digits") / "run_001.csv"
    wait_for(lambda: epochs(metrics), "an epoch is done", 60)

    lab.kill_all()
    before = len(epochs(metrics))
    time.sleep(OUTAGE_SECONDS)
    assert len(epochs(metrics)) > before
    lab.start()

    Witness(lab, agent, uid, process, Path("/nonexistent"), "digits").ends_well(240)
    done = epochs(lab.run_dir("digits") / "run_001.csv")
    assert done == list(range(1, int(LONG_SECONDS) + 1))


@pytest.mark.parametrize("fault", [FaultProxy.cut, FaultProxy.fall_silent])
def test_an_agent_that_is_cut_off_for_a_minute(stack: Stack, fault):
    lab = stack.lab().start()
    proxy = stack.proxy(lab)
    agent = stack.agent(lab, "gpu1", proxy.url, "--simulate-gpus", "2").start()
    running = start_both(lab, agent)
    status = f"/api/sync/status/{running[0].uid}"
    wait_for(lambda: lab.get(status)["data"]["sync_status"], "some of it has arrived", 20)

    fault(proxy)
    time.sleep(OUTAGE_SECONDS)
    assert running[0].goes_on()
    assert lab.device("gpu1")["state"] == "disconnected"
    assert [lab.job(witness.uid)["state"] for witness in running] == ["running"] * 2
    assert lab.get(status)["data"]["sync_status"] == "outdated"
    proxy.heal()
    agent.wait_healthy()

    for witness in running:
        witness.ends_well()


def test_an_agent_that_is_killed_and_started_again(stack: Stack):
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1", None, "--simulate-gpus", "2").start()
    running = start_both(lab, agent)

    agent.kill()
    wait_for(lambda: not running[1].process.alive, "the short job is over", SHORT_SECONDS + 5)
    agent.start()
    for _ in range(5):  # also one that hardly came to be
        agent.kill()
        agent.launch()
        time.sleep(0.3)
    agent.wait_healthy()
    assert running[0].goes_on()

    for witness in running:
        witness.ends_well()


def test_an_agent_that_is_killed_while_a_job_starts(stack: Stack):
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1", None, "--simulate-gpus", "8").start()

    uids = []
    for pause_seconds in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4):
        truth = agent.folder / f"truth{len(uids)}"
        uids.append((lab.submit_workload(truth, 20, resources=GPU), truth))
        time.sleep(pause_seconds)
        agent.kill()
        agent.start()

    for uid, truth in uids:  # two processes of one job would both have written there
        assert Witness(lab, agent, uid, None, truth).ends_well()["state"] == "succeeded"


def test_answers_to_polls_that_are_lost(stack: Stack):
    lab = stack.lab().start()
    proxy = stack.proxy(lab)
    agent = stack.agent(lab, "gpu1", proxy.url, "--poll-interval", "2").start()

    proxy.lose_answers("/api/agent/poll", times=3)  # among them the one that brings the job
    witness = Witness.start(lab, agent, UNTIL_TOLD_SECONDS)
    proxy.lose_answers("/api/agent/poll", times=3)
    wait_for(lambda: proxy.lost["/api/agent/poll"] == 6, "six answers are lost", 20)

    assert witness.goes_on()
    witness.ends_well()


def test_answers_to_events_that_are_lost(stack: Stack):
    lab = stack.lab().start()
    proxy = stack.proxy(lab)
    agent = stack.agent(lab, "gpu1", proxy.url).start()

    proxy.lose_answers("/api/agent/attempts/", times=3)  # started
    witness = Witness.start(lab, agent, 10)
    wait_for(lambda: lost(proxy, "/api/agent/attempts/") == 3, "three answers are lost", 20)
    proxy.lose_answers("/api/agent/attempts/", times=3)  # exited

    wait_for(lambda: lost(proxy, "/api/agent/attempts/") == 6, "three more are lost", 40)
    assert witness.ends_well()["state"] == "succeeded"


def test_answers_to_deltas_and_uploads_that_are_lost(stack: Stack):
    lab = stack.lab().start()
    proxy = stack.proxy(lab)
    agent = stack.agent(lab, "gpu1", proxy.url).start()
    witness = Witness.start(lab, agent, UNTIL_TOLD_SECONDS)

    for path in ("/api/sync/delta/", "/api/sync/full/", "/api/sync/"):
        proxy.lose_answers(path, times=5)
        wait_for(lambda path=path: lost(proxy, path) >= 5, f"answers to {path} are lost", 40)

    assert witness.goes_on()
    witness.ends_well()


def test_a_line_that_breaks_within_every_upload(stack: Stack):
    lab = stack.lab().start()
    proxy = stack.proxy(lab)
    agent = stack.agent(lab, "gpu1", proxy.url).start()
    witness = Witness.start(lab, agent, UNTIL_TOLD_SECONDS)

    for kilobytes in range(5, 205, 10):
        proxy.reset_after_bytes = kilobytes * 1000
        time.sleep(1)
    proxy.heal()

    assert witness.goes_on()
    witness.ends_well()


def test_a_web_process_that_is_killed_during_uploads(stack: Stack):
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1").start()
    witness = Witness.start(lab, agent, UNTIL_TOLD_SECONDS)

    for _ in range(5):
        web = Born.of(lab.program("web"))
        time.sleep(2.3)
        kill_one(lab, web)

    assert witness.goes_on()
    witness.ends_well()


def kill_one(lab: Lab, web: Born) -> None:
    processes.kill([web])
    wait_for(lambda: lab.program("web") != web.pid, "another web process", 30)


def epochs(metrics: Path) -> list[int]:
    """The epochs that the example's CSV tells of."""
    if not metrics.exists():
        return []
    with metrics.open(newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def lost(proxy: FaultProxy, beginning: str) -> int:
    return sum(n for path, n in proxy.lost.items() if path.startswith(beginning))
