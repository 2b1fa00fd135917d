"""The one line of the site, typed into a real shell with nothing in its environment, on a real
server: by another Python than the server's, in an empty home."""

import html
import json
import os
import re
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.e2e.lab import Lab, wait_for
from tests.faults.processes import Born

MakeLab = Callable[..., Lab]
SIGNED_IN, HOST_ID = "admin", "gpu-09"


class Manager:
    """The site's first administrator, with a browser."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._session = requests.Session()
        self._session.trust_env = False
        ca = lab.data_dir / "tls" / "ca.pem"
        self._session.verify = str(ca) if ca.exists() else True
        password = (lab.data_dir / "admin-password.txt").read_text().strip()
        self.get("/login/")
        self.post("/login/", {"username": SIGNED_IN, "password": password})

    def get(self, path: str) -> str:
        answer = self._session.get(self.lab.url + path, timeout=20)
        assert answer.ok, answer.text
        return answer.text

    def post(self, path: str, fields: dict[str, Any] | None = None, **how: Any) -> str:
        token = self._session.cookies["csrftoken"]
        headers = {"X-CSRFToken": token, "Referer": self.lab.url + path}
        url = self.lab.url + path
        answer = self._session.post(url, fields, headers=headers, timeout=20, **how)
        assert answer.ok, answer.text
        return answer.text

    def line(self) -> str:
        """That of the page, as it is copied."""
        return commands(self.post("/devices/add/"))[0]

    def lab_lines(self) -> list[str]:
        """Those of the page of one's account: a new key, what tries it, and what fetches `lab` and
        signs in with it."""
        return commands(self.post("/account/tokens/", {"name": "laptop", "days": "30"}))

    def agent_version(self) -> str:
        return str(json.loads(self.get(f"/api/devices/{HOST_ID}/"))["versions"]["agent"])

    def submit(self, script: str) -> str:
        job = {"project": "p", "command": ["sh", "-c", script], "resources": {"gpus": 0}}
        return str(json.loads(self.post("/api/jobs/", json=job))["uid"])

    def job(self, uid: str, state: str) -> dict[str, Any] | None:
        """It, if it is in that state."""
        job = json.loads(self.get(f"/api/jobs/{uid}/"))
        return job if job["state"] == state else None


def commands(page: str) -> list[str]:
    found = re.findall(r"<pre[^>]*><code>(.*?)</code>", page, re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]+>", "", code)) for code in found]


class Host:
    """A new GPU server, as far as one account can tell."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.work = folder / "experiments"
        self.state = folder / "state"
        self.home.mkdir()
        self.work.mkdir()
        pythons = Path.home().glob(".pyenv/versions/3.1[023].*/bin/python3")
        self.python = max(pythons, default=Path("/usr/bin/python3"))
        self._environ = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.home),
            "LAB_PYTHON": str(self.python),
            "LAB_AGENT_DIR": str(folder / "agent"),
        }
        self.options = f"--host-id {HOST_ID} --state-dir {self.state} --lock-dir {folder}"

    def type(self, line: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=self.work,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def agent(self) -> psutil.Process:
        [note] = self.state.glob("*/agent.json")
        return psutil.Process(json.loads(note.read_text())["pid"])

    @property
    def pyz(self) -> Path:
        [found] = (self.state.parent / "agent").glob("*/agent.pyz")
        return found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    for process in psutil.process_iter(["cmdline"]):
        if any(str(made.state) in word for word in process.info["cmdline"] or []):
            process.kill()


def test_a_line_brings_a_host_in_and_the_same_line_renews_its_agent_beneath_a_running_job(
    make_lab: MakeLab, host: Host
) -> None:
    lab = make_lab("--tls", "self")
    manager = Manager(lab)

    typed = host.type(f"{manager.line()} {host.options}")

    assert typed.returncode == 0, typed.stderr + typed.stdout
    assert "the server answers heartbeats" in typed.stdout
    served = manager.agent_version()
    assert re.fullmatch(r"[0-9.]+\+[0-9a-f]{8}", served)
    assert f"agent {served}, SHA-256 " in typed.stderr
    assert os.listdir(host.home) == []

    # An older agent, beneath which a job runs.
    make_older(host.pyz)
    again = host.type(f"{host.pyz.parent}/lab-agent restart --server {lab.url} {host.options}")
    assert again.returncode == 0, again.stderr
    wait_for(lambda: manager.agent_version() == "0.0.9", "the older agent")
    uid = manager.submit("echo up; while [ ! -e over ]; do sleep 0.05; done; echo down")
    started = wait_for(lambda: manager.job(uid, "running"), "the job")
    job = psutil.Process(started["attempts"][-1]["pid"])
    old = Born.of(host.agent().pid)
    assert "older agent" in manager.get("/devices/")

    typed = host.type(f"{manager.line()} {host.options}")

    assert typed.returncode == 0, typed.stderr + typed.stdout
    assert f"jobs go on: p/run_001 (process {job.pid})" in typed.stdout
    assert not old.alive
    wait_for(lambda: manager.agent_version() == served, "the newer agent")
    assert job.is_running()
    assert "older agent" not in manager.get("/devices/")
    (host.work / "over").touch()
    ended = wait_for(lambda: manager.job(uid, "succeeded"), "its end")
    assert len(ended["attempts"]) == 1
    log = lab.data_dir / "logs" / "p" / "run_001.log"
    wait_for(lambda: log.read_text() == "up\ndown\n", "its log")


def make_older(pyz: Path) -> None:
    """The same agent, which says that it is of an earlier version."""
    with zipfile.ZipFile(pyz) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["labsite.dist-info/METADATA"] = b"Metadata-Version: 2.1\nName: labsite\nVersion: 0.0.9\n"
    with zipfile.ZipFile(pyz, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def test_over_plain_http_the_line_is_short_and_says_what_is_wrong(
    make_lab: MakeLab, host: Host
) -> None:
    lab = make_lab()
    manager = Manager(lab)
    line = manager.line()
    code = line.split()[-1]

    nobody = host.type(f"(curl -fsS {lab.url}/install.sh) | sh -s -- {host.options}")
    wrong = host.type(f"{line[: -len(code)]}{'0' * 32} {host.options}")
    other = host.type(
        f"curl -fsS {lab.url}/install.sh | sed 's/^sha256=.*/sha256={'0' * 64}/' | "
        f"sh -s -- {code} {host.options}"
    )
    typed = host.type(f"{line} {host.options}")
    host.agent().send_signal(signal.SIGKILL)
    renewed = host.type(f"(curl -fsS {lab.url}/install.sh) | sh -s -- {host.options}")

    assert nobody.returncode == 2
    assert "has run here" in nobody.stderr
    assert "make a code on the site" in nobody.stderr
    assert wrong.returncode == 2
    assert "refused to enroll this host" in wrong.stderr
    assert other.returncode == 1
    assert "is not the file that belongs to this line" in other.stderr
    assert typed.returncode == 0, typed.stderr + typed.stdout
    assert renewed.returncode == 0, renewed.stderr
    assert host.agent().is_running()
    log = (lab.data_dir / "log" / "server.log").read_text()
    assert code not in log + lab.output()


def test_a_line_brings_lab_and_the_next_signs_in_with_it_among_ones_own_files(
    make_lab: MakeLab, host: Host
) -> None:
    manager = Manager(make_lab("--tls", "self"))
    key, _curl, install, login = manager.lab_lines()
    for name in ("agent.py", "requests.py", "yaml.py"):
        (host.work / name).write_text("raise SystemExit('a file of yours was imported')\n")
    (host.home / "bin").mkdir()
    (host.home / "bin" / "python3").symlink_to(host.python)
    set_up = "export PATH=~/bin:~/.local/bin:$PATH PYTHONPATH=."

    typed = host.type(
        f"{set_up}; {install} && echo {key} | {login} && "
        "lab submit --json --sweep lr=1,2 -- python train.py && lab ls -c lr"
    )

    assert typed.returncode == 0, typed.stderr + typed.stdout
    assert f"You are {SIGNED_IN} (administrator) at {manager.lab.url} now." in typed.stdout
    assert [line.split()[-1] for line in typed.stdout.splitlines()[-2:]] == ["2", "1"]
    assert set(os.listdir(host.home)) == {"bin", ".cache", ".config", ".local"}
