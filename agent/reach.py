"""Reaching the lab server: what the agent and the people's command line share.

Why it did not work, in one sentence; how long an answer may be; whose certificate to trust.
"""

import hashlib
import re
import socket
import ssl
import warnings
from urllib.parse import urlsplit

import requests
import urllib3

from agent.errors import ConfigError

CA_SECONDS = 10.0
MAX_REPLY_BYTES = 16 * 1024 * 1024  # files apart: no answer of the lab server is near it
REPLY_BLOCK_BYTES = 16 * 1024  # small, since a compressed one may expand a thousandfold

#: What an agent is told to write where the address was wrong, and the certificate not trusted.
AGENTS_ADDRESS = "--server "
AGENTS_TRUST = (
    "copy the enrollment line with --ca-sha256 from the site, or install the lab's CA on this host"
)


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine, by whatever name that nobody can give to another."""
    return host == "localhost" or host == "::1" or host.startswith("127.")


def proxies_for(server: str) -> dict[str, str] | None:
    """Whatever proxy the environment names, this very machine is not behind it."""
    host = urlsplit(server).hostname or ""
    return {"no_proxy": host} if is_loopback(host) else None


class TooLong(Exception):
    """An answer of more than MAX_REPLY_BYTES."""


def whole(response: requests.Response) -> bytes:
    """The body of a streamed answer, as far as a lab server's can go; then let go of it.

    Raises:
        TooLong: there is more; what came of it is dropped.
        requests.RequestException: it was cut short.
    """
    body = bytearray()
    with response:
        for block in response.iter_content(REPLY_BLOCK_BYTES):
            body += block
            if len(body) > MAX_REPLY_BYTES:
                raise TooLong
    return bytes(body)


def why(
    exc: requests.RequestException,
    server: str,
    *,
    address: str = AGENTS_ADDRESS,
    trust: str = AGENTS_TRUST,
) -> str:
    """One sentence for the commonest causes; requests' own words are for programmers.

    `address` is what stands before an address that the sentence proposes, `trust` what to do
    where the certificate is not trusted.
    """
    text = str(exc)
    for pattern, sentence in _CAUSES:
        if re.search(pattern, text):
            parts = urlsplit(server)
            return sentence.format(
                server=server,
                host=parts.hostname,
                rest=parts.netloc,
                address=address,
                trust=trust,
            )
    return f"{server} cannot be reached: {type(exc).__name__}"


_CAUSES = [
    (
        r"ProxyError|Tunnel connection failed",
        "The proxy that HTTP_PROXY or HTTPS_PROXY names here does not let {host} be reached: "
        "correct it, or put {host} into NO_PROXY",
    ),
    (
        r"WRONG_VERSION_NUMBER|wrong version number|record layer failure|RECORD_LAYER",
        "{host} speaks http there, not https: try {address}http://{rest}",
    ),
    (
        r"BadStatusLine|UnknownProtocol|InvalidHeader",
        "{host} does not speak http there: try {address}https://{rest}",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "The certificate of {server} is not trusted here: {trust}",
    ),
    (
        r"NameResolutionError|Name or service not known|Temporary failure in name",
        "The name {host} cannot be resolved: check the address, or this host's DNS",
    ),
    (
        r"Connection refused",
        "Nothing answers at {server} (connection refused): is the server running, "
        "and is the port right?",
    ),
    (
        r"No route to host|Network is unreachable",
        "There is no network route to {host} from here",
    ),
    (
        r"timed out",
        "{server} did not answer in time: is a firewall in between?",
    ),
    (
        r"InvalidURL|MissingSchema|Invalid URL|Failed to parse",
        "{server} is not an address: write http://host:port or https://host",
    ),
    (
        r"Connection aborted|RemoteDisconnected|Connection reset|ConnectionResetError",
        "The connection to {server} was cut",
    ),
]


def over_https(server: str, *, address: str = AGENTS_ADDRESS) -> str | None:
    """What to write instead, if it is https that is spoken at this http address: such a server
    cuts the connection without a word."""
    parts = urlsplit(server)
    if parts.scheme != "http" or not parts.port:
        return None
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE  # nothing is said to it
    try:
        with (
            socket.create_connection((parts.hostname, parts.port), CA_SECONDS) as connection,
            anyone.wrap_socket(connection),
        ):
            return f"{parts.hostname} speaks https there: try {address}https://{parts.netloc}"
    except OSError:
        return None


def fingerprint(pem: str) -> str | None:
    """SHA-256 of the certificate's DER form; None: it is not one, and one alone.

    A second one behind it would be trusted as well, and nobody has looked at its fingerprint.
    """
    text = pem.strip()
    try:
        der = ssl.PEM_cert_to_DER_cert(text)
    except ValueError:
        return None
    is_all = "".join(text.split()) == "".join(ssl.DER_cert_to_PEM_cert(der).split())
    return hashlib.sha256(der).hexdigest() if is_all else None


def fetch_ca(server: str, sha256: str) -> str:
    """The server's own certificate authority, as PEM. The connection that brings it proves
    nothing; the fingerprint, which a person copied from the site, does.

    Raises:
        ConfigError: it cannot be fetched, or has another fingerprint.
    """
    pem = _fetch_ca(server)
    if fingerprint(pem) != sha256:
        raise ConfigError(
            f"The certificate authority of {server} does not have the fingerprint "
            "given with --ca-sha256: copy the line from the site again. If it still differs, "
            "somebody may be between you and the server"
        )
    return pem


def _fetch_ca(server: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
        try:
            response = requests.get(
                f"{server}/api/ca.pem",
                verify=False,  # noqa: S501 - the fingerprint is checked instead
                timeout=CA_SECONDS,
                allow_redirects=False,
                stream=True,
                proxies=proxies_for(server),
            )
            pem = whole(response)
        except (requests.RequestException, TooLong) as exc:
            raise ConfigError(
                f"The certificate authority of {server} cannot be fetched: {type(exc).__name__}. "
                "Is the address right, and does it begin with https?"
            ) from None
    if response.status_code != 200:
        raise ConfigError(
            f"{server} has no certificate authority of its own: leave --ca-sha256 out"
        )
    return pem.decode("ascii", "replace")
