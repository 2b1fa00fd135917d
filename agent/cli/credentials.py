"""Where the servers stand that somebody signed in to: ~/.config/lab/credentials.json, mode 0600.

    {"default": "https://lab:8000",
     "servers": {"https://lab:8000": {"token": "labp_…", "username": "kim", "ca": "-----BEGIN…"}}}

LAB_SERVER and LAB_TOKEN go before it, for programs and containers that keep nothing.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.cli.errors import CliError, Exit

FILE = "credentials.json"


@dataclass(frozen=True)
class Known:
    """A server, and who one is there."""

    url: str
    token: str
    username: str = ""
    ca: str | None = None  # the pinned authority, as PEM; None: those of this system

    def __repr__(self) -> str:
        return f"<Known {self.url}>"  # the token stays out of tracebacks


class Credentials:
    """The file of one person on one machine."""

    def __init__(self, folder: Path, environ: Mapping[str, str] = os.environ) -> None:
        self._folder = folder
        self._path = folder / FILE
        self._environ = environ

    # --- asking -----------------------------------------------------------------------------

    def chosen(self, named: str | None) -> Known:
        """Which server is meant: `--server`, LAB_SERVER, the one signed in to last.

        Raises:
            CliError: there is none, or nobody signed in there.
        """
        kept, default = self._read()
        token = self._environ.get("LAB_TOKEN")
        url = named or self._environ.get("LAB_SERVER") or default
        if not url:
            raise CliError(
                "You are signed in nowhere: lab login http://HOST:8000 (the address of your "
                "lab's server)",
                Exit.REFUSED,
            )
        known = _of(address(url), kept)
        if token:
            return Known(address(url), token) if known is None else replace(known, token=token)
        if known is None:
            raise CliError(f"You are not signed in there: lab login {address(url)}", Exit.REFUSED)
        return known

    def all(self) -> list[Known]:
        return list(self._read()[0].values())

    def ca_file(self, known: Known) -> str | None:
        """The path of its pinned authority, as requests wants it."""
        if known.ca is None:
            return None
        digest = hashlib.sha256(known.ca.encode()).hexdigest()[:16]
        path = self._folder / f"ca-{digest}.pem"
        if not path.exists():
            self._write(path, known.ca)
        return str(path)

    # --- changing ---------------------------------------------------------------------------

    def keep(self, known: Known) -> None:
        """Also as the one that is meant where none is named."""
        kept, _default = self._read()
        kept[known.url] = known
        self._save(kept, known.url)

    def forget(self, url: str) -> bool:
        """Whether it was there."""
        kept, default = self._read()
        gone = kept.pop(url, None)
        if gone is not None:
            self._save(kept, default if default in kept else next(iter(kept), None))
        return gone is not None

    def _read(self) -> tuple[dict[str, Known], str | None]:
        try:
            data = json.loads(self._path.read_text())
            servers = {url: _known(url, one) for url, one in data["servers"].items()}
        except FileNotFoundError:
            return {}, None
        except OSError as exc:
            raise CliError(f"{self._path} cannot be read: {exc.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            words = f"{self._path} is not what lab wrote: delete it, and sign in again"
            raise CliError(words) from None
        return servers, data.get("default")

    def _save(self, kept: dict[str, Known], default: str | None) -> None:
        servers = {
            one.url: {"token": one.token, "username": one.username, "ca": one.ca}
            for one in kept.values()
        }
        self._write(self._path, json.dumps({"default": default, "servers": servers}, indent=1))

    def _write(self, path: Path, text: str) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(path, text)
        except OSError as exc:
            raise CliError(f"{path} cannot be written: {exc.strerror}") from None


def folder_of(environ: Mapping[str, str] = os.environ) -> Path:
    config = environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "lab"


def address(text: str) -> str:
    """`text` as http(s)://host[:port].

    Raises:
        CliError: it cannot be one.
    """
    text = text.strip()
    full = text if "//" in text else f"http://{text}"
    try:
        parts = urlsplit(full)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise CliError(f"{text} is not an address: its port is no number") from None
    if parts.scheme not in ("http", "https") or not host:
        raise CliError(f"{text} is not an address: write http://HOST:8000 or https://HOST")
    if parts.username or parts.password:
        raise CliError("An address must not hold a password: lab login asks for a token")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port else "")


def _of(url: str, kept: Mapping[str, Known]) -> Known | None:
    """The server of that address; without a scheme it may have been signed in to by https."""
    return kept.get(url) or kept.get(url.replace("http://", "https://", 1))


def _known(url: str, data: Mapping[str, Any]) -> Known:
    ca = data.get("ca")
    return Known(url, str(data["token"]), str(data.get("username", "")), ca and str(ca))


def _write(path: Path, text: str) -> None:
    """Readable by its owner only, from the first byte on; whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
