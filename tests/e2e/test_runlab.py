"""`manage.py runlab` with real processes: its start, its refusals, its faults and its end."""

import hashlib
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from labsite import wake
from tests.e2e.lab import ROOT, Lab, environment, runlab, wait_for

MakeLab = Callable[..., Lab]


def all_gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


# --- the first start -----------------------------------------------------------------------------


def test_the_first_start_makes_what_only_its_owner_may_read(first_start: Lab) -> None:
    modes = {
        name: (first_start.data_dir / name).stat().st_mode & 0o777
        for name in (".", "secret_key", "admin-password.txt", "run", "log")
    }

    assert modes == {
        ".": 0o700,
        "secret_key": 0o600,
        "admin-password.txt": 0o600,
        "run": 0o700,
        "log": 0o700,
    }


def test_the_password_of_the_admin_is_in_no_output_that_may_be_kept(first_start: Lab) -> None:
    password = (first_start.data_dir / "admin-password.txt").read_text().strip()

    assert password not in first_start.output()
    assert password not in (first_start.data_dir / "log" / "server.log").read_text()
    assert str(first_start.data_dir / "admin-password.txt") in first_start.output()


def test_a_terminal_shows_the_password_once(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "runlab", "--port", "0", "--data-dir", tmp_path / "data"],
        cwd=ROOT,
        env=environment(),
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    while b"with the password" not in said:
        said += os.read(ours, 1024)
    process.kill()
    process.wait()
    os.close(ours)

    assert not (tmp_path / "data" / "admin-password.txt").exists()


# --- what it refuses -----------------------------------------------------------------------------


def test_a_second_server_on_the_same_data_says_so_and_stops(make_lab: MakeLab) -> None:
    lab = make_lab()

    second = runlab("--port", "0", "--data-dir", str(lab.data_dir))

    assert second.returncode == 1
    assert f"A server already runs on the data folder {lab.data_dir}" in second.stdout
    assert f"process {lab.process.pid}" in second.stdout
    assert lab.get("/login/").ok


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        answer = runlab(
            "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(tmp_path / "data")
        )

    assert answer.returncode == 1
    assert answer.stdout.splitlines() == [
        f"Port {port} is in use by another program. Choose another one: --port {port + 1}"
    ]


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    answer = runlab("--data-dir", str(tmp_path / "file" / "data"))

    assert answer.returncode == 1
    assert f"The data folder {tmp_path}/file/data cannot be written to" in answer.stdout
    assert "Traceback" not in answer.stdout


def test_a_database_from_a_newer_version_is_left_alone(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.interrupt()
    with closing(sqlite3.connect(lab.data_dir / "db.sqlite3")) as database, database:
        database.execute(
            "INSERT INTO django_migrations (app, name, applied) "
            "VALUES ('experiments', '9999_from_the_future', '2030-01-01')"
        )

    answer = runlab("--port", "0", "--data-dir", str(lab.data_dir))

    assert answer.returncode == 1
    assert "newer version of the server, with experiments.9999_from_the_future" in answer.stdout
    assert "Traceback" not in answer.stdout


def test_a_database_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    answer = runlab(
        "--port", "0", "--data-dir", str(tmp_path / "data"),
        LAB_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none",
    )  # fmt: skip

    assert answer.returncode == 1
    assert "The database cannot be used" in answer.stdout
    assert "Traceback" not in answer.stdout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--tls-cert", "missing.pem"], "--tls-cert and --tls-key belong together"),
        (["--tls-cert", "missing.pem", "--tls-key", "missing.key"], "cannot be read"),
        (["--tls-cert", "README.md", "--tls-key", "README.md"], "not a certificate and its key"),
        (["--host", "no.such.host.invalid"], "Cannot listen on no.such.host.invalid"),
        (["--port", "70000"], "There is no port 70000"),
    ],
)
def test_an_option_that_cannot_be_right_is_explained(
    tmp_path: Path, options: list[str], sentence: str
) -> None:
    answer = runlab("--port", "0", "--data-dir", str(tmp_path / "data"), *options)

    assert answer.returncode == 1
    assert sentence in answer.stdout
    assert "Traceback" not in answer.stdout


def test_a_missing_package_is_named_with_the_way_to_install_it() -> None:
    answer = subprocess.run(
        [sys.executable, "-S", "manage.py", "runlab"],  # -S: without any installed package
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )

    assert answer.returncode == 1
    assert "is not installed" in answer.stderr
    assert "make install" in answer.stderr
    assert "Traceback" not in answer.stderr


# --- faults --------------------------------------------------------------------------------------


def test_kill_9_of_it_leaves_nothing_behind(make_lab: MakeLab) -> None:
    lab = make_lab("--agent")
    wait_for(lambda: "enrolled as" in lab.output(), "the local agent")
    processes = lab.processes()

    lab.kill()

    assert len(processes) >= 9  # supervisor, web, clock, agent and five of dispatch
    wait_for(lambda: all_gone(processes), "the end of all processes", 5)


def test_clients_wait_while_the_web_program_starts_again(make_lab: MakeLab) -> None:
    lab = make_lab()
    web = lab.program("web")

    web.kill()
    answer = lab.get("/login/")  # at once, and not refused

    assert answer.ok
    assert lab.program("web") != web
    assert "web was killed by SIGKILL; it is started again in 0.2 s" in lab.output()
    assert lab.status()["programs"]["web"]["restarts"] == 1


BACK_SECONDS = 6.0  # well before the watchdog, which may take ten


@pytest.mark.parametrize("which", range(5))
def test_dispatch_goes_on_after_kill_9_of_any_of_its_processes(
    make_lab: MakeLab, which: int, settings: Any
) -> None:
    lab = make_lab()
    first = lab.program("dispatch")
    wait_for(lambda: len(first.children(recursive=True)) == 4, "its processes")
    members = [first, *first.children(recursive=True)]
    settings.LAB_DATA_DIR, settings.LAB_SOCKET_DIR = lab.data_dir, ""

    with wake.Mailbox({"dispatched"}) as passes:
        assert wait_for(lambda: passes.wait(1), "the first pass", BACK_SECONDS)
        members[which].kill()
        time.sleep(1)  # a pass that ran just then is no proof
        passes.take()

        assert wait_for(lambda: passes.wait(1), "a dispatch pass", BACK_SECONDS)


def test_a_cluster_that_executes_nothing_is_killed_and_started_anew(make_lab: MakeLab) -> None:
    lab = make_lab()
    first = lab.program("dispatch")
    wait_for(lambda: len(first.children(recursive=True)) == 4, "its processes")
    stuck = [first, *first.children(recursive=True)]
    for process in stuck:
        process.suspend()  # alive, and dead to the world

    wait_for(lambda: lab.status()["programs"]["dispatch"]["restarts"], "the watchdog", 20)

    wait_for(lambda: all_gone(stuck), "the end of those that ended with the first", 10)
    facts = lab.status()["programs"]["dispatch"]
    assert facts["last_end"] == "was killed, since no dispatch pass was executed for 10 s"


# --- its end -------------------------------------------------------------------------------------


def test_ctrl_c_stops_all_within_5_s_though_a_poll_is_held(make_lab: MakeLab) -> None:
    lab = make_lab("--agent")
    wait_for(lambda: "enrolled as" in lab.output(), "the local agent")
    time.sleep(2)  # its poll is held for up to 25 s
    processes = lab.processes()

    seconds = lab.interrupt()

    assert seconds < 5
    assert lab.process.returncode == 0
    assert all_gone(processes)
    assert "is killed" not in lab.output()


# --- https ---------------------------------------------------------------------------------------


def test_tls_self_serves_https_with_an_authority_that_stays(make_lab: MakeLab) -> None:
    lab = make_lab("--tls", "self", "--agent")

    served = lab.get("/api/ca.pem").text
    wait_for(lambda: "enrolled as" in lab.output(), "an agent that trusts it")
    lab.interrupt()
    lab.start()

    assert lab.url.startswith("https://")
    assert lab.get("/api/ca.pem").text == served == (lab.data_dir / "tls" / "ca.pem").read_text()
    assert (lab.data_dir / "tls" / "ca.key").stat().st_mode & 0o777 == 0o600
    assert len(hashlib.sha256(ssl.PEM_cert_to_DER_cert(served)).digest()) == 32


def test_https_on_an_http_server_is_told_in_its_log(make_lab: MakeLab) -> None:
    lab = make_lab()
    port = int(lab.url.rpartition(":")[2])

    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        pytest.raises(ssl.SSLError),
    ):
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")

    wait_for(lambda: "127.0.0.1 speaks https, and this server speaks http" in lab.output(), "it")
