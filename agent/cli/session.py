"""`lab login`, `logout` and `whoami`: who one is, at which server."""

import argparse
import getpass
import re
import sys
from pathlib import Path
from typing import Any

from agent import reach
from agent.cli.api import Api
from agent.cli.context import Lab, Verb
from agent.cli.credentials import Known, address
from agent.cli.errors import CliError, Exit, ServerRefused
from agent.errors import ConfigError

MAX_TOKEN_FILE_BYTES = 4096


def _login_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="address of the lab server")
    parser.add_argument(
        "--token-file", metavar="FILE", help="read the token there, - from standard input"
    )
    parser.add_argument(
        "--ca-sha256",
        metavar="HEX",
        help="trust the server's own certificate authority, if it has this fingerprint",
    )


def login(lab: Lab) -> int:
    """Asks the server who the token is of before anything is kept."""
    url = address(lab.options.url)
    ca = _pinned(url, lab.options.ca_sha256) or _kept_ca(lab, url)
    token = _token(lab, url)
    known = Known(url, token, ca=ca)
    with Api(url, token, lab.credentials.ca_file(known)) as api:
        me = who(api)
    lab.credentials.keep(Known(url, token, me["username"], ca))
    return lab.answer(
        {"server": url, **me},
        lambda: lab.out.line(f"You are {me['username']} ({me['role']}) at {url} now."),
    )


def who(api: Api) -> dict[str, Any]:
    """What the server says of the token's person.

    Raises:
        CliError: also when the server does not know how to say it.
    """
    try:
        me: dict[str, Any] = api.get("/api/me/")
    except ServerRefused as refused:
        if refused.status != 404:
            raise
        words = f"The server at {api.url} is older than this command: install the same release"
        raise CliError(words, Exit.REFUSED) from None
    if not isinstance(me, dict) or "username" not in me:
        words = f"{api.url} does not answer as a lab server. Is it the right address?"
        raise CliError(words, Exit.UNREACHABLE)
    return me


def _pinned(url: str, ca_sha256: str | None) -> str | None:
    if ca_sha256 is None:
        return None
    digits = ca_sha256.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise CliError("--ca-sha256 must be 64 hexadecimal digits, as the site shows them")
    try:
        return reach.fetch_ca(url, digits)
    except ConfigError as exc:
        raise CliError(str(exc), Exit.UNREACHABLE) from None


def _kept_ca(lab: Lab, url: str) -> str | None:
    """Of one who signs in anew."""
    return next((one.ca for one in lab.credentials.all() if one.url == url), None)


def _token(lab: Lab, url: str) -> str:
    where = lab.options.token_file
    if where is None and sys.stdin.isatty():
        lab.out.note(f"Make a token on your account's page: {url}/account/")
        return getpass.getpass("Token (it is not shown): ").strip()
    try:
        if where in (None, "-"):
            return sys.stdin.read(MAX_TOKEN_FILE_BYTES).strip()
        with Path(where).expanduser().open() as file:
            return file.read(MAX_TOKEN_FILE_BYTES).strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is no text"
        raise CliError(f"{where} cannot be read: {reason}") from None


def _logout_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", nargs="?", help="one server; else the usual one")


def logout(lab: Lab) -> int:
    """The token stays good until it is revoked: another machine may have it too."""
    url = address(lab.options.url or lab.known.url)
    if not lab.credentials.forget(url):
        raise CliError(f"You are not signed in at {url}", Exit.NOT_FOUND)
    words = f"Forgotten here. To make the token worthless, revoke it: {url}/account/"
    return lab.answer({"server": url}, lambda: lab.out.line(words))


def whoami(lab: Lab) -> int:
    me = {"server": lab.known.url, **who(lab.api)}
    return lab.answer(me, lambda: _show(lab, me))


def _show(lab: Lab, me: dict[str, Any]) -> None:
    token = me.get("token") or {}
    lab.out.fields(
        [
            ("You are", f"{me['username']} ({me['role']})"),
            ("at", f"{me['server']} ({me['lab_name']}, version {me['version']})"),
            ("by the token", token.get("name", "")),
            ("good until", token.get("expires_at") or "it is revoked"),
        ]
    )


def _none(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


VERBS = [
    Verb("login", "sign in to a server", _login_arguments, login),
    Verb("logout", "forget a server's token here", _logout_arguments, logout),
    Verb("whoami", "who you are, and where", _none, whoami),
]
