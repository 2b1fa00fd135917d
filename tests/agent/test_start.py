"""Command line, state folder, enrollment: what is said before anything runs."""

import hashlib
import ssl
from pathlib import Path
from typing import Any

import pytest

from agent import __main__ as program
from agent import config, enroll, host, state
from agent.config import Config
from agent.errors import ConfigError
from agent.state import State, new_credential, state_folder
from agent.store import Store
from labsite.run import tls
from tests.agent.server import FakeServer, listening

URL = "http://lab:8000"


def parse(*arguments: str) -> Config:
    return config.parse(["--server", URL, *arguments])


# --- command line ---


def test_the_founding_documents_names_are_accepted(tmp_path: Path) -> None:
    made = config.parse(
        [
            *("--url", "http://lab:8000/", "--client-host-id", "gpu7"),
            *("--client-interval", "10", "--client-only"),
        ]
    )

    assert (made.server, made.host_id, made.heartbeat_seconds) == (URL, "gpu7", 10.0)


def test_an_address_without_a_scheme_is_http() -> None:
    assert config.parse(["--server", "lab:8000"]).server == URL


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Name the lab server"),
        (["--server", "ftp://lab"], "not an address"),
        (["--server", "http://lab:port"], "not a number"),
        (["--server", "http://kim:pw@lab"], "must not hold a password"),
        (["--server", URL, "--host-id", "../x"], "--host-id"),
        (["--server", URL, "--heartbeat-interval", "61"], "--heartbeat-interval"),
        (["--server", URL, "--poll-interval", "0"], "--poll-interval"),
        (["--server", URL, "--sync-interval", "0"], "--sync-interval"),
        (["--server", URL, "--max-upload", "fast"], "write it as 20MB/s"),
        (["--server", URL, "--max-upload", "20KB/s"], "too little: write 64KB/s or more"),
        (["--server", URL, "--keep-days", "0"], "must be 1 or more"),
        (["--server", URL, "--keep-days", "nan"], "must be 1 or more"),
        (["--server", URL, "--source", "/no/such"], "--source /no/such is not a folder"),
        (["--server", URL, "--ca-sha256", "abc"], "64 hexadecimal digits"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_write(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(arguments)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("20MB/s", 20e6), ("1.5 GB/s", 1.5e9), ("512KiB/s", 512 * 1024), ("100000B/s", 1e5)],
)
def test_a_rate_has_a_unit(text: str, rate: float) -> None:
    assert parse("--max-upload", text).max_upload == rate


def test_the_code_is_not_shown_by_the_configuration() -> None:
    assert "secret-code" not in repr(parse("--enroll-code", "secret-code"))


def test_a_mistake_ends_with_a_sentence_and_not_with_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert program.main(["--server", "ftp://lab"]) == 2
    assert capsys.readouterr().err.startswith("lab-agent: --server 'ftp://lab' is not an address")


# --- state folder ---


def test_each_server_and_host_id_has_a_state_of_its_own(tmp_path: Path) -> None:
    folders = {
        state_folder(url, host_id, tmp_path)
        for url in (URL, "http://lab:9000", "https://lab")
        for host_id in ("gpu1", "gpu2")
    }

    assert len(folders) == 6
    assert all(folder.parent == tmp_path for folder in folders)


def test_a_network_file_system_is_not_used_for_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host, "on_network", lambda path: True)
    monkeypatch.setattr(state.os, "getuid", lambda: 987654)
    local = Path("/var/tmp/lab-agent-987654")
    try:
        with pytest.raises(ConfigError, match="belongs to somebody else"):
            state_folder(URL, "gpu1", tmp_path)
    finally:
        local.rmdir()

    assert "network file system" in caplog.text


def test_the_file_system_of_a_path_is_the_longest_mount_above_it(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    home = tmp_path / "home" / "my folder"
    home.mkdir(parents=True)
    escaped = str(home).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nnas:/home {escaped} nfs4 rw 0 0\n")

    assert host.filesystem(home / "kim" / "not there yet", mounts) == "nfs4"
    assert host.filesystem(tmp_path, mounts) == "ext4"


def test_a_token_is_private_and_bound_to_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = State(tmp_path / "state")
    credential = new_credential("gpu1")
    one.keep(credential)

    assert one.credential() == credential
    assert (one.folder / "token.json").stat().st_mode & 0o777 == 0o600
    assert one.folder.stat().st_mode & 0o777 == 0o700
    assert credential.token not in repr(credential)
    monkeypatch.setattr(host, "machine_id", lambda: "another")
    with pytest.raises(ConfigError, match="another machine"):
        one.credential()


# --- enrollment ---


class Host:
    """A state folder and its store, for one server."""

    def __init__(self, folder: Path, url: str) -> None:
        self.state = State(folder)
        self.store = Store(folder / "journal.sqlite3")
        self.url = url

    def credential(self, code: str | None = None) -> Any:
        arguments = ["--server", self.url, "--host-id", "gpu1"]
        arguments += ["--enroll-code", code] if code else []
        return enroll.credential(config.parse(arguments), self.state, self.store, None)


@pytest.fixture
def newcomer(tmp_path: Path, server: FakeServer) -> Host:
    return Host(tmp_path / "state", server.url)


def test_only_the_digest_of_the_token_leaves_the_host(newcomer: Host, server: FakeServer) -> None:
    credential = newcomer.credential("a-code")

    [sent] = server.asked("/api/devices/enroll")
    assert sent["token_sha256"] == hashlib.sha256(credential.token.encode()).hexdigest()
    assert credential.token not in str(sent)
    assert newcomer.store.get("server_id") == server.server_id


def test_after_a_lost_answer_the_same_token_is_enrolled_again(
    newcomer: Host, server: FakeServer
) -> None:
    server.lose = {"/api/devices/enroll": 1}
    with pytest.raises(ConfigError, match="was cut"):
        newcomer.credential("a-code")

    newcomer.credential("a-code")

    first, second = server.asked("/api/devices/enroll")
    assert first == second


def test_a_code_that_stays_on_the_command_line_is_used_once(
    newcomer: Host, server: FakeServer
) -> None:
    first = newcomer.credential("a-code")

    assert newcomer.credential("a-code") == first
    assert newcomer.credential() == first
    assert len(server.asked("/api/devices/enroll")) == 1


def test_a_new_code_means_a_new_token(newcomer: Host, server: FakeServer) -> None:
    first = newcomer.credential("a-code")

    second = newcomer.credential("another-code")

    assert second.token != first.token
    assert newcomer.credential() == second


def test_a_refused_code_says_where_to_get_another(newcomer: Host, server: FakeServer) -> None:
    refusal = {"code": "code_used", "detail": "This code was used by gpu2."}
    server.refuse = {"/api/devices/enroll": (409, refusal)}

    with pytest.raises(ConfigError, match=r"used by gpu2\..*make a new one on the site"):
        newcomer.credential("a-code")


def test_a_host_that_is_not_enrolled_is_told_the_command(newcomer: Host) -> None:
    with pytest.raises(ConfigError, match=r"lab-agent enroll --server .* --host-id gpu1"):
        newcomer.credential()


# --- another address than the server's ---


def speaking_https(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls.own(folder / "tls", ["127.0.0.1"]))
    return context


def test_http_to_a_server_that_speaks_https_is_told_the_address(tmp_path: Path) -> None:
    with listening(lambda peer: None, speaking_https(tmp_path)) as port:
        newcomer = Host(tmp_path, f"http://127.0.0.1:{port}")

        with pytest.raises(ConfigError) as caught:
            newcomer.credential("a-code")

    assert str(caught.value) == (
        f"127.0.0.1 speaks https there: try --server https://127.0.0.1:{port}"
    )


def test_a_connection_that_is_cut_over_http_is_not_called_https(tmp_path: Path) -> None:
    with listening(lambda peer: None) as port:
        newcomer = Host(tmp_path, f"http://127.0.0.1:{port}")

        with pytest.raises(ConfigError) as caught:
            newcomer.credential("a-code")

    assert "was cut" in str(caught.value)
    assert "https" not in str(caught.value)


def test_a_redirection_is_told_and_the_code_is_not_taken_along(
    tmp_path: Path, server: FakeServer
) -> None:
    moved = f"HTTP/1.1 308 Moved\r\nLocation: {server.url}/lab/\r\nContent-Length: 0\r\n\r\n"
    with listening(lambda peer: peer.sendall(moved.encode())) as port:
        newcomer = Host(tmp_path, f"http://127.0.0.1:{port}")

        with pytest.raises(ConfigError, match="name that address instead") as caught:
            newcomer.credential("a-code")
        with pytest.raises(ConfigError, match="leave --ca-sha256 out"):
            pin(newcomer, FINGERPRINT)

    assert f"{server.url}/lab/" in str(caught.value)
    assert server.requests == []


# --- a certificate authority of the lab's own ---

PEM = ssl.DER_cert_to_PEM_cert(b"a certificate")
FINGERPRINT = hashlib.sha256(b"a certificate").hexdigest()


def pin(newcomer: Host, fingerprint: str | None) -> str | None:
    arguments = ["--server", newcomer.url]
    arguments += ["--ca-sha256", fingerprint] if fingerprint else []
    return enroll.pinned_ca(config.parse(arguments), newcomer.state)


def test_a_pinned_authority_is_fetched_once_and_then_kept(
    newcomer: Host, server: FakeServer
) -> None:
    server.refuse = {"/api/ca.pem": (200, PEM.encode())}  # type: ignore[dict-item]

    first = pin(newcomer, FINGERPRINT)
    colons = ":".join(FINGERPRINT[i : i + 2] for i in range(0, 64, 2)).upper()

    assert first is not None
    assert Path(first).read_text() == PEM
    assert pin(newcomer, colons) == first
    assert pin(newcomer, None) == first
    assert len(server.asked("/api/ca.pem")) == 1


def test_an_authority_with_another_fingerprint_is_not_trusted(
    newcomer: Host, server: FakeServer
) -> None:
    server.refuse = {"/api/ca.pem": (200, PEM.encode())}  # type: ignore[dict-item]

    with pytest.raises(ConfigError, match="somebody may be between"):
        pin(newcomer, "0" * 64)
    assert pin(newcomer, None) is None


def test_a_second_authority_behind_the_pinned_one_is_not_trusted_with_it(
    newcomer: Host, server: FakeServer
) -> None:
    pinned, second = b"a certificate that ends in padding", b"of somebody in between"
    both = "".join(map(ssl.DER_cert_to_PEM_cert, (pinned, second)))
    server.refuse = {"/api/ca.pem": (200, both.encode())}  # type: ignore[dict-item]
    assert ssl.PEM_cert_to_DER_cert(both.strip()) == pinned  # as Python reads it

    with pytest.raises(ConfigError, match="somebody may be between"):
        pin(newcomer, hashlib.sha256(pinned).hexdigest())


def test_a_server_without_an_authority_of_its_own_says_so(
    newcomer: Host, server: FakeServer
) -> None:
    server.refuse = {"/api/ca.pem": (404, {"code": "not_found"})}

    with pytest.raises(ConfigError, match="leave --ca-sha256 out"):
        pin(newcomer, FINGERPRINT)


# --- curl ---


def test_curl_finds_the_token_for_this_server_only_and_all_else_is_kept(tmp_path: Path) -> None:
    netrc, curlrc = tmp_path / ".netrc", tmp_path / ".curlrc"
    netrc.write_text(
        "machine github.com login kim password x\n"
        "machine lab\n  login old\n  password old\n"
        "default login anonymous password kim@lab"
    )
    curlrc.write_text("silent")

    enroll.write_netrc(URL, "gpu1", "the-token", tmp_path)
    enroll.write_netrc(URL, "gpu1", "the-token", tmp_path)

    assert netrc.read_text() == (
        "machine lab login gpu1 password the-token\n"
        "machine github.com login kim password x\n"
        "default login anonymous password kim@lab"
    )
    assert netrc.stat().st_mode & 0o777 == 0o600
    assert curlrc.read_text() == "silent\nnetrc-optional\n"


def test_enroll_writes_netrc_when_asked(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = ["enroll", "--server", server.url, "--host-id", "gpu1"]
    arguments += ["--state-dir", str(tmp_path / "state"), "--enroll-code", "c", "--write-netrc"]

    assert program.main(arguments) == 0

    [kept] = (tmp_path / "state").glob("*/token.json")
    token = kept.read_text().split('"')[3]
    assert (tmp_path / ".netrc").read_text() == f"machine 127.0.0.1 login gpu1 password {token}\n"
