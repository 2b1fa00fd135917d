"""`python: uv` with the real uv: environments made once and shared, without a network."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.agent.conftest import AgentProcess
from tests.agent.server import FakeServer

UV = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
pytestmark = pytest.mark.skipif(UV is None, reason="uv is not installed")

WHEEL = "greet-1.0-py3-none-any.whl"
PROJECT = """\
[project]
name = "demo"
version = "0.1"
requires-python = ">=3.10"
dependencies = ["greet"]
"""
#: Where its package comes from: an index, which is a folder here; or one file, by its path.
INDEX = '[[tool.uv.index]]\nname = "own"\nurl = "wheels"\nformat = "flat"\n'
BY_PATH = f'[tool.uv.sources]\ngreet = {{ path = "wheels/{WHEEL}" }}\n'
TRAIN = "import greet, sys\nprint(greet.WORDS, sys.prefix)\n"
SECONDS = 90


def wheel(path: Path) -> None:
    """A package without a build."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("greet.py", "WORDS = 'hello'\n")
        named = {"METADATA": "Metadata-Version: 2.1\nName: greet\nVersion: 1.0\n",
                 "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                 "RECORD": "greet.py,,\ngreet-1.0.dist-info/RECORD,,\n"}  # fmt: skip
        for name, text in named.items():
            file.writestr(f"greet-1.0.dist-info/{name}", text)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """What the jobs are given: uv, and no way to any index."""
    assert UV is not None
    return {
        "PATH": f"{Path(UV).parent}:/usr/bin:/bin",
        "UV_OFFLINE": "1",
        "UV_CACHE_DIR": str(tmp_path / "cache"),
        "UV_PYTHON": sys.executable,
    }


@pytest.fixture
def project(tmp_path: Path, environ: dict[str, str]) -> Path:
    """A locked project of one package, which an index has."""
    return locked(tmp_path / "project", INDEX, environ)


def locked(folder: Path, origin: str, environ: dict[str, str]) -> Path:
    (folder / "wheels").mkdir(parents=True)
    wheel(folder / "wheels" / WHEEL)
    (folder / "pyproject.toml").write_text(PROJECT + origin)
    (folder / "train.py").write_text(TRAIN)
    said = {**environ, "HOME": str(folder.parent)}
    subprocess.run([str(UV), "lock", "-q"], cwd=folder, env=said, check=True, timeout=SECONDS)
    return folder


def ended(server: FakeServer, order: dict[str, Any]) -> dict[str, Any]:
    return dict(server.wait_event(order["id"], "exited", SECONDS))


def log_of(agent: AgentProcess, order: dict[str, Any]) -> str:
    return (agent.run_dir(order["project"]) / f"{order['run_name']}.log").read_text()


def test_runs_of_one_lock_share_an_environment_that_is_made_once(
    project: Path, environ: dict[str, str], tmp_path: Path, server: FakeServer, agent: AgentProcess
) -> None:
    folders = [project, *(tmp_path / f"another{number}" for number in range(3))]
    for folder in folders[1:]:
        shutil.copytree(project, folder)
    said = {"python": "uv", "command": ["python", "train.py"], "environment": environ}
    agent.start()

    at_once = [
        server.order(**said, run_name=f"run_00{number}", working_directory=str(folder))
        for number, folder in enumerate(folders)
    ]
    ends = [ended(server, order) for order in at_once]
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(project / "wheels")  # all is there: nothing is fetched again
    last = server.order(**said, run_name="run_005", working_directory=str(project))
    ends.append(ended(server, last))

    logs = [log_of(agent, order) for order in (*at_once, last)]
    assert [end["exit_code"] for end in ends] == [0] * 5, logs
    prefixes = {log.splitlines()[-1] for log in logs}
    assert len(prefixes) == 1
    assert prefixes.pop().startswith("hello /")
    assert sum("Installed 1 package" in log for log in logs) == 1
    assert ends[-1]["environment"]["packages"] == ["greet==1.0"]


def test_a_package_that_is_named_by_its_path_is_not_shared_by_two_folders(
    environ: dict[str, str], tmp_path: Path, server: FakeServer, agent: AgentProcess
) -> None:
    """uv would take one folder's out of the environment and lay in the other's, under a run."""
    locked(tmp_path / "one", BY_PATH, environ)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    said = {"python": "uv", "command": ["python", "train.py"], "environment": environ}
    agent.start()

    orders = [
        server.order(**said, run_name=f"run_{name}", working_directory=str(tmp_path / name))
        for name in ("one", "two")
    ]
    ends = [ended(server, order)["exit_code"] for order in orders]

    logs = [log_of(agent, order) for order in orders]
    assert ends == [0, 0], logs
    assert len({log.splitlines()[-1] for log in logs}) == 2
    assert "Uninstalled" not in "".join(logs)


def test_a_lock_that_uv_cannot_read_is_said_in_the_runs_log(
    project: Path, environ: dict[str, str], server: FakeServer, agent: AgentProcess
) -> None:
    lock = project / "uv.lock"
    lock.write_text(lock.read_text()[:120] + "\nx = [")
    agent.start()

    order = server.order(
        python="uv",
        command=["python", "train.py"],
        environment=environ,
        working_directory=str(project),
    )

    assert ended(server, order)["exit_code"] == 2
    assert "error: Failed to parse `uv.lock`" in log_of(
        agent, order
    )  # as the page's advice has it
