"""Where a message may be sent to, and why one did not arrive, in words."""

import re
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.utils.translation import gettext as _

from experiments.errors import ChannelInvalid

MAX_CHARACTERS = 2000
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
#: A name, or a number of IPv4 or IPv6. What readers of URLs disagree on is none: who sends would
#: take `https://evil.example\.allowed.example/` to the host before the backslash.
_HOST = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]{2,45}")


def checked(kind: str, address: str) -> str:
    """All that is ever shown of it: its host.

    Raises:
        ChannelInvalid: it is no address, or of a host that is not allowed here. Says nothing of
            the address.
    """
    address = address.strip()
    if len(address) > MAX_CHARACTERS or not _PRINTABLE.fullmatch(address):
        host = ""
    else:
        host = _mail_host(address) if kind == "mail" else _url_host(address)
    if not host:
        raise ChannelInvalid(_no_address(kind))
    if kind != "mail" and not is_allowed(host):
        raise ChannelInvalid(_("Messages may not be sent to that host: a manager decides which."))
    return host


def is_allowed(host: str) -> bool:
    """By LAB_NOTIFY_HOSTS: each a name, or with a dot before it all below it; none: all are."""
    allowed = [name.strip().lower() for name in settings.LAB_NOTIFY_HOSTS]
    return not allowed or any(
        host == name or (name.startswith(".") and host.endswith(name)) for name in allowed
    )


def host_of(url: str) -> str:
    return _url_host(url)


def _url_host(address: str) -> str:
    """Empty: it is no URL, or has a name and password in it, which would be shown in errors."""
    try:
        parts = urlsplit(address)
        host, _port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return ""
    well = parts.scheme in ("http", "https") and "@" not in parts.netloc
    return host if well and _HOST.fullmatch(host) else ""


def _mail_host(address: str) -> str:
    try:
        validate_email(address)
    except ValidationError:
        return ""
    return address.rpartition("@")[2].lower()


def _no_address(kind: str) -> str:
    if kind == "mail":
        return _("This is no e-mail address: write one such as name@example.org.")
    return _(
        "This is no address to send to: write one that begins with https:// or http://, and has "
        "no user name in it."
    )


def trouble_words(who: str, trouble: dict[str, Any]) -> str:
    """In the reader's language; empty: there is none.

    Args:
        who: "Slack".
        trouble: {"code", and of an answer "status" and "text"}.
    """
    if not trouble:
        return ""
    known = {
        "answered": _("%(who)s answered %(status)s: %(text)s.")
        if trouble.get("text")
        else _("%(who)s answered %(status)s."),
        "moved": _("%(who)s answered that it has moved elsewhere, which is not followed."),
        "late": _("%(who)s did not answer in time."),
        "unreachable": _("%(who)s could not be reached from this server."),
        "certificate": _("The certificate of %(who)s is not one that this server trusts."),
        "locked": _("The address cannot be opened: the server's key for it is missing."),
        "forbidden": _("Messages may not be sent to that host any more: a manager decided so."),
        "broken": _("A message could not be made; the server's log says why."),
        "mail": _("The lab's mail server did not take the message."),
    }
    words = known.get(trouble["code"], known["unreachable"])
    return words % {"who": who, "status": trouble.get("status"), "text": trouble.get("text")}
