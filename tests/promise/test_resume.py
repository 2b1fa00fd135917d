"""A host is lost with all that ran on it: its jobs end elsewhere with the curves that they would
have had."""

import csv
import sys

import pytest

from tests.faults import processes, resumable
from tests.faults.processes import wait_for
from tests.faults.stack import Agent, Lab, Stack

pytest.importorskip("torch", reason="the example's packages are not installed")

EPOCHS = 25
KNOWN_EPOCHS = 4
DISCONNECTED_SECONDS = 60.0
ENDS_SECONDS = 180.0
GPU = {"gpus": 1}  # simulated; jobs without one would take turns
CARDS = ("--simulate-gpus", "3")
DIGITS = """\
epochs: {epochs}
width: 8
epoch_seconds: {seconds}
lab:
  command: [python, examples/digits/train.py, --config, "{{config}}"]
  python: {prefix}
"""


def submit_digits(lab: Lab, seconds: float) -> str:
    config = DIGITS.format(epochs=EPOCHS, seconds=seconds, prefix=sys.prefix)
    wish = {"project": "digits", "config": config, "resources": GPU}
    return str(lab.post("/api/jobs/", **wish)["uid"])


def submit_resumable(lab: Lab) -> str:
    script = [sys.executable, resumable.__file__, "--epochs", str(EPOCHS), "--seconds", "1"]
    return lab.submit(script, resources=GPU)


def rows(lab: Lab, uid: str) -> list[dict[str, str]]:
    """Of the run's CSV at the server, without the one column that no two runs share."""
    job = lab.job(uid)
    path = lab.run_dir(job["project"]) / f"{job['run_name']}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def is_under_way(lab: Lab, uid: str) -> bool:
    """Whether some rows of it and a checkpoint have arrived."""
    job = lab.job(uid)
    folder = lab.run_dir(job["project"])
    checkpoints = [*folder.glob(f"{job['run_name']}.pt"), *folder.glob(f"{job['run_name']}/*.pt")]
    return len(rows(lab, uid)) >= KNOWN_EPOCHS and bool(checkpoints)


def lose(host: Agent) -> None:
    """The agent, the supervisors and the jobs, all at once."""
    processes.kill(processes.mentioning(host.folder))


def text(lab: Lab, uid: str, suffix: str) -> str:
    job = lab.job(uid)
    return (lab.run_dir(job["project"]) / f"{job['run_name']}{suffix}").read_text()


def test_jobs_of_a_lost_host_end_elsewhere_with_the_curves_of_undisturbed_ones(stack: Stack):
    lab = stack.lab().start()
    host = stack.agent(lab, "gpu1", None, *CARDS).start()
    uids = [submit_digits(lab, seconds=1)]
    wait_for(lambda: rows(lab, uids[0]), "its packages are loaded", 90)
    uids.append(submit_resumable(lab))
    wait_for(lambda: all(is_under_way(lab, uid) for uid in uids), "some epochs", 90)

    lose(host)
    wait_for(
        lambda: lab.device("gpu1")["state"] == "disconnected", "it is lost", DISCONNECTED_SECONDS
    )
    for uid in uids:
        lab.post(f"/api/jobs/{uid}/give_up/", requeue=True)
    stack.agent(lab, "gpu2", None, *CARDS).start()
    undisturbed = submit_digits(lab, seconds=0)
    for uid in [*uids, undisturbed]:
        lab.wait_state(uid, "succeeded", ENDS_SECONDS)

    wait_for(lambda: len(rows(lab, undisturbed)) == EPOCHS, "its rows are there", 30)
    wait_for(lambda: rows(lab, uids[0]) == rows(lab, undisturbed), "the same curve", 30)
    wait_for(lambda: text(lab, uids[1], ".csv") == resumable.curve(EPOCHS), "the same curve", 30)
    assert "Going on after epoch" in text(lab, uids[0], ".log")
    assert "going on after epoch" in text(lab, uids[1], ".log")
    for uid in uids:
        devices = [attempt["device"] for attempt in lab.job(uid)["attempts"]]
        assert devices == ["gpu1", "gpu2"]
