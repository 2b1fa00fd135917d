"""What a lab has already, as it lies on a disk, brought in by the real command: the curves are
those of the files, and the same command once more finds nothing to do."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import ROOT, Lab, environment
from tests.e2e.test_lab import SCRIPT, Student
from tests.sync.curves import Seen

pytest.importorskip("torch")
pytest.importorskip("tensorboard")
LOSSES = [2.5, 1.25, 0.625, 0.5]
ACCURACIES = [0.25, 0.5, 0.75]
CHECKPOINT = os.urandom(9 * 1024 * 1024)  # more than goes in one request
BEGAN, ENDED = 1_709_287_200, 1_709_290_800
#: A person, a key for their programs, and a session of their browser.
PERSON = """\
from django.contrib.auth import get_user_model as model
from django.test import Client
from labsite.clock import database_now
from people.models import ApiToken
user, client = model().objects.create_user('kim'), Client()
client.force_login(user)
print(ApiToken.make(user, 'laptop', database_now())[1], client.cookies['sessionid'].value)
"""


class Kim(Student):
    """Signed in, with a browser."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        made = subprocess.run(
            [sys.executable, "manage.py", "shell", "-v0"],
            input=PERSON,
            cwd=ROOT,
            env=environment(LAB_DATA_DIR=str(lab.data_dir)),
            capture_output=True,
            text=True,
            check=True,
        )
        token, self.session = made.stdout.split()[-2:]
        script = folder / "lab"
        script.write_text(SCRIPT)
        script.chmod(0o755)
        super().__init__(folder, script, lab.url)
        self.environ |= {"LAB_SERVER": lab.url, "LAB_TOKEN": token}
        self._site = lab

    def told(self, *words: str) -> Any:
        said = self.lab(*words, "--json")
        assert said.code == 0, said.err
        return said.json

    def sees(self, uid: str) -> Seen:
        """The curves of a run's page."""
        answer = self._site.get(f"/runs/{uid}/curve/", cookies={"sessionid": self.session})
        return Seen(answer.json())


@pytest.fixture(scope="module")
def kim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kim]:
    lab = Lab(tmp_path_factory.mktemp("lab") / "data")
    try:
        yield Kim(lab.start(), tmp_path_factory.mktemp("kim"))
    finally:
        lab.interrupt()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference project's logs, and a folder of TensorBoard's below them."""
    from torch.utils.tensorboard import SummaryWriter

    logs = tmp_path_factory.mktemp("old") / "logs"
    digits = logs / "digits"
    (digits / "run_003" / "images").mkdir(parents=True)
    with (digits / "run_003.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["epoch", "loss"], *enumerate(LOSSES)])
    (digits / "run_003.yaml").write_bytes(b"lr: 0.1  # mine\r\nmodel: {depth: 18}\n")
    (digits / "run_003.pt").write_bytes(CHECKPOINT)
    (digits / "run_003" / "images" / "에폭 1.txt").write_text("x")
    for path in digits.rglob("*"):
        moment = BEGAN if path.suffix == ".yaml" else ENDED
        os.utime(path, (moment, moment))
    with SummaryWriter(str(digits / "runs" / "exp1")) as writer:
        for step, value in enumerate(ACCURACIES):
            writer.add_scalar("val/acc", value, step)
    return logs


@pytest.fixture(scope="module")
def imported(kim: Kim, tree: Path) -> dict[str, dict[str, Any]]:
    """After a look at what it would be."""
    foreseen = kim.lab("import", str(tree), "--dry-run")
    assert (foreseen.code, foreseen.err) == (0, "")
    assert "digits/run_003" in foreseen.out
    assert kim.told("ls")["count"] == 0  # nothing was made
    made = kim.told("import", str(tree), "--tag", "old")["runs"]
    return {run["name"]: run for run in made}


def test_a_run_of_files_is_one_here_with_its_number_its_config_and_its_times(kim, imported):
    said = imported["run_003"]

    job = kim.told("show", said["uid"])

    assert (said["status"], said["run_name"], said["sent_files"]) == ("new", "run_003", 4)
    assert (job["keys"], job["tags"]) == ({"lr": 0.1, "model": {"depth": 18}}, ["old"])
    assert (job["started_at"], job["finished_at"]) == (
        "2024-03-01T10:00:00Z", "2024-03-01T11:00:00Z",
    )  # fmt: skip
    assert (job["attempts"], job["summary"]["rows"]) == ([], len(LOSSES))
    assert job["summary"]["min"]["loss"] == min(LOSSES)
    assert kim.sees(said["uid"]).series["loss"] == LOSSES


def test_a_folder_of_tensorboards_is_one_too(kim, imported):
    said = imported["exp1"]

    job = kim.told("show", said["uid"])

    assert (job["project"], job["run_name"], job["name"]) == ("digits", "run_004", "exp1")
    assert job["summary"]["others"]["max"]["val/acc"] == max(ACCURACIES)
    assert kim.sees(said["uid"]).series["val/acc"] == ACCURACIES


def test_the_files_come_back_byte_for_byte(kim, imported, tree, tmp_path):
    kim.lab("pull", imported["run_003"]["uid"], str(tmp_path))

    digits = tree / "digits"
    files = [path for path in digits.rglob("*") if path.is_file() and "run_003" in str(path)]
    assert len(files) == 4
    for path in files:
        assert (tmp_path / path.relative_to(digits)).read_bytes() == path.read_bytes()


def test_once_more_there_is_nothing_to_do(kim, imported, tree):
    again = kim.lab("import", str(tree))

    assert (again.code, again.out.splitlines()[-1]) == (
        0, "0 imported, 2 were there already; 0 files (0 B) sent",
    )  # fmt: skip
    assert kim.told("ls")["count"] == 2


def test_what_grew_is_brought_up_to_date_and_nothing_else_is_sent(kim, imported, tree, tmp_path):
    copy = tmp_path / "elsewhere"  # another machine's: it is known by what is in it
    shutil.copytree(tree, copy)
    with (copy / "digits" / "run_003.csv").open("a") as file:
        file.write("4,0.125\n")

    said = kim.told("import", str(copy))["runs"]

    assert sorted((run["name"], run["status"], run["sent_files"]) for run in said) == [
        ("exp1", "there", 0), ("run_003", "there", 1),
    ]  # fmt: skip
    assert kim.sees(imported["run_003"]["uid"]).series["loss"] == [*LOSSES, 0.125]
