"""The example once more on another GPU server: the same code, and the same curve.

A real server, two real agents with homes, folders and hosts of their own, and `lab` as a student
types it in a repository with changes that are in no commit.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_code import content, git, write
from tests.e2e.test_lab import SCRIPT
from tests.faults.processes import wait_for
from tests.faults.stack import ROOT, Agent, Lab, Stack

pytest.importorskip("torch", reason="the example's packages are not installed")

EXAMPLE = ROOT / "examples" / "digits"
#: Before the example: what it was given lies in the run's files then.
KEEP = """\
import os, pathlib, shutil, sys
run = pathlib.Path(os.environ["LAB_RUN_DIR"])
shutil.copytree(".", run / os.environ["LAB_RUN_NAME"] / "code", symlinks=True)
print("in", pathlib.Path.cwd(), flush=True)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
SECONDS = 90


class Student:
    def __init__(self, folder: Path, lab: Lab) -> None:
        self.folder = folder
        self._script = folder.parent / "lab"
        write(self._script, SCRIPT, 0o755)
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder.parent),
            "LAB_SERVER": lab.url,
            "LAB_TOKEN": str(lab._session.headers["Authorization"]).split()[1],
        }

    def lab(self, *words: str) -> str:
        done = subprocess.run(
            [str(self._script), *words],
            cwd=self.folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The example, with fewer epochs and another width than is in its commit."""
    top = tmp_path / "desk" / "digits"
    shutil.copytree(EXAMPLE, top, ignore=shutil.ignore_patterns("__pycache__"))
    git(top, "init", "-q", "-b", "main")
    git(top, "add", ".")
    git(top, "commit", "-qm", "as it came")
    config = (top / "digits.yaml").read_text()
    write(top / "digits.yaml", config.replace("epochs: 80", "epochs: 3").replace("32", "16"))
    write(top / "keep.py", KEEP)  # in no commit at all
    return top


def started(stack: Stack, lab: Lab, host_id: str) -> Agent:
    agent = stack.agent(lab, host_id)
    agent.within = ["env", f"HOME={agent.folder / 'home'}"]
    (agent.folder / "home").mkdir()
    return agent.start()


def ran(lab: Lab, uid: str, on: Agent) -> tuple[dict[str, Any], Path]:
    """The job as it ended, and its files as the server has them."""
    job = lab.wait_state(uid, "succeeded", SECONDS)
    assert [one["device"] for one in job["attempts"]] == [on.host_id]
    files, name = lab.run_dir("digits"), job["run_name"]
    own = on.run_dir("digits")
    sent = [own / f"{name}.csv", own / f"{name}.log", *(own / name).rglob("*.*")]
    for path in sent:
        arrived = files / path.relative_to(own)
        wait_for(
            lambda a=arrived, p=path: a.exists() and a.read_bytes() == p.read_bytes(),
            f"{arrived} is there", 30,
        )  # fmt: skip
    return job, files / name


def curve(run: Path) -> list[dict[str, str]]:
    """Its rows without the one column that tells of the clock."""
    with run.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: row[name] for name in row if name != "seconds"} for row in rows]


def test_a_run_reruns_on_another_gpu_server_with_the_same_code_and_curve(repository, tmp_path):
    command = ["keep.py", "train.py", "--config", "{config}"]
    (tmp_path / "lab").mkdir()
    with Stack(tmp_path / "lab") as stack:
        lab = stack.lab().start()
        here = started(stack, lab, "gpu1")
        kim = Student(repository, lab)
        submitted = kim.lab(
            "submit", "digits.yaml", "--json", "--gpus", "0", "--python", sys.prefix,
            "--env", "CUBLAS_WORKSPACE_CONFIG=:4096:8", "--", sys.executable, *command,
        )  # fmt: skip
        first, first_run = ran(lab, json.loads(submitted)["uid"], here)

        lab.post(f"/api/devices/{here.host_id}/drain/")
        there = started(stack, lab, "gpu2")
        sent = content(repository, without=(".git/",))
        shutil.rmtree(repository)  # what the server has is enough
        repository.mkdir()
        again, again_run = ran(
            lab, json.loads(kim.lab("rerun", first["uid"], "--json"))["uid"], there
        )
        shown = kim.lab("show", first["uid"])

    assert len(curve(first_run)) == 3
    assert curve(again_run) == curve(first_run)
    assert content(first_run / "code") == content(again_run / "code") == sent
    logs = [run.with_suffix(".log").read_text() for run in (first_run, again_run)]
    for log, agent in zip(logs, (here, there), strict=True):
        assert log.startswith(f"in {agent.work_dir}/")
    for name in ("source", "command", "environment", "python", "keys"):
        assert again[name] == first[name]
    snapshot = f"snapshot {first['code']['sha256'][:12]} of {first['code']['commit'][:12]} on main"
    assert f"{snapshot}, with changes in no commit" in shown
    assert "Variables" in shown
    assert "CUBLAS_WORKSPACE_CONFIG=:4096:8" in shown
    assert f"in {sys.prefix}" in shown
    assert f"lab rerun {first['uid']}" in shown
