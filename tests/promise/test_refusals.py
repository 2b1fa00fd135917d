"""What people get wrong, at the real command lines: a sentence, and nothing is lost."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.processes import wait_for
from tests.faults.stack import Lab, Stack, apart, free_port
from tests.promise.witness import Witness

CANNOT_START = 2


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory):
    with Stack(tmp_path_factory.mktemp("refusals")) as stack:
        yield stack.lab().start()


@pytest.fixture(scope="module")
def secure_lab(tmp_path_factory: pytest.TempPathFactory):
    with Stack(tmp_path_factory.mktemp("secure")) as stack:
        yield stack.lab("lab", "--tls", "self").start(serves=False)


def enroll(folder: Path, server: str, *options: str) -> str:
    """`lab-agent enroll`, which cannot succeed; return its one sentence."""
    command = [sys.executable, "-m", "agent", "enroll", "--server", server, "--host-id", "gpu9"]
    command += ["--state-dir", str(folder / "state"), "--workdir", str(folder), *options]
    done = subprocess.run(command, **apart(subprocess.PIPE, folder), timeout=60, check=False)
    said = done.stdout.decode()
    assert done.returncode == CANNOT_START, said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 3
    return said


def test_a_wrong_address_is_told(tmp_path: Path):
    said = enroll(tmp_path, f"http://127.0.0.1:{free_port()}", "--enroll-code", "x")

    assert "is the server running, and is the port right?" in said


def test_a_name_that_does_not_exist_is_told(tmp_path: Path):
    said = enroll(tmp_path, "http://no-such-host.invalid:8000", "--enroll-code", "x")

    assert "cannot be resolved" in said


def test_a_wrong_code_and_a_used_one_are_refused(lab: Lab, tmp_path: Path):
    code = lab.enroll_code()
    used = [sys.executable, "-m", "agent", "enroll", "--server", lab.url, "--host-id", "gpu8"]
    used += ["--state-dir", str(tmp_path / "first"), "--enroll-code", code]
    subprocess.run(used, **apart(subprocess.PIPE, tmp_path), timeout=60, check=True)

    for wrong in ("no-such-code", code):
        said = enroll(tmp_path, lab.url, "--enroll-code", wrong)
        assert "make a new one on the site" in said


def test_https_at_a_server_that_speaks_http_is_told(lab: Lab, tmp_path: Path):
    said = enroll(tmp_path, lab.url.replace("http:", "https:"), "--enroll-code", "x")

    assert f"try --server {lab.url}" in said


def test_http_at_a_server_that_speaks_https_is_told(secure_lab: Lab, tmp_path: Path):
    address = secure_lab.url.replace("http:", "https:")

    assert f"try --server {address}" in enroll(tmp_path, secure_lab.url, "--enroll-code", "x")
    said = enroll(tmp_path, address, "--enroll-code", "x")
    assert "is not trusted here" in said
    assert "--ca-sha256" in said


def test_an_agent_whose_token_is_revoked_keeps_its_job_and_starts_nothing(stack: Stack):
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1").start()
    witness = Witness.start(lab, agent, 60)

    lab.post("/api/devices/gpu1/revoke/")
    wait_for(lambda: "does not accept this agent's token" in agent.said(), "it is told", 30)
    waiting = lab.submit(["true"])

    assert witness.goes_on()
    assert agent.process is not None
    assert agent.process.poll() is None
    assert lab.job(waiting)["state"] == "queued"
    assert lab.job(waiting)["waiting_reason"]


def test_a_command_that_does_not_exist_fails_with_a_sentence(stack: Stack):
    lab = stack.lab().start()
    stack.agent(lab, "gpu1").start()

    uid = lab.submit(["no-such-command", "--x"], max_attempts=1)
    job = lab.wait_state(uid, "failed")

    [attempt] = job["attempts"]
    assert attempt["outcome"] == "start_failed"
    assert "There is no 'no-such-command' on this host's PATH" in attempt["message"]


def test_a_job_that_cannot_be_right_is_refused_and_not_queued(lab: Lab):
    before = lab.get("/api/jobs/")["count"]
    wishes = [
        ({"config": "a: [1, 2"}, "line"),
        ({"config": "epochs: 3\n"}, "command"),
        ({"config": "lab:\n  resources: {gpus: many}\n", "command": ["true"]}, "line 2"),
        ({"command": ["true"], "project": "../etc"}, "project"),
        ({"command": []}, "command"),
    ]

    for wish, says in wishes:
        answer = lab.ask("POST", "/api/jobs/", json={"project": "truth", **wish})
        assert (answer.status_code, says in answer.text) == (400, True), answer.text
        assert "Traceback" not in answer.text

    assert lab.get("/api/jobs/")["count"] == before


def test_an_unknown_project_is_made_by_the_first_job_that_names_it(lab: Lab):
    lab.submit(["true"], project="brand-new")

    assert lab.get("/api/projects/brand-new/")["runs"] == 1
