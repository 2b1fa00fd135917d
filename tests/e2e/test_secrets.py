"""A secret reaches its job and nothing else: a real server and a real agent, killed in between.

The value is looked for in every byte that either of them leaves on a disk, and in every answer.
"""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.faults.processes import wait_for
from tests.faults.stack import ROOT, Lab, Stack, apart

TOKEN = "hf_Zx81QmVsecretTOKEN42"
OTHER = "project-wide/key=9f3a 77"
SCRIPT = textwrap.dedent(
    """
    import os, pathlib, sys, time, urllib.parse

    token, key = os.environ["HF_TOKEN"], os.environ["TEAM_KEY"]
    pathlib.Path("witness").write_text(str(len(token)) + " " + str(len(key)))
    print("logging in with", token, flush=True)
    sys.stdout.write("half: " + token[:9]); sys.stdout.flush()
    while not pathlib.Path("go on").exists():
        time.sleep(0.02)
    print(token[9:], "and", urllib.parse.quote(key, safe=""))
    with open(os.environ["LAB_METRICS_CSV"], "w") as metrics:
        metrics.write("epoch,note\\n1," + key + "\\n")
    raise SystemExit("Traceback: could not log in with " + token)
    """
)
PAGES = ["/", "/account/", "/runs/", "/queue/", "/projects/truth/settings/", "/people/audit/"]


def content(lab: Lab, uid: str, name: str) -> bytes | None:
    answer = lab.ask("GET", f"/api/sync/file/{uid}/{name}")
    return answer.content if answer.ok else None


def files_with(folder: Path, values: list[str]) -> list[str]:
    """The files below `folder` that hold one of the values, as it is."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            body = path.read_bytes()
            found += [str(path) for value in values if value.encode() in body]
    return found


@pytest.fixture
def code(tmp_path: Path) -> Path:
    code = tmp_path / "code"
    code.mkdir()
    (code / "train.py").write_text(SCRIPT)
    return code


def test_a_value_is_found_in_no_file_no_page_no_answer_and_no_dump(
    tmp_path: Path, code: Path
) -> None:
    with Stack(tmp_path) as stack:
        lab = stack.lab().start()
        agent = stack.agent(lab, "gpu1", None, "--sync-interval", "0.1", "--verbose").start()
        lab.submit(["true"])  # makes the project
        told = lab.ask("PUT", "/api/secrets/HF_TOKEN/", json={"value": TOKEN})
        assert told.ok, told.text
        assert set(told.json()) == {"name", "changed_at", "changed_by"}
        path = "/api/projects/truth/secrets/TEAM_KEY/"
        assert lab.ask("PUT", path, json={"value": OTHER}).ok

        uid = lab.submit(
            [sys.executable, "train.py"],
            working_directory=str(code),
            secrets=["HF_TOKEN", "TEAM_KEY"],
        )
        lab.wait_state(uid, "running")
        run = lab.job(uid)["run_name"]
        first = wait_for(lambda: content(lab, uid, f"{run}.log"), "the log comes", 20)
        agent.kill()  # the next one knows the names from its journal, and no value
        (code / "go on").touch()
        agent.start()
        job = wait_for(lambda: ended(lab, uid), "it ends", 40)
        wait_for(lambda: is_synced(lab, uid), "all is synced", 30)

        stars = "*" * len(TOKEN)
        log = content(lab, uid, f"{run}.log") or b""
        assert (code / "witness").read_text() == f"{len(TOKEN)} {len(OTHER)}"
        assert first.startswith(f"logging in with {stars}\n".encode())
        assert f"half: {stars} and ***".encode() in log
        assert f"could not log in with {stars}".encode() in log
        assert job["state"] == "failed"
        assert (content(lab, uid, f"{run}.csv") or b"").splitlines()[1][:5] == b"1,***"
        for name in (f"{run}.log", f"{run}.csv"):  # the same here and there, byte for byte
            assert (agent.run_dir() / name).read_bytes() == content(lab, uid, name)

        answers = [*PAGES, f"/runs/{uid}/", f"/runs/{uid}/log/", f"/api/jobs/{uid}/"]
        answers += [f"/api/jobs/{uid}/events/", "/api/projects/truth/", "/api/secrets/"]
        answers += ["/api/projects/truth/secrets/", "/runs/export.csv", f"/compare/?runs={uid}"]
        pages = signed_in(lab)
        for address in answers:
            asked = lab.ask if address.startswith("/api/") else pages
            answer = asked("GET", address)
            assert answer.ok, address
            assert_silent(answer.text, address)
        dump = subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), "dumpdata"],
            check=True,
            **apart(subprocess.PIPE, lab.data_dir),
        )
        assert_silent(dump.stdout.decode(), "dumpdata")
        assert_silent(lab.output() + agent.said(), "the logs")
    assert files_with(tmp_path, [TOKEN, OTHER]) == []


def ended(lab: Lab, uid: str) -> dict | None:
    job = lab.job(uid)
    return job if job["state"] in ("failed", "succeeded") else None


def is_synced(lab: Lab, uid: str) -> bool:
    return lab.get(f"/api/sync/status/{uid}")["data"]["sync_status"] == "synced"


def signed_in(lab: Lab) -> Callable[[str, str], requests.Response]:
    session = requests.Session()
    session.trust_env = False
    session.get(f"{lab.url}/login/", timeout=20)
    password = (lab.data_dir / "admin-password.txt").read_text().strip()
    form = {"username": "admin", "password": password}
    form["csrfmiddlewaretoken"] = session.cookies["csrftoken"]
    assert session.post(f"{lab.url}/login/", form, timeout=20).ok
    return lambda method, path: session.request(method, lab.url + path, timeout=20)


def assert_silent(text: str, where: str) -> None:
    for value in (TOKEN, OTHER):
        assert value not in text, where


def test_the_key_lies_beside_the_database_for_its_owner_alone(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        lab = stack.lab().start()
        assert lab.ask("PUT", "/api/secrets/HF_TOKEN/", json={"value": TOKEN}).ok

        assert os.stat(lab.data_dir / "secrets_key").st_mode & 0o777 == 0o600
