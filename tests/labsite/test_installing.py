"""What a new GPU server fetches, and the line that it is told to type."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from labsite import agentzip
from labsite.pages import enrolling
from labsite.pages.versions import has_older_agent, skewed, usual_of, versions_of
from tests import make

pytestmark = pytest.mark.django_db
CODE = "0123456789abcdef" * 2


def served(client, path: str) -> bytes:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content


def test_the_agent_is_served_with_its_hash(client):
    content = served(client, "/agent.pyz")

    line = served(client, "/agent.pyz.sha256").decode()
    assert line == f"{hashlib.sha256(content).hexdigest()}  agent.pyz\n"
    assert client.get("/agent.pyz").headers["Content-Type"] == "application/zip"


def test_it_has_the_same_bytes_however_often_it_is_made():
    first = agentzip.agent_zip()
    for kept in (agentzip.agent_zip, agentzip.version, agentzip._files):
        kept.cache_clear()

    assert agentzip.agent_zip() == first


def test_it_holds_what_an_agent_needs_and_nothing_compiled(client):
    with zipfile.ZipFile(io.BytesIO(served(client, "/agent.pyz"))) as archive:
        names = set(archive.namelist())

    assert {"__main__.py", "agent/shim.py", "agent/cli/labrun.py", "certifi/cacert.pem"} <= names
    assert {"pynvml.py", "yaml/__init__.py", "requests/__init__.py", "idna/core.py"} <= names
    assert {os.path.splitext(name)[1] for name in names if "/" in name} - {".py", ".pem"} <= {
        "", ".txt", ".md",
    }  # fmt: skip
    assert not [name for name in names if name.startswith(("psutil", "labsite/", "django"))]
    assert "licenses/requests/LICENSE" in names


def test_an_agent_from_it_says_which_build_it_is(client, tmp_path):
    (tmp_path / "agent.pyz").write_bytes(served(client, "/agent.pyz"))

    done = subprocess.run(
        [sys.executable, "-I", "agent.pyz", "--state-dir", "state", "--version"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    assert done.stdout == f"lab-agent {agentzip.agent_zip().version}\n"


def test_labrun_is_served_for_scripts_that_run_by_hand(client):
    assert b"def should_stop" in served(client, "/labrun.py")


# --- the line and its script ---


def test_the_script_is_read_as_text_and_names_what_it_fetches_by_hash(client):
    answer = client.get("/install.sh")

    text = answer.content.decode()
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert text.startswith("#!/bin/sh\n")
    assert f"sha256={agentzip.agent_zip().sha256}\n" in text
    assert "server=http://testserver\n" in text


@pytest.mark.parametrize("shell", ["sh", "dash", "bash", "busybox sh"])
def test_any_shell_can_read_it(client, tmp_path, shell):
    program, *more = shell.split()
    if not shutil.which(program):
        pytest.skip(f"no {program} on this machine")
    (tmp_path / "install.sh").write_bytes(served(client, "/install.sh"))

    done = subprocess.run([program, *more, "-n", "install.sh"], cwd=tmp_path, capture_output=True)

    assert (done.returncode, done.stderr) == (0, b"")


def test_what_a_browser_came_by_runs_nothing(tmp_path):
    text = enrolling.script_text("http://lab';touch oops;'$(touch oops)`touch oops`")
    (tmp_path / "install.sh").write_text(text.replace('main "$@"', ":"))

    subprocess.run(["sh", "install.sh"], cwd=tmp_path, check=True)

    assert not (tmp_path / "oops").exists()


def test_of_a_server_with_an_authority_of_its_own_the_script_is_known_by_its_hash(
    settings, tmp_path
):
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    settings.LAB_CA_FILE = str(tmp_path / "ca.pem")
    (tmp_path / "ca.pem").write_text(pem)

    line = enrolling.line("https://lab:8000", CODE)

    text = enrolling.script_text("https://lab:8000")
    assert hashlib.sha256(text.encode()).hexdigest() in line
    assert "sha256sum -c" in line
    assert line.endswith(f'sh "$f" {CODE}')
    assert f"ca_sha256={hashlib.sha256(bytes(3)).hexdigest()}\n" in text


def test_a_known_host_keeps_its_name():
    assert enrolling.line("http://lab", CODE, "--host-id", "gpu 1").endswith(
        f"| sh -s -- {CODE} --host-id 'gpu 1'"
    )
    assert enrolling.line("http://lab").endswith("| sh")


def host(tmp_path, *programs: str, **environ: str) -> dict[str, str]:
    """A machine with these programs in PATH and no others; its Pythons say what they are asked."""
    path = tmp_path / "bin"
    path.mkdir()
    for program in ("sh", "id", "mkdir", "sed", "chmod", "getent", "cut", *programs):
        (path / program).symlink_to(shutil.which(program))
    return {"PATH": str(path), "HOME": str(tmp_path / "home"), **environ}


def finds(tmp_path, environ: dict[str, str]) -> str:
    text = enrolling.script_text("http://lab").replace('main "$@"', "first_python")
    done = subprocess.run(
        ["/bin/sh", "-c", text], env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_python_is_found_in_conda_where_path_has_none(tmp_path):
    environ = host(tmp_path)
    conda = tmp_path / "home" / "miniconda3" / "envs" / "vision" / "bin"
    conda.mkdir(parents=True)
    (conda / "python3").symlink_to(sys.executable)

    assert finds(tmp_path, environ) == str(conda / "python3")


def test_a_python_that_is_too_old_or_broken_is_passed_by(tmp_path):
    environ = host(tmp_path)
    for name, body in (("python3", "exit 1"), ("python3.12", "exit 127")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin" / "python3.11").symlink_to(sys.executable)

    assert finds(tmp_path, environ) == str(tmp_path / "bin" / "python3.11")


def test_without_any_python_it_says_what_to_do(tmp_path, client):
    environ = host(tmp_path)
    text = served(client, "/install.sh").decode()

    done = subprocess.run(
        ["/bin/sh", "-s", "--", CODE],
        input=text, env=environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.returncode == 1
    assert "there is no CPython 3.10 or newer" in done.stderr
    assert "conda create" in done.stderr
    assert CODE not in done.stderr


# --- older agents ---


@pytest.mark.parametrize(
    ("version", "older"),
    [
        ("0.0.9", True),
        ("0.1.0", False),  # installed, of the same version
        ("0.1.0+12345678", True),  # handed out, and another build
        ("0.10.0", False),
        ("0.2.0+12345678", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_an_agent_is_older_by_its_version_or_by_its_build(version, older):
    device = make.device(versions={"agent": version})

    assert has_older_agent(device) is older


def test_one_that_this_server_handed_out_is_not_older():
    assert not has_older_agent(make.device(versions={"agent": agentzip.agent_zip().version}))


def test_a_build_and_an_installed_agent_of_one_version_do_not_differ():
    release = agentzip.agent_zip().version
    told = (release, release, release.partition("+")[0])
    devices = [make.device(host_id=f"a{n}", versions={"agent": v}) for n, v in enumerate(told)]

    assert skewed(devices) == []
    assert usual_of(devices)["agent"] == release.partition("+")[0]


def test_the_page_of_a_host_with_an_older_agent_says_how_to_renew_it(client):
    client.force_login(make.manager())
    device = make.device(versions={"agent": "0.0.9"})

    page = client.get(f"/devices/{device.pk}/").content.decode()

    assert f"this server has {agentzip.agent_zip().version}" in page
    assert "http://testserver/install.sh" in page
    assert versions_of(device, {})[0].newer == agentzip.agent_zip().version


def test_a_manager_is_told_of_all_older_agents_in_one_sentence(client):
    client.force_login(make.manager())
    for number in range(8):
        make.device(host_id=f"gpu-{number}", versions={"agent": "0.0.9"})

    page = client.get("/").content.decode()

    assert page.count("older than this server's. One line renews each") == 1
    assert "(+2)" in page
    assert "/devices/add/#h-renew" in page
