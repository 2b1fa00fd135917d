"""`manage.py runlab install-service`: the server as a service of the machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.service.managers import Choice
from labsite.run import localagent, service

ROOT = Path(__file__).parents[2]


@pytest.fixture
def install(tmp_path):
    """Runs it as a person would, with a systemctl that only writes down how it was called."""
    for name in ("systemctl", "loginctl"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/called\n')
        program.chmod(0o755)
    environ = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "LAB_SECRET_KEY": "not-for-a-unit-file",
    }

    def run(*arguments):
        command = [sys.executable, str(ROOT / "manage.py"), "runlab", "install-service"]
        return subprocess.run(
            [*command, "--user", "--manager", "systemd", *arguments],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_it_is_written_enabled_and_started_and_the_data_folder_is_not_touched(install, tmp_path):
    done = install("--data-dir", "data", "--port", "8001", "--tls", "self")

    assert (done.returncode, done.stderr) == (0, "")
    unit = (tmp_path / "config/systemd/user/lab-server.service").read_text()
    data = tmp_path / "data"
    start = f"{ROOT}/manage.py runlab --data-dir {data} --port 8001 --tls self\n"
    assert f"\nExecStart={sys.executable} {start}" in unit
    assert f"\nWorkingDirectory={tmp_path}\n" in unit
    assert (tmp_path / "called").read_text().splitlines()[1:] == [
        "systemctl --user daemon-reload",
        "systemctl --user enable lab-server.service",
        "systemctl --user restart lab-server.service",
    ]
    assert not data.exists()
    assert "LAB_SECRET_KEY" in done.stdout
    assert "not-for-a-unit-file" not in done.stdout + unit


def test_it_is_shown_only_and_removed(install, tmp_path):
    shown = install("--data-dir", "/srv/my lab", "--dry-run")
    install("--data-dir", "/srv/my lab")
    other = install("--data-dir", "/srv/another")
    spared = install("--data-dir", "/srv/another", "--remove")
    removed = install("--remove")

    assert 'runlab --data-dir "/srv/my lab"\n' in shown.stdout
    assert other.returncode == 2
    assert "already starts another lab-server" in other.stderr
    assert spared.returncode == 2
    assert removed.returncode == 0
    assert "systemctl --user disable --now lab-server.service" in (tmp_path / "called").read_text()
    assert not (tmp_path / "config/systemd/user/lab-server.service").exists()


def test_an_option_that_the_server_does_not_have_is_refused(install):
    done = install("--data-dir", "/srv/lab", "--prot", "80")

    assert done.returncode == 2
    assert "--prot" in done.stderr


@pytest.mark.django_db
def test_the_agent_beside_the_server_is_told_who_keeps_it(tmp_path):
    _, environment = localagent.prepared("http://127.0.0.1:8000", tmp_path, tmp_path)

    assert environment["LAB_KEPT_BY"] == f"manage.py runlab (process {os.getpid()})"


def test_a_machine_service_may_do_less_than_its_user():
    choice = Choice(True, "lab", "lab-server", "systemd", True, False)

    described = service.describe(["--data-dir", "/srv/lab"], choice)

    assert described.user == "lab"
    assert "NoNewPrivileges=true" in described.lines
    assert described.command[-2:] == ("--data-dir", "/srv/lab")


def test_with_an_agent_a_restart_of_the_service_leaves_jobs_alone():
    choice = Choice(True, "lab", "lab-server", "systemd", True, False)

    described = service.describe(["--data-dir", "/srv/lab", "--agent"], choice)

    assert "KillMode=process" in described.lines
    assert "NoNewPrivileges" not in described.lines
    assert "PrivateTmp" not in described.lines
