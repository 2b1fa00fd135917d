"""The one line to type: on a GPU server, with the script that it fetches; and where somebody wants
`lab`, and signs in with it."""

import hashlib
import re
import shlex
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest
from django.template.loader import render_to_string

from devices.models import Device
from labsite.authority import ca_sha256
from labsite.zipapps import AGENT, LAB

LAB_PLACE = "~/.local/bin/lab"
#: Whichever of the two programs for it there is: macOS has no sha256sum.
SHA256SUM = "$(command -v sha256sum || echo shasum -a 256)"


def site_url(request: HttpRequest) -> str:
    """How this site is reached from elsewhere: as it is published, else as the reader came."""
    return settings.LAB_PUBLIC_URL or request.build_absolute_uri("/").rstrip("/")


def line_for(request: HttpRequest, code: str, known: Device | None = None) -> str:
    """The line that puts an agent on a GPU server and enrolls it with `code`; `known`: that very
    one, again."""
    return line(site_url(request), code, *_named(known))


def renewal_line(request: HttpRequest) -> str:
    """The line that renews the agents of this site that are on a GPU server."""
    return line(site_url(request))


def command_for(request: HttpRequest, code: str, known: Device | None = None) -> str:
    """The same for a GPU server on which the agent is installed already."""
    command = ["lab-agent", "--server", site_url(request), "--enroll-code", code, *_named(known)]
    if fingerprint := ca_sha256():
        command += ["--ca-sha256", fingerprint]
    return shlex.join(command)


def login_command(request: HttpRequest) -> str:
    """The command that signs a person in at a terminal (docs/lab.md); it asks for the token."""
    command = ["lab", "login", site_url(request)]
    if fingerprint := ca_sha256():
        command += ["--ca-sha256", fingerprint]
    return shlex.join(command)


def lab_line(server: str) -> str:
    """The line that puts `lab` where a person's own programs lie, or renews it there.

    Where the server's authority is its own, as line() has it: known by its hash.
    """
    url = shlex.quote(f"{server}/{LAB.name}")
    if ca_sha256() is None:
        return f"curl -fsS --create-dirs -o {LAB_PLACE} {url} && chmod +x {LAB_PLACE}"
    return (
        f'f={LAB_PLACE} && curl -fsSk --create-dirs -o "$f.new" {url} && '
        f'echo "{LAB.sha256}  $f.new" | {SHA256SUM} -c && '
        f'chmod +x "$f.new" && mv "$f.new" "$f"'
    )


def _named(known: Device | None) -> list[str]:
    return ["--host-id", known.host_id] if known else []


def line(server: str, *arguments: str) -> str:
    """What fetches the script and runs it with these arguments. The code is in no address, so it
    is in no access log.

    Where the server's authority is its own, nothing that comes over the line can be believed: then
    the script is known by its hash, which the reader has from this very page.
    """
    script = shlex.quote(f"{server}/install.sh")
    given = shlex.join(arguments)
    if ca_sha256() is None:
        behind = f" -s -- {given}" if given else ""
        return f"(curl -fsS {script} || wget -qO- {script}) | sh{behind}"
    sha256 = hashlib.sha256(script_text(server).encode()).hexdigest()
    return (
        f'f=$(mktemp) && {{ curl -fsSko "$f" {script} || '
        f'wget -q --no-check-certificate -O "$f" {script}; }} && '
        f'echo "{sha256}  $f" | sha256sum -c --quiet && sh "$f" {given}'
    ).rstrip()


def script_text(server: str) -> str:
    """`install.sh` for the server at this address, which may be any that a browser came by."""
    values = {
        "server": server,
        "version": AGENT.version,
        "sha256": AGENT.sha256,
        "ca_sha256": ca_sha256() or "",
        "place": re.sub(r"[^A-Za-z0-9.-]", "-", urlsplit(server).netloc),
    }
    quoted = {name: shlex.quote(value) for name, value in values.items()}
    return render_to_string("install.sh", quoted)
