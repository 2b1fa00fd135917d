"""The authority that `--tls self` makes, and the certificates by it."""

import hashlib
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from labsite import authority
from labsite.run import localagent, tls

NAMES = ["lab", "lab.example.edu", "127.0.0.1", "[::1]"]


def names_of(certificate: Path) -> set[str]:
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def test_a_certificate_names_hosts_and_addresses(tmp_path: Path) -> None:
    certificate, key = tls.own(tmp_path / "tls", NAMES)

    assert names_of(certificate) == {"lab", "lab.example.edu", "127.0.0.1", "::1"}
    assert key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700


def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    files = tls.own(tmp_path, NAMES)
    before = [file.read_bytes() for file in files]

    tls.own(tmp_path, NAMES)

    assert [file.read_bytes() for file in files] == before


def test_a_host_that_was_renamed_gets_a_new_certificate_by_the_same_authority(
    tmp_path: Path,
) -> None:
    tls.own(tmp_path, NAMES)
    ca = (tmp_path / "ca.pem").read_bytes()

    certificate, _ = tls.own(tmp_path, ["newlab", *NAMES])

    assert "newlab" in names_of(certificate)
    assert (tmp_path / "ca.pem").read_bytes() == ca


def test_a_certificate_that_ends_soon_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, _ = tls.own(tmp_path, NAMES)
    before = certificate.read_bytes()
    monkeypatch.setattr(tls, "RENEWED_BEFORE", tls.LIFE)

    tls.own(tmp_path, NAMES)

    assert certificate.read_bytes() != before


def test_openssl_accepts_the_pair_and_its_authority_strictly(tmp_path: Path) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*tls.own(tmp_path, NAMES))
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 has it

    assert shake_hands(client, server, "lab.example.edu") == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client, server, "elsewhere.example.edu")


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> str | None:
    """Both sides in memory; the version that they agree on."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=name)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return here.version()


def test_the_enrollment_line_holds_the_hash_of_the_der_form(tmp_path: Path, settings) -> None:
    tls.own(tmp_path, NAMES)
    settings.LAB_CA_FILE = str(tmp_path / "ca.pem")

    pem = (tmp_path / "ca.pem").read_text()
    assert authority.ca_sha256() == hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def test_a_server_without_an_authority_has_none_to_show(client, settings) -> None:
    settings.LAB_CA_FILE = ""

    assert authority.ca_sha256() is None
    assert client.get("/api/ca.pem").status_code == 404


def test_a_local_agent_keeps_its_state_when_the_port_changes(tmp_path: Path) -> None:
    first = localagent.state_for(tmp_path, "http://127.0.0.1:8000", "lab")
    first.mkdir()
    (first / "token.json").write_text("{}")

    second = localagent.state_for(tmp_path, "http://127.0.0.1:8001", "lab")
    third = localagent.state_for(tmp_path, "http://127.0.0.1:8002", "lab")

    assert second.resolve() == third.resolve() == first
