"""How `make` finds a Python, on machines that are not this one."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def find(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it where nothing is installed but what lies in `folder`."""
    return subprocess.run(
        ["/bin/sh", ROOT / "deploy" / "find-python.sh"],
        env={"PATH": str(folder), **variables},
        capture_output=True,
        text=True,
    )


def put(folder: Path, name: str, *, minor: int, venv: bool = True) -> Path:
    """A Python of version 3.`minor`, as far as the script asks it."""
    path = folder / name
    path.write_text(
        "#!/bin/sh\n"
        'case "$2" in\n'
        f'*"(3, 11)"*) [ {minor} -ge 11 ] ;;\n'
        f"*ensurepip*) {'true' if venv else 'false'} ;;\n"
        f"*print*) echo 3.{minor} ;;\n"
        "esac\n"
    )
    path.chmod(0o755)
    return path


def test_an_old_python_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "python3", minor=9)
    newer = put(tmp_path, "python3.12", minor=12)

    assert find(tmp_path).stdout.strip() == str(newer)


def test_a_name_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    shim = put(tmp_path, "python3.11", minor=11)
    shim.write_text("#!/bin/sh\nexit 127\n")  # a version manager's, of a version it has not
    working = put(tmp_path, "python3", minor=13)

    assert find(tmp_path).stdout.strip() == str(working)


def test_a_missing_venv_package_is_named(tmp_path: Path) -> None:
    put(tmp_path, "python3", minor=11, venv=False)

    answer = find(tmp_path)

    assert answer.returncode == 1
    assert "sudo apt install python3-venv python3.11-venv" in answer.stderr


def test_no_python_at_all_is_told(tmp_path: Path) -> None:
    answer = find(tmp_path)

    assert answer.returncode == 1
    assert "Python 3.11 or newer is needed" in answer.stderr


def test_one_that_was_named_is_taken_before_all_others(tmp_path: Path) -> None:
    put(tmp_path, "python3.11", minor=11)
    mine = put(tmp_path, "mine", minor=14)

    assert find(tmp_path, PYTHON=str(mine)).stdout.strip() == str(mine)
