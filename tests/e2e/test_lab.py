"""The people's command against a whole server and an agent, as a student types it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.cli.__main__ import main
from tests.e2e.lab import ROOT, Lab, wait_for

#: What pip writes for `[project.scripts]`, behind PYTHONPATH as an installation is.
SCRIPT = f"""\
#!{sys.executable}
import sys
sys.path.append({str(ROOT)!r})
from labcommand import main
sys.exit(main())
"""
#: Trains for a moment; fails above a rate of 5; waits for a file `go`, if asked to.
TRAIN = """\
import csv, os, pathlib, sys, time
rate = float(sys.argv[sys.argv.index("--lr") + 1])
print(f"\\x1b[32mrate {rate}\\x1b[0m", flush=True)
with open(os.environ["LAB_METRICS_CSV"], "a", newline="") as file:
    csv.writer(file).writerows([["epoch", "loss"], [0, rate], [1, rate / 2]])
while "--wait" in sys.argv and not pathlib.Path("go").exists():
    time.sleep(0.02)
print("done", flush=True)
sys.exit(rate > 5)
"""
#: A student's own files, which are none of ours.
TRAPS = ("agent.py", "requests.py", "yaml.py", "rich.py", "run.py", "argparse.py")
SECONDS = 60


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Student:
    """Somebody with a shell in a folder of their own."""

    def __init__(self, folder: Path, script: Path, url: str) -> None:
        self.folder, self.script, self.url = folder, script, url
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder.parent / "home"),
            "PYTHONPATH": ".",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "error",
        }

    def start(self, *words: str, **environ: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(self.script), *words],
            cwd=self.folder,
            env=self.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def lab(self, *words: str, said: str = "", **environ: str) -> Said:
        done = subprocess.run(
            [str(self.script), *words],
            cwd=self.folder,
            env=self.environ | environ,
            input=said.encode(),
            capture_output=True,
            timeout=SECONDS,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One server for all of these tests, with an agent on this machine and no code on it."""
    folder = tmp_path_factory.mktemp("lab")
    source = folder / "source"
    source.mkdir()
    lab = Lab(folder / "data", "--agent", "--source", str(source))
    try:
        yield lab.start()
    finally:
        lab.interrupt()


@pytest.fixture(scope="module")
def token(lab: Lab) -> str:
    made = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v0"],
        input="from django.contrib.auth import get_user_model as model\n"
        "from people.models import ApiToken\n"
        "from labsite.clock import database_now\n"
        "user = model().objects.create_user('kim')\n"
        "print(ApiToken.make(user, 'laptop', database_now())[1])\n",
        cwd=ROOT,
        env=os.environ | {"LAB_DATA_DIR": str(lab.data_dir)},
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.split()[-1]


@pytest.fixture(scope="module")
def kim(lab: Lab, token: str, tmp_path_factory: pytest.TempPathFactory) -> Student:
    """Signed in, in a folder named digits that is full of traps."""
    folder = tmp_path_factory.mktemp("kim") / "digits"
    folder.mkdir()
    for name in TRAPS:
        (folder / name).write_text("raise SystemExit('a file of yours was imported')\n")
    (folder / "train.py").write_text(TRAIN)
    script = folder.parent / "bin" / "lab"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    script.chmod(0o755)
    student = Student(folder, script, lab.url)
    signed_in = student.lab("login", lab.url, said=token)
    assert (signed_in.code, signed_in.out) == (
        0, f"You are kim (researcher) at {lab.url} now.\n",
    )  # fmt: skip
    return student


def submitted(kim: Student, *words: str) -> str:
    """The uid of a run that was queued."""
    said = kim.lab("submit", "--json", "--gpus", "0", *words)
    assert said.code == 0, said.err
    return str(said.json["uid"])


def state(kim: Student, uid: str) -> str:
    return str(kim.lab("show", uid, "--json").json["state"])


def test_a_plain_command_runs_and_its_output_and_end_are_the_commands(kim: Student) -> None:
    said = kim.lab("submit", "--gpus", "0", "--watch", "--", "python", "train.py", "--lr", "1")

    assert said.code == 0, said.err
    assert "python train.py --lr 1" in said.out  # shown before it was queued
    assert "digits / run_" in said.out  # the folder's name is the project's
    assert said.out.endswith("\x1b[32mrate 1.0\x1b[0m\ndone\n")
    assert "succeeded" in said.err


def test_a_run_that_fails_is_exit_code_1_and_says_why(kim: Student) -> None:
    said = kim.lab("submit", "--gpus", "0", "--watch", "--", "python", "train.py", "--lr", "9")

    assert said.code == 1
    assert "failed. The script stopped with an error (exit code 1)." in said.err


def test_a_dry_run_queues_nothing(kim: Student) -> None:
    before = kim.lab("ls", "--json").json["count"]

    said = kim.lab("submit", "--dry-run", "--json", "--code", "host", "--", "python", "a.py")

    assert said.json["command"] == ["python", "a.py"]
    assert said.json["places"][0]["folder"].endswith("source")
    assert kim.lab("ls", "--json").json["count"] == before


def test_a_dry_run_sends_no_code_and_says_what_would_be_sent(kim: Student, lab: Lab) -> None:
    (kim.folder / "never-sent.txt").write_text("only looked at\n" * 300)
    before = sorted((lab.data_dir / "code").rglob("*"))

    said = kim.lab("submit", "--dry-run", "--json", "--", "python", "train.py", "--lr", "1")
    shown = kim.lab("submit", "--dry-run", "--", "python", "train.py", "--lr", "1").out

    assert said.json["source"]["kind"] == "snapshot"
    assert said.json["snapshot"]["files"] == len(list(kim.folder.iterdir()))
    assert said.json["snapshot"]["largest"][0] == {"path": "never-sent.txt", "bytes": 4500}
    assert "(largest: never-sent.txt 4.4 KiB, " in shown
    assert sorted((lab.data_dir / "code").rglob("*")) == before
    (kim.folder / "never-sent.txt").unlink()


def test_a_config_that_names_its_code_gets_that_and_not_this_folder(
    kim: Student, tmp_path: Path
) -> None:
    config = tmp_path / "a.yaml"
    source = "{kind: git, url: 'https://git.invalid/lab/digits', commit: 3fd15250000}"
    config.write_text(f"lab: {{command: [x], source: {source}}}\n")

    said, own = (
        kim.lab("submit", str(config), "--dry-run", "--json", *words).json["source"]
        for words in ([], ["--code", "snapshot"])
    )

    assert (said["kind"], own["kind"]) == ("git", "snapshot")


def test_a_sweep_of_a_plain_command_is_watched_to_its_end(kim: Student) -> None:
    said = kim.lab(
        "submit", "--gpus", "0", "--watch", "--sweep", "lr=2,7",
        "--", "python", "train.py", "--lr", "0",
    )  # fmt: skip

    assert said.code == 1  # one of them failed
    assert said.err.splitlines()[-1] == "1 failed, 1 succeeded"
    rows = kim.lab("ls", "-c", "lr", "-c", "best:loss", "lr>=2", "--sort=-key:lr").out.splitlines()
    assert [line.split()[-2:] for line in rows[1:3]] == [["7", "3.5"], ["2", "1"]]


def test_a_config_is_queued_and_rerun_with_another_value(kim: Student, tmp_path: Path) -> None:
    config = tmp_path / "a.yaml"
    config.write_text("lr: 3  # mine\nlab: {command: [cat, '{config}'], resources: {gpus: 0}}\n")
    first = kim.lab("submit", str(config), "--name", "기준", "--tag", "a", "--watch", "--json")
    assert first.code == 0, first.err
    assert (first.json["name"], first.json["tags"]) == ("기준", ["a"])
    assert "??" in kim.lab("ls", "-n", "1", PYTHONIOENCODING="latin-1").out

    again = kim.lab("rerun", first.json["uid"], "--set", "lr=0.5", "--watch")

    assert again.code == 0, again.err
    assert "lr: 0.5  # mine" in again.out


def test_a_run_is_followed_while_it_prints_and_outlives_who_watches(kim: Student) -> None:
    uid = submitted(kim, "--", "python", "train.py", "--lr", "4", "--wait")
    with kim.start("logs", "-f", uid) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert watching.stdout.readline() == b"\x1b[32mrate 4.0\x1b[0m\n"

        watching.send_signal(signal.SIGINT)

        assert watching.wait(SECONDS) == 130
        assert b"Traceback" not in watching.stderr.read()
    assert state(kim, uid) == "running"
    assert kim.lab("why", uid).out.startswith("running: ")
    cancelled = kim.lab("cancel", uid)
    assert (cancelled.code, "is being stopped" in cancelled.out) == (0, True)
    wait_for(lambda: state(kim, uid) == "cancelled", "its end")


def test_files_are_pulled_once_and_the_same(kim: Student, tmp_path: Path) -> None:
    uid = submitted(kim, "--", "python", "train.py", "--lr", "1")
    wait_for(lambda: state(kim, uid) == "succeeded", "its end")
    wait_for(
        lambda: not kim.lab("pull", uid, str(tmp_path), "--json").json["growing"], "its last bytes"
    )

    name = kim.lab("show", uid, "--json").json["run_name"]
    assert (tmp_path / f"{name}.csv").read_text() == "epoch,loss\n0,1.0\n1,0.5\n"
    assert b"done" in (tmp_path / f"{name}.log").read_bytes()
    again = kim.lab("pull", uid, str(tmp_path))
    assert again.out.startswith("0 files (0 B) fetched")
    assert kim.lab("logs", uid, "-n", "1").out == "done\n"


def test_what_fits_nowhere_says_why(kim: Student) -> None:
    uid = submitted(kim, "--gpus", "3", "--", "true")

    wait_for(lambda: "ask for less" in kim.lab("why", uid).out, "dispatch")
    said = kim.lab("why", uid)

    assert (said.code, "it has no GPU" in said.out) == (0, True)
    assert kim.lab("cancel", uid).out.endswith("is cancelled\n")
    assert kim.lab("cancel", uid).code == 4  # it has ended


def test_the_lab_is_shown(kim: Student, lab: Lab) -> None:
    me, devices, projects = (kim.lab(verb, "--json") for verb in ("whoami", "devices", "projects"))

    assert (me.json["username"], me.json["server"]) == ("kim", lab.url)
    assert [one["state"] for one in devices.json["devices"]] == ["healthy"]
    assert "digits" in [one["name"] for one in projects.json["projects"]]
    assert kim.lab("devices").out.startswith("GPU SERVER")
    [newest] = kim.lab("ls", "-n", "1", "--json").json["runs"]
    assert kim.lab("open", newest["uid"]).out == f"{lab.url}/runs/{newest['uid']}/\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["submit"], 2, "What is to run?"),
        (["submit", "--"], 2, "Nothing stands behind --"),
        (["submit", "nowhere.yaml"], 2, "nowhere.yaml cannot be read"),
        (["submit", str(ROOT / "static" / "fonts")], 2, "cannot be read"),
        (["submit", "--gpus", "99", "--", "x"], 2, "not a whole number from 0 to 64"),
        (["submit", "--sweep", "lr", "--", "x"], 2, "write a name and a value"),
        (["submit", "--max-running", "2", "--", "x"], 2, "--max-running is for a sweep"),
        (["submit", "--seeds", "0", "--", "x"], 2, "--seeds must be 1 or more"),
        (["submit", "--project", "../x", "--", "x"], 2, "cannot be a folder's name"),
        (["submit", "--priority", "soon", "--", "x"], 2, "invalid choice: 'soon'"),
        (["ls", "lr<"], 2, "there has to be a value"),
        (["ls", "--sort", "nothing"], 2, "no column to order by"),
        (["show", "20200101_0000"], 5, "There is no run 20200101_0000"),
        (["show", "hello"], 2, "names no run"),
        (["logs", "nobody/run_001"], 5, "There is no run nobody/run_001"),
        (["cancel", "202"], 2, "may be several"),
        (["devices", "nowhere"], 5, "There is no GPU server nowhere"),
        (["rerun", "digits/run_001", "--set", "lr"], 2, "write a name and a value"),
        (["rerun", "digits/run_001", "--resume"], 2, "cannot be resumed"),
        (["--server", "http://127.0.0.1:9", "ls"], 4, "lab login http://127.0.0.1:9"),
        (["import", "nowhere"], 2, "nowhere is no folder"),
        (["import", "."], 5, "No runs were found in ."),
        (["dance"], 2, "invalid choice"),
    ],
)
def test_bad_input_is_a_sentence_and_an_exit_code(
    kim: Student,
    words: list[str],
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: a new one for each would take most of these tests' time."""
    monkeypatch.chdir(kim.folder)
    monkeypatch.setenv("HOME", kim.environ["HOME"])
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)

    try:
        ended = main(words)
    except SystemExit as exc:  # argparse's own
        ended = int(exc.code or 0)

    said = capsys.readouterr().err
    assert (ended, says in said) == (code, True), said


def test_an_error_is_an_object_for_programs(kim: Student) -> None:
    said = kim.lab("show", "20200101_0000", "--json")

    assert (said.out, json.loads(said.err)["exit_code"]) == ("", 5)


def test_a_worthless_token_and_a_server_that_is_away_are_told(kim: Student) -> None:
    revoked = kim.lab("ls", LAB_TOKEN="labp_0123456789")
    away = kim.lab("ls", LAB_TOKEN="labp_0123456789", LAB_SERVER="http://127.0.0.1:9")

    assert (revoked.code, "sign in again" in revoked.err) == (4, True)
    assert (away.code, "Nothing answers at" in away.err) == (3, True)


def test_a_reader_that_goes_away_is_no_error(kim: Student) -> None:
    with kim.start("ls", "--json") as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.close()

        assert listing.wait(SECONDS) == 0
        assert listing.stderr.read() == b""


def test_a_logout_forgets_the_token(kim: Student, lab: Lab, token: str) -> None:
    assert kim.lab("logout").code == 0
    said = kim.lab("ls")
    kim.lab("login", lab.url, said=token)

    assert (said.code, "signed in nowhere" in said.err) == (4, True)
