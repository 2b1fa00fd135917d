"""From a dirty repository to a run on another host, bit for bit: a real server, a real agent."""

import argparse
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path
from typing import Any

import pytest

from agent.cli import code
from agent.cli.api import Api
from agent.cli.progress import Silent
from tests.faults.processes import wait_for
from tests.faults.stack import Lab, Stack

#: Copies its own folder to where the test finds it after the run, says where it stands, and leaves
#: something there that is to come back.
TRAIN = textwrap.dedent(
    """
    import os, pathlib, shutil, sys

    top = pathlib.Path.cwd().parent
    shutil.copytree(top, sys.argv[1], symlinks=True)
    pathlib.Path("out").mkdir()
    pathlib.Path("out/result.txt").write_text("42")
    print("in", pathlib.Path.cwd().name, "of", top.parent.name)
    """
)
GIT = ["git", "-c", "user.name=kim", "-c", "user.email=kim@lab", "-c", "commit.gpgsign=false"]


def git(folder: Path, *words: str) -> str:
    command = [*GIT, "-c", "protocol.file.allow=always", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Committed, staged, changed, new, ignored and named files, a submodule, odd names."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    library = tmp_path / "library"
    write(library / "net.py", "WIDTH = 8\n")
    git(tmp_path, "init", "-q", "library")
    git(library, "add", ".")
    git(library, "commit", "-qm", "a library")
    top = tmp_path / "desk" / "digits"
    top.mkdir(parents=True)
    git(top, "init", "-q", "-b", "main")
    write(top / "exp" / "train.py", TRAIN)
    write(top / "run.sh", "#!/bin/sh\ntrue\n", 0o755)
    write(top / "gone.py", "x = 1\n")
    write(top / ".gitignore", "*.so\n__pycache__/\ndata/\n")
    git(top, "submodule", "--quiet", "add", str(library), "library")
    git(top, "add", ".")
    git(top, "commit", "-qm", "first")
    write(top / "exp" / "staged.py", "staged = 1\n")
    git(top, "add", "exp/staged.py")
    write(top / "run.sh", "#!/bin/sh\necho changed\n", 0o755)
    write(top / "설정 (1).yaml", "lr: 0.1\n")
    write(top / "empty.txt", b"")
    write(top / "library" / "net.py", "WIDTH = 16\n")
    write(top / "kernels.so", bytes(range(256)) * 16)
    write(top / "data" / "huge.bin", b"never sent")
    write(top / ".labinclude", "kernels.so\n")
    (top / "gone.py").unlink()
    (top / "latest").symlink_to("exp/train.py")
    return top


def submit(lab: Lab, folder: Path, *command: str, which: str = "snapshot", **more: Any) -> str:
    token = str(lab._session.headers["Authorization"]).split()[1]
    arguments = argparse.Namespace(code=which)
    with Api(lab.url, token) as api:
        source = code.source_of(arguments, folder, api, Silent())
    return lab.submit([sys.executable, *command], source=source, **more)


def content(top: Path, *, without: tuple[str, ...] = ()) -> dict[str, tuple[str, bytes]]:
    """Path -> (kind, bytes) of all that lies there."""
    found = {}
    for path in sorted(top.rglob("*")):
        name = path.relative_to(top).as_posix()
        if name.startswith(without) or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink():
            found[name] = ("link", os.readlink(path).encode())
        else:
            kind = "executable" if path.stat().st_mode & stat.S_IXUSR else "file"
            found[name] = (kind, path.read_bytes())
    return found


def test_a_dirty_repository_runs_on_another_host_bit_for_bit(repository, tmp_path):
    copy, copy_again = tmp_path / "copy", tmp_path / "copy again"
    sent = content(repository, without=(".git/", "data/", "library/.git"))
    (tmp_path / "lab").mkdir()
    with Stack(tmp_path / "lab") as stack:
        lab = stack.lab().start()
        agent = stack.agent(lab, "gpu1").start()
        uid = submit(
            lab,
            repository / "exp",
            "train.py",
            str(copy),
            links={"data": str(tmp_path)},
            outputs=["out/**"],
        )
        job = lab.wait_state(uid, "succeeded")
        log = lab.run_dir() / f"{job['run_name']}.log"
        wait_for(lambda: log.exists() and b"in exp of .code" in log.read_bytes(), "its log", 20)
        kept = agent.run_dir() / ".code"
        wait_for(lambda: not [*kept.glob("*-1")], "its folder is taken away", 20)
        result = lab.ask("GET", f"/api/sync/file/{uid}/{job['run_name']}/out/result.txt")

        laid = content(copy)
        shutil.rmtree(copy)
        shutil.rmtree(repository)  # a year later: what the server has is enough
        archive = lab.ask("GET", f"/api/code/runs/{uid}.tar")
        again = lab.post(f"/api/jobs/{uid}/rerun/")
        lab.wait_state(again["uid"], "succeeded")

    assert content(copy) == laid
    assert laid.pop("data") == ("link", str(tmp_path).encode())
    assert laid == sent
    assert {"kernels.so", "exp/staged.py", "설정 (1).yaml", "library/net.py"} < laid.keys()
    assert "gone.py" not in laid
    assert result.content == b"42"
    assert again["source"] == job["source"]
    assert job["code"]["dirty"]
    assert job["code"]["branch"] == "main"
    write(tmp_path / "code.tar", archive.content)
    with tarfile.open(tmp_path / "code.tar") as tar:
        tar.extractall(copy_again, filter="fully_trusted")
    [top] = copy_again.iterdir()
    assert content(top) == sent
