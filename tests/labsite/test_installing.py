"""What machines fetch, GPU servers and people's, and the lines that are typed there."""

import hashlib
import html
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

import labcommand
from labsite import zipapps
from labsite.pages import enrolling
from labsite.pages.versions import has_older_agent, skewed, usual_of, versions_of
from labsite.zipapps import AGENT, LAB, Zipapp
from tests import make

pytestmark = pytest.mark.django_db
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
CODE = "0123456789abcdef" * 2
BOTH = pytest.mark.parametrize("one", [AGENT, LAB], ids=lambda one: one.name)
#: A student's own files, which are none of ours.
TRAPS = ("agent.py", "requests.py", "yaml.py", "argparse.py", "labcommand.py")


def served(client, path: str) -> bytes:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content


@BOTH
def test_each_is_served_with_its_hash(client, one: Zipapp):
    content = served(client, f"/{one.name}")

    line = served(client, f"/{one.name}.sha256").decode()
    assert line == f"{hashlib.sha256(content).hexdigest()}  {one.name}\n"
    assert client.get(f"/{one.name}").headers["Content-Type"] == "application/zip"


@BOTH
def test_it_has_the_same_bytes_however_often_it_is_made(one: Zipapp):
    zipapps._part.cache_clear()

    assert replace(one).content == one.content


def names_in(one: Zipapp) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(one.content)) as archive:
        return set(archive.namelist())


def test_it_holds_what_an_agent_needs_and_nothing_compiled():
    names = names_in(AGENT)

    assert {"__main__.py", "agent/shim.py", "agent/cli/labrun.py", "certifi/cacert.pem"} <= names
    assert {"pynvml.py", "yaml/__init__.py", "requests/__init__.py", "idna/core.py"} <= names
    assert {os.path.splitext(name)[1] for name in names if "/" in name} - {".py", ".pem"} <= {
        "", ".txt", ".md",
    }  # fmt: skip
    assert not [name for name in names if name.startswith(("psutil", "labsite/", "django"))]
    assert "licenses/requests/LICENSE" in names


def test_the_peoples_command_comes_without_what_asks_drivers():
    assert names_in(AGENT) - names_in(LAB) == {"pynvml.py"} | {
        name for name in names_in(AGENT) if name.startswith("licenses/nvidia-ml-py/")
    }


def test_an_agent_from_it_says_which_build_it_is(tmp_path):
    (tmp_path / "agent.pyz").write_bytes(AGENT.content)

    done = subprocess.run(
        [sys.executable, "-I", "agent.pyz", "--state-dir", "state", "--version"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    assert done.stdout == f"lab-agent {AGENT.version}\n"


# --- lab ---


@pytest.fixture
def typed(tmp_path):
    """Types `lab`, as its one file, in a folder full of a student's own files."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for name in TRAPS:
        (folder / name).write_text("raise SystemExit('a file of yours was imported')\n")
    (tmp_path / "lab").write_bytes(LAB.content)
    (tmp_path / "lab").chmod(0o755)
    (tmp_path / "python3").symlink_to(sys.executable)  # one without the packages of this one
    (tmp_path / "home").mkdir()

    def type_(*words: str, **environ: str) -> str:
        here = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path / "home")}
        done = subprocess.run(
            ["lab", *words],
            cwd=folder, env=here | {"PYTHONPATH": "."} | environ,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        return done.stdout + done.stderr

    return type_


def test_lab_says_which_build_it_is_and_leaves_nothing_but_what_it_compiled(typed, tmp_path):
    said = typed("--version")

    assert said == f"lab {LAB.version}\n"
    [made] = (tmp_path / "home").iterdir()
    [folder] = (made / "lab" / "pyz").iterdir()
    assert made.name == ".cache"
    assert list((folder / "agent" / "cli" / "__pycache__").glob("submit.*.pyc"))
    assert typed("--version") == said


def test_lab_runs_from_its_file_where_nothing_can_be_kept(typed, tmp_path):
    said = typed("login", "http://127.0.0.1:9", XDG_CACHE_HOME="/dev/null", LAB_TOKEN="")

    assert "That is no token" in said, said
    assert list((tmp_path / "home").iterdir()) == []


def test_an_older_python_is_told_what_lab_needs(monkeypatch, capsys):
    monkeypatch.setattr(labcommand, "NEEDS", (99, 0))

    assert labcommand.main() == 2
    assert "lab needs 3.10 or newer" in capsys.readouterr().err


def test_labrun_is_served_for_scripts_that_run_by_hand(client):
    assert b"def should_stop" in served(client, "/labrun.py")


# --- the line and its script ---


def test_the_script_is_read_as_text_and_names_what_it_fetches_by_hash(client):
    answer = client.get("/install.sh")

    text = answer.content.decode()
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert text.startswith("#!/bin/sh\n")
    assert f"sha256={AGENT.sha256}\n" in text
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
    with_own_authority(settings, tmp_path)

    line = enrolling.line("https://lab:8000", CODE)

    text = enrolling.script_text("https://lab:8000")
    assert hashlib.sha256(text.encode()).hexdigest() in line
    assert "sha256sum -c" in line
    assert line.endswith(f'sh "$f" {CODE}')
    assert f"ca_sha256={hashlib.sha256(bytes(3)).hexdigest()}\n" in text


def with_own_authority(settings, tmp_path) -> None:
    settings.LAB_CA_FILE = str(tmp_path / "ca.pem")
    (tmp_path / "ca.pem").write_text(PEM)


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


CURL = """\
#!/bin/sh
until [ "$1" = -o ]; do shift; done
mkdir -p "${2%/*}" && cp "$SENT" "$2"
"""


@pytest.mark.parametrize("program", ["sha256sum", "shasum"])  # macOS has the second
def test_the_line_of_lab_lets_nothing_in_that_is_not_known_by_its_hash(
    settings, tmp_path, program
):
    if not shutil.which(program):
        pytest.skip(f"no {program} on this machine")
    with_own_authority(settings, tmp_path)
    environ = host(tmp_path, "cp", "mv", program, *(["perl"] if program == "shasum" else []))
    (tmp_path / "good").write_bytes(LAB.content)
    (tmp_path / "bad").write_bytes(AGENT.content)
    (tmp_path / "bin" / "curl").write_text(CURL)
    (tmp_path / "bin" / "curl").chmod(0o755)
    line = ["/bin/sh", "-c", enrolling.lab_line("https://lab:8000")]
    lab = tmp_path / "home" / ".local" / "bin" / "lab"

    good, bad = (
        subprocess.run(line, env=environ | {"SENT": str(tmp_path / sent)}, capture_output=True)
        for sent in ("good", "bad")
    )

    assert (good.returncode, bad.returncode) == (0, 1), good.stderr
    assert lab.read_bytes() == LAB.content
    assert os.access(lab, os.X_OK)


def test_an_account_names_the_line_that_installs_lab_and_the_build_that_it_brings(client):
    client.force_login(make.user())

    page = html.unescape(re.sub("<[^>]+>", "", client.get("/account/").content.decode()))

    assert enrolling.lab_line("http://testserver") in page
    assert f"version {LAB.version}." in page
    assert page.count(LAB.version) == 1


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
    assert not has_older_agent(make.device(versions={"agent": AGENT.version}))


def test_a_build_and_an_installed_agent_of_one_version_do_not_differ():
    release = AGENT.version
    told = (release, release, release.partition("+")[0])
    devices = [make.device(host_id=f"a{n}", versions={"agent": v}) for n, v in enumerate(told)]

    assert skewed(devices) == []
    assert usual_of(devices)["agent"] == release.partition("+")[0]


def test_the_page_of_a_host_with_an_older_agent_says_how_to_renew_it(client):
    client.force_login(make.manager())
    device = make.device(versions={"agent": "0.0.9"})

    page = client.get(f"/devices/{device.pk}/").content.decode()

    assert f"this server has {AGENT.version}" in page
    assert "http://testserver/install.sh" in page
    assert versions_of(device, {})[0].newer == AGENT.version


def test_a_manager_is_told_of_all_older_agents_in_one_sentence(client):
    client.force_login(make.manager())
    for number in range(8):
        make.device(host_id=f"gpu-{number}", versions={"agent": "0.0.9"})

    page = client.get("/").content.decode()

    assert page.count("older than this server's. One line renews each") == 1
    assert "(+2)" in page
    assert "/devices/add/#h-renew" in page
