"""https: with the lab's own certificate, or with an authority made for this server alone.

`--tls self` needs no name, no domain and no internet. Its authority's SHA-256 stands in the
enrollment line, so that an agent knows the right server from its first word on.
"""

import datetime
import ipaddress
import os
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFE = datetime.timedelta(days=3650)
#: Browsers refuse longer ones.
LIFE = datetime.timedelta(days=397)
#: Renewed at a start that finds less than this left of it.
RENEWED_BEFORE = datetime.timedelta(days=60)


def given(certificate: Path | None, key: Path | None) -> tuple[Path, Path]:
    """The files that an option names, or the end of the start with a sentence."""
    if certificate is None or key is None:
        sys.exit("--tls-cert and --tls-key belong together: a certificate's file and its key's.")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except ssl.SSLError as exc:
        sys.exit(f"{certificate} and {key} are not a certificate and its key in PEM: {exc.reason}")
    except OSError as exc:
        sys.exit(f"{certificate} or {key} cannot be read: {exc.strerror}")
    return certificate, key


def own(folder: Path, names: Sequence[str]) -> tuple[Path, Path]:
    """A certificate for `names` (hosts and addresses) with its key.

    Both are made when missing; the certificate also when it ends soon or has other names. The
    authority stays for good, since agents have pinned it.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    ca_file, ca_key_file = folder / "ca.pem", folder / "ca.key"
    server_file, key_file = folder / "server.pem", folder / "server.key"
    if not ca_file.exists():
        _make_authority(ca_file, ca_key_file)
    authority = x509.load_pem_x509_certificate(ca_file.read_bytes())
    if not _still_good(server_file, names):
        authority_key = serialization.load_pem_private_key(ca_key_file.read_bytes(), None)
        _make_server(server_file, key_file, names, authority, authority_key)
    return server_file, key_file


def _still_good(file: Path, names: Sequence[str]) -> bool:
    if not file.exists():
        return False
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    shown = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return left > RENEWED_BEFORE and set(_general_names(names)) <= set(shown)


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name.strip("[]"))))
        except ValueError:
            if name.isascii() and "*" not in name:
                found.append(x509.DNSName(name.strip(".")))
    return list(dict.fromkeys(found))


def _make_authority(file: Path, key_file: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Lab server"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Lab server {os.urandom(4).hex()} CA"),
        ]
    )
    certificate = (
        _builder(name, name, key.public_key(), CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_key(key_file, key)
    _write(file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _make_server(
    file: Path,
    key_file: Path,
    names: Sequence[str],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    signer = authority.public_key()
    certificate = (
        _builder(name, authority.subject, key.public_key(), LIFE)
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write_key(key_file, key)
    _write(file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    life: datetime.timedelta,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # GPU hosts' clocks differ
        .not_valid_after(now + life)
    )


def _usage(**allowed: bool) -> x509.KeyUsage:
    kinds = (
        "digital_signature content_commitment key_encipherment data_encipherment "
        "key_agreement key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{kind: allowed.get(kind, False) for kind in kinds.split()})


def _write_key(file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write(file, pem, 0o600)


def _write(file: Path, data: bytes, mode: int) -> None:
    unfinished = file.with_name(file.name + ".tmp")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(data)
        os.fsync(opened.fileno())
    unfinished.replace(file)
