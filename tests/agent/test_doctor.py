"""`lab-agent doctor`: each thing that may be wrong, found on a host where it is."""

import os
import socket
import ssl
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent import config, host, presence
from agent.doctor import finding, hostchecks, serverchecks
from agent.doctor.finding import DOUBTFUL, FINE, WRONG, Finding
from agent.transport import Transport
from labsite.run import tls
from tests.agent.conftest import ROOT, AgentProcess
from tests.agent.server import FakeServer


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def doctor(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", "doctor", "--state-dir", str(folder / "state")]
    return subprocess.run(
        [*command, "--workdir", str(folder / "work"), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
    )


def lines(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The last line of each topic."""
    assert done.stderr == ""
    split = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert all(mark in (FINE, DOUBTFUL, WRONG) for mark, _, _ in split)
    return {topic: f"{mark} {text}" for mark, topic, text in split}


# --- as a person types it ---


def test_without_a_server_it_looks_at_the_host_and_leaves_nothing(tmp_path: Path) -> None:
    done = doctor(tmp_path)

    found = lines(done)
    assert done.returncode == 0
    assert {"python", "user", "driver", "workdir", "state", "logout"} <= set(found)
    assert "--server URL" in found["server"]
    assert list(tmp_path.iterdir()) == []


def test_with_an_agent_that_runs_all_is_fine_and_the_agent_is_not_disturbed(
    agent: AgentProcess, server: FakeServer
) -> None:
    agent.start()
    server.wait(lambda: len(server.asked("/api/devices/heartbeat")) > 1)  # one was answered
    token = next(token for token in server.tokens if token)

    done = doctor(agent.folder, "--server", server.url, "--host-id", "gpu1")
    unnamed = doctor(agent.folder)

    found = lines(done)
    assert done.returncode == 0
    assert found["token"] == f"{FINE} accepted, as gpu1"
    assert found["server"] == f"{FINE} lab (server-1)"
    assert found["dns"].startswith(FINE)
    assert found["port"].startswith(FINE)
    assert found["clock"].startswith(FINE)
    assert found["proxy"] == f"{FINE} none, straight to the server"
    assert f"process {agent.process.pid}" in found["agent"]  # type: ignore[union-attr]
    assert token.removeprefix("Bearer ") not in done.stdout
    assert lines(unnamed)["token"] == found["token"]
    assert len({body["instance_id"] for body in server.asked("/api/devices/heartbeat")}) == 1
    assert agent.stop() == 0


def test_a_host_that_is_not_enrolled_yet_is_told_where(tmp_path: Path, server: FakeServer) -> None:
    server.refuse = {"/api/devices/me": (401, {"code": "unauthorized", "detail": "no token"})}

    done = doctor(tmp_path, "--server", server.url)

    assert done.returncode == 0
    assert lines(done)["token"].startswith(f"{DOUBTFUL} this host is not enrolled there: on the")
    assert list(tmp_path.iterdir()) == []


def test_a_token_that_is_not_accepted_any_more_is_wrong(
    agent: AgentProcess, server: FakeServer
) -> None:
    agent.start()
    server.wait(lambda: len(server.asked("/api/devices/heartbeat")) > 1)  # one was answered
    agent.kill()
    server.refuse = {"/api/devices/me": (401, {"code": "unauthorized", "detail": "Revoked."})}

    done = doctor(agent.folder, "--server", server.url, "--host-id", "gpu1")

    assert done.returncode == 1
    assert lines(done)["token"] == f"{WRONG} it is not accepted: Revoked."
    assert lines(done)["agent"].startswith(f"{DOUBTFUL} gpu1 at {server.url} does not run")


def test_another_server_behind_the_address_is_wrong(
    agent: AgentProcess, server: FakeServer
) -> None:
    agent.start()
    server.wait(lambda: len(server.asked("/api/devices/heartbeat")) > 1)  # one was answered
    agent.stop()
    server.server_id = "another"

    done = doctor(agent.folder, "--server", server.url, "--host-id", "gpu1")

    assert done.returncode == 1
    assert "another identity (another) than the one known here (server-1)" in lines(done)["server"]
    assert "--accept-new-server" in lines(done)["server"]


def test_what_lies_behind_a_closed_port_is_not_asked(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"

        done = doctor(tmp_path, "--server", url)

    found = lines(done)
    assert done.returncode == 1
    assert found["port"].startswith(f"{WRONG} nothing listens at 127.0.0.1")
    assert list(found)[-1] == "port"


def test_something_else_at_that_address_is_named(tmp_path: Path, server: FakeServer) -> None:
    server.refuse = {"/api/devices/me": (200, b"<html>")}  # type: ignore[dict-item]

    done = doctor(tmp_path, "--server", server.url)

    assert done.returncode == 1
    assert "Is it the address of the lab server?" in lines(done)["answer"]


def test_a_terminal_without_the_signs_gets_the_words(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent", "doctor", "--state-dir", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0
    assert "? python" in done.stdout


# --- the way, one by one ---


def test_a_name_that_nobody_knows() -> None:
    found = serverchecks.dns("lab.invalid", 8000)

    assert found.mark == WRONG
    assert "/etc/hosts" in found.text


def test_a_firewall_is_suspected_where_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*args: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(serverchecks.socket, "create_connection", silent)

    found = serverchecks.listens("lab", 8000, "the server")

    assert found.mark == WRONG
    assert "sudo ufw allow 8000/tcp" in found.text


def test_the_proxy_is_shown_without_its_password_and_is_what_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://kim:secret@127.0.0.1:1")
    chosen = config.parse(["doctor", "--server", "https://lab.invalid"])

    found = list(serverchecks.all_of(chosen))

    assert [one.topic for one in found] == ["proxy", "dns", "port"]
    assert found[0].text == "through http://127.0.0.1:1"
    assert "start the proxy" in found[2].text
    assert "secret" not in str(found)
    monkeypatch.setenv("NO_PROXY", ".invalid")
    assert serverchecks.proxy_of("https://lab.invalid") is None
    assert serverchecks.proxy_of("https://127.0.0.1:8000") is None


@pytest.fixture
def encrypted(server: FakeServer, tmp_path: Path) -> Path:
    """The folder of the authority that vouches for the server as `localhost`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*tls.own(tmp_path / "tls", ["localhost"]))
    server.encrypt(context)
    return tmp_path / "tls"


def https(server: FakeServer, name: str = "localhost") -> str:
    return server.url.replace("http:", "https:").replace("127.0.0.1", name)


def test_a_certificate_is_weighed_by_the_authority_that_the_agent_trusts(
    server: FakeServer, encrypted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca_file = str(encrypted / "ca.pem")

    good = serverchecks.certificate(https(server), ca_file)
    unknown = serverchecks.certificate(https(server), None)
    renamed = serverchecks.certificate(https(server, "127.0.0.1"), ca_file)
    monkeypatch.setattr(serverchecks, "SOON_DAYS", 400)
    soon = serverchecks.certificate(https(server), ca_file)

    assert (good.mark, unknown.mark, renamed.mark, soon.mark) == (FINE, WRONG, WRONG, DOUBTFUL)
    assert "the lab's own authority vouches for it" in good.text
    assert "--ca-sha256" in unknown.text
    assert "mismatch" in renamed.text
    assert "renew it" in soon.text


def test_http_where_https_was_named_is_told(server: FakeServer) -> None:
    found = serverchecks.certificate(https(server), None)

    assert found.mark == WRONG
    assert "is it http" in found.text


def test_a_pinned_authority_is_fetched_and_compared(
    server: FakeServer, encrypted: Path, tmp_path: Path
) -> None:
    pem = (encrypted / "ca.pem").read_bytes()
    server.refuse = {"/api/ca.pem": (200, pem)}  # type: ignore[dict-item]

    done = doctor(tmp_path, "--server", https(server), "--ca-sha256", "0" * 64)

    assert done.returncode == 1
    assert "does not have the fingerprint" in lines(done)["state"]


@pytest.mark.parametrize(
    ("ahead_seconds", "mark", "words"),
    [
        (0, FINE, "0 s"),
        (120, DOUBTFUL, "120 s ahead of"),
        (-120, DOUBTFUL, "120 s behind"),
    ],
)
def test_a_clock_that_is_wrong_is_a_hint(ahead_seconds: int, mark: str, words: str) -> None:
    now = float(int(time.time()))

    found = serverchecks.clock(formatdate(now, usegmt=True), now + ahead_seconds)

    assert found.mark == mark
    assert words in found.text
    assert serverchecks.clock("yesterday", now).mark == DOUBTFUL


def test_an_older_server_cannot_check_a_token(server: FakeServer) -> None:
    server.refuse = {"/api/devices/me": (404, {"code": "not_found", "detail": "Nothing here."})}

    [found] = serverchecks.identity(Transport(server.url, "labd_x"), None, enrolled=True)

    assert found.mark == DOUBTFUL
    assert "older" in found.text


# --- the host ---


class NVML:
    """A driver that answers, or that does not."""

    class NVMLError(Exception):
        pass

    def __init__(self, count: int | None = 1, init: str | None = None) -> None:
        self._count, self._init = count, init

    def nvmlInit(self) -> None:
        if self._init:
            raise self.NVMLError(self._init)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "550.1"

    def nvmlDeviceGetCount(self) -> int:
        if self._count is None:
            raise self.NVMLError("GPU is lost")
        return self._count

    def nvmlShutdown(self) -> None:
        pass


def card(folder: Path, vendor: str = "0x10de", kind: str = "0x030200") -> Path:
    device = folder / "0000:01:00.0"
    device.mkdir()
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    return folder


def test_the_driver_is_shown_and_its_lack_explained(tmp_path: Path) -> None:
    none = tmp_path / "none"
    none.mkdir()
    (tmp_path / "sound").mkdir()
    mismatch = NVML(init="Driver/library version mismatch")

    assert hostchecks.driver(NVML(2), none) == finding.fine(
        "driver", "NVIDIA driver 550.1, 2 GPUs"
    )
    assert hostchecks.driver(NVML(0), none).mark == DOUBTFUL
    assert hostchecks.driver(NVML(None), none).mark == WRONG
    assert hostchecks.driver(mismatch, none).mark == DOUBTFUL
    sound = hostchecks.driver(mismatch, card(tmp_path / "sound", kind="0x040300"))
    assert sound.mark == DOUBTFUL
    broken = hostchecks.driver(mismatch, card(none))
    assert broken.mark == WRONG
    assert "version mismatch" in broken.text
    assert "restart this machine" in broken.text


def test_a_card_that_the_user_may_not_open_names_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidia1").touch()
    monkeypatch.setattr(
        hostchecks.os, "access", lambda path, mode: not str(path).endswith("nvidia1")
    )

    [found] = hostchecks.devices([f"{tmp_path}/nvidia[0-9]*"])

    assert found.mark == WRONG
    assert f"may not use {tmp_path}/nvidia1" in found.text
    assert f"usermod -aG {hostchecks._group(os.getgid())} {host.unix_user()}" in found.text


def rooms(folder: Path, *arguments: str) -> dict[str, Finding]:
    chosen = config.parse(
        ["doctor", "--workdir", str(folder / "work"), "--state-dir", str(folder), *arguments]
    )
    return {one.topic: one for one in hostchecks.folders(chosen)}


@pytest.mark.parametrize(
    ("free_gib", "mark", "words"),
    [(0.5, WRONG, "make room"), (5, DOUBTFUL, "checkpoints"), (50, FINE, "50.0 of 100 GiB free")],
)
def test_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gib: float, mark: str, words: str
) -> None:
    usage = SimpleNamespace(free=free_gib * hostchecks.GIB, total=100 * hostchecks.GIB)
    monkeypatch.setattr(hostchecks.shutil, "disk_usage", lambda path: usage)

    for found in rooms(tmp_path).values():
        assert found.mark == mark
        assert words in found.text


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**fields: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hostchecks.tempfile, "TemporaryFile", refuse)

    found = rooms(tmp_path)

    assert found["workdir"].mark == WRONG
    assert f"sudo chown {host.unix_user()} {tmp_path}" in found["workdir"].text
    assert "--state-dir" in found["state"].text


def test_a_workdir_that_hosts_share_and_a_source_that_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        host, "filesystem", lambda path: "nfs4" if path.name == tmp_path.name else "ext4"
    )
    monkeypatch.setattr(hostchecks.state, "base_folder", lambda chosen: tmp_path / "s")
    monkeypatch.setattr(hostchecks.os, "access", lambda path, mode: False)

    found = rooms(tmp_path)

    assert "hosts that share it have a folder each" in found["workdir"].text
    assert found["source"].mark == WRONG


def test_a_logout_that_ends_jobs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "unix_user", lambda: "kim")
    assert hostchecks.logout(tmp_path).mark == FINE
    (tmp_path / "etc/systemd").mkdir(parents=True)
    (tmp_path / "etc/systemd/logind.conf").write_text("KillUserProcesses=yes\n")

    found = hostchecks.logout(tmp_path)

    assert found.mark == DOUBTFUL
    assert "install-service" in found.text


def test_root_is_told_of_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostchecks.os, "getuid", lambda: 0)
    assert hostchecks.user(config.parse(["doctor"])).mark == DOUBTFUL
    monkeypatch.setattr(hostchecks.os, "getuid", lambda: os.stat("/").st_uid + 1000)
    assert hostchecks.user(config.parse(["doctor"])).mark == FINE


def test_an_agent_in_trouble_is_shown_with_its_words(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "one"
    folder.mkdir(parents=True)
    kept = presence.Presence(
        folder, presence.of_this_process("http://127.0.0.1:1", "gpu1", folder)
    )
    kept.turned("heartbeat failed: Nothing answers")

    found = lines(doctor(tmp_path))["agent"]

    assert found.startswith(f"{DOUBTFUL} gpu1 at http://127.0.0.1:1 runs")
    assert "Nothing answers" in found
