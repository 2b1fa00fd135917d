"""`agent.pyz` as a Python meets it: what it unpacks, and what befalls that."""

import errno
import fcntl
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from agent import bootstrap

SAYS = b"import sys\nprint('agent', sys.argv[1:], sys.path[0])\n"


@pytest.fixture
def pyz(tmp_path: Path) -> Path:
    """The bootstrap with an agent that only says that it runs."""
    path = tmp_path / "agent.pyz"
    make(path, SAYS)
    return path


def make(path: Path, says: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(bootstrap.__file__, "__main__.py")
        archive.writestr("agent/__init__.py", b"")
        archive.writestr("agent/__main__.py", says)


def run(pyz: Path, *arguments: str, python: str = sys.executable) -> "subprocess.CompletedProcess":
    return subprocess.run(
        [python, str(pyz), *arguments], env={}, capture_output=True, text=True, timeout=60
    )


def state(pyz: Path) -> Path:
    return pyz.parent / "state"


def folders(pyz: Path) -> list[Path]:
    return sorted((state(pyz) / "code").iterdir())


def test_it_runs_what_is_in_it_from_the_state_folder(pyz: Path) -> None:
    done = run(pyz, "status", "--state-dir", str(state(pyz)))

    [folder] = folders(pyz)
    assert done.stdout == f"agent ['status', '--state-dir', '{state(pyz)}'] {folder}\n"
    assert (state(pyz) / "code").stat().st_mode & 0o777 == 0o700


def test_what_there_is_no_room_for_leaves_nothing_behind(
    pyz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)

    with pytest.raises(OSError, match="No space"):
        bootstrap.unpacked(str(pyz), str(state(pyz)))

    assert list(state(pyz).iterdir()) == []


def test_what_a_power_cut_left_without_its_content_is_unpacked_again(pyz: Path) -> None:
    option = f"--state-dir={state(pyz)}"
    run(pyz, option)
    [folder] = folders(pyz)
    (folder / "agent" / "__main__.py").write_bytes(b"\0" * len(SAYS))

    assert run(pyz, option).stdout.startswith("agent ")


def test_an_older_one_goes_when_nobody_runs_from_it_any_more(pyz: Path) -> None:
    option = f"--state-dir={state(pyz)}"
    run(pyz, option)
    [old] = folders(pyz)
    os.utime(old, (0, 0))
    make(pyz, SAYS + b"# newer\n")
    with open(old / "agent" / "__init__.py") as _:
        handle = os.open(old, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_SH)  # as an agent does that runs from it
        run(pyz, option)
        assert old in folders(pyz)
        os.close(handle)
    run(pyz, option)

    assert len(folders(pyz)) == 1
    assert old not in folders(pyz)


def test_two_that_start_at_once_run_from_one_folder(pyz: Path) -> None:
    command = [sys.executable, str(pyz), f"--state-dir={state(pyz)}"]
    processes = [subprocess.Popen(command, env={}, stdout=subprocess.PIPE) for _ in range(4)]

    assert len({process.communicate(timeout=60)[0] for process in processes}) == 1
    assert {process.returncode for process in processes} == {0}
    assert len(folders(pyz)) == 1


def test_a_state_folder_that_cannot_be_written_is_named(pyz: Path) -> None:
    (pyz.parent / "file").touch()

    done = run(pyz, "--state-dir", str(pyz.parent / "file"))

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr
    assert "--state-dir" in done.stderr


@pytest.mark.parametrize("version", ["3.6", "3.8"])
def test_a_python_that_is_too_old_is_told_so(pyz: Path, version: str) -> None:
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    if not found:
        pytest.skip(f"no Python {version} on this machine")

    done = run(pyz, python=str(found[-1]))

    assert done.returncode == 2
    assert done.stderr.startswith(f"lab-agent: this is cpython {version}.")
    assert "CPython 3.10 or newer" in done.stderr


def test_the_folder_is_where_the_agent_keeps_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bootstrap.base_folder(["--state-dir"]).endswith("lab-agent")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert bootstrap.base_folder(["status"]) == "/var/lib/lab-agent"
