"""Each guide as its reader does it: its files are saved, its YAML is queued, its job runs on a
real server and agent, and the curve that it promises is there."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import wait_for
from tests.faults.stack import PROJECT, ROOT, Lab, Stack

GUIDES = ROOT / "docs" / "guides"
KOREAN = ROOT / "docs" / "ko" / "guides"
NAMES = sorted(path.stem for path in GUIDES.glob("*.md"))
SYNC_SECONDS = 60.0
RUN_SECONDS = 240.0  # torch is imported twice while other tests have the processors


def files_of(guide: Path) -> dict[str, str]:
    """What a reader saves from it: each block of code that has a name above it."""
    found = re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```", guide.read_text(), re.M | re.S)
    return dict(found)


class Desk:
    """A lab with one host of simulated GPUs, and a folder of code on it with a venv."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.code = folder / "code"
        self.code.mkdir()
        (self.code / ".venv").symlink_to(ROOT / ".venv")
        self.lab: Lab = stack.lab().start()
        options = ("--simulate-gpus", "4", "--source", str(self.code))
        stack.agent(self.lab, "gpu1", None, *options).start()

    def save(self, guide: str) -> dict[str, str]:
        files = files_of(GUIDES / f"{guide}.md")
        for name, content in files.items():
            (self.code / name).write_text(content)
        return files

    def queue(self, config: str, **more: Any) -> str:
        answer = self.lab.post("/api/jobs/", project=PROJECT, config=config, **more)
        return str(answer["uid"])

    def ended(self, uid: str, *metrics: str) -> dict[str, Any]:
        """It, when it has succeeded and these of its metrics are drawn."""
        job = self.lab.wait_state(uid, "succeeded", RUN_SECONDS)
        assert [one["outcome"] for one in job["attempts"]] == ["succeeded"]
        wait_for(lambda: set(metrics) <= self._drawn(uid), f"{metrics} of {uid}", SYNC_SECONDS)
        return job

    def _drawn(self, uid: str) -> set[str]:
        summary = self.lab.job(uid)["summary"]
        return {*summary.get("columns", []), *summary.get("others", {}).get("columns", [])}

    def log(self, uid: str) -> str:
        name = self.lab.job(uid)["run_name"]
        return (self.lab.run_dir() / f"{name}.log").read_text()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("guides")
    (folder / "stack").mkdir()
    with Stack(folder / "stack") as stack:
        yield Desk(stack, folder)


def run(desk: Desk, guide: str, config: str, *metrics: str) -> dict[str, Any]:
    return desk.ended(desk.queue(desk.save(guide)[config]), *metrics)


def test_a_plain_script_is_drawn_as_it_is_and_goes_on_with_labrun(desk):
    plain = run(desk, "plain-script", "plain.yaml", "loss")
    on = run(desk, "plain-script", "on.yaml", "step", "loss")

    assert "epoch 19" in desk.log(plain["uid"])
    wait_for((desk.lab.run_dir() / f"{on['run_name']}.pt").exists, "its checkpoint", SYNC_SECONDS)


def test_a_main_py_with_its_own_yaml_stays_as_it_is(desk):
    done = run(desk, "main-config", "mstar.yaml", "train_loss", "val_loss")

    assert (done["keys"]["epochs"], done["keys"]["lr"]) == (10, 0.5)


def test_lightning(desk):
    pytest.importorskip("pytorch_lightning")

    done = run(desk, "lightning", "fit.yaml", "train/loss")

    checkpoint = desk.lab.run_dir() / done["run_name"] / "last.ckpt"
    assert wait_for(checkpoint.exists, "its checkpoint", SYNC_SECONDS)


def test_hugging_face_trainer(desk):
    pytest.importorskip("accelerate")
    pytest.importorskip("transformers")

    done = run(desk, "hf-trainer", "finetune.yaml", "train/loss")

    checkpoint = desk.lab.run_dir() / done["run_name"] / "checkpoint-8" / "trainer_state.json"
    assert wait_for(checkpoint.exists, "its checkpoint", SYNC_SECONDS)


def test_two_jobs_of_torchrun_on_one_host_at_once(desk):
    pytest.importorskip("torch")
    config = desk.save("torchrun")["ddp.yaml"]

    both = [desk.queue(config) for _ in range(2)]

    jobs = [desk.ended(uid, "step", "loss") for uid in both]
    times = [(one["started_at"], one["ended_at"]) for job in jobs for one in job["attempts"]]
    assert max(began for began, _ in times) < min(ended for _, ended in times)
    for job in jobs:
        rows = (desk.lab.run_dir() / f"{job['run_name']}.csv").read_text().splitlines()
        assert [row.partition(",")[0] for row in rows] == ["step", "0", "1", "2", "3", "4"]


@pytest.mark.parametrize("name", NAMES)
def test_a_guide_says_the_same_in_korean(name):
    assert files_of(KOREAN / f"{name}.md") == files_of(GUIDES / f"{name}.md") != {}


def test_each_guide_has_its_test():
    tested = re.findall(r'(?:run|save)\((?:desk, )?"([\w-]+)"', Path(__file__).read_text())

    assert set(NAMES) == set(tested)
    assert sorted(os.listdir(KOREAN)) == sorted(os.listdir(GUIDES))
