"""A message as Slack, a webhook or a mail server takes it, and sent there."""

import hashlib
import hmac
import json
import smtplib
from datetime import datetime

from django.conf import settings
from django.core.mail import EmailMessage
from django.utils.translation import gettext as _

from experiments import addresses
from experiments.errors import SecretsLocked
from experiments.models import Channel, ChannelKind
from labsite.telling.post import NotTaken, post
from labsite.telling.said import Said

ID_HEADER, SIGNATURE_HEADER = "X-Lab-Delivery", "X-Lab-Signature"
#: Slack's own limit for a text.
SLACK_CHARACTERS = 3900


def send(channel: Channel, said: Said, now: datetime) -> None:
    """Return once the other side has it. May be told twice, with the same id.

    Raises:
        NotTaken: it has not, or nobody knows.
    """
    try:
        opened = channel.opened()
    except SecretsLocked:
        raise NotTaken("locked") from None
    address = opened["address"]
    if channel.kind == ChannelKind.MAIL:
        _mail(channel, address, said)
        return
    if not addresses.is_allowed(addresses.host_of(address)):
        raise NotTaken("forbidden")
    if channel.kind == ChannelKind.SLACK:
        body, signed = slack_body(channel, said), {}
    else:
        body = webhook_body(channel, said, now)
        signed = {SIGNATURE_HEADER: signature(opened["key"], body)}
    headers = {"Content-Type": "application/json", "User-Agent": "lab-server"}
    post(address, body, {**headers, ID_HEADER: said.id, **signed})


def signature(key: str, body: bytes) -> str:
    """Over the body as it is sent, byte for byte."""
    return "sha256=" + hmac.new(key.encode(), body, hashlib.sha256).hexdigest()


def slack_body(channel: Channel, said: Said) -> bytes:
    """`text` alone: Mattermost and Discord (at …/slack) read the same."""
    lines = [f"*{said.title.slack()}*", *(line.slack() for line in said.lines)]
    text = "\n".join(lines)
    if len(text) > SLACK_CHARACTERS:  # whole lines: half a name would stand as code no more
        text = text[:SLACK_CHARACTERS].rpartition("\n")[0]
    return json.dumps({"text": "\n".join(filter(None, [text, _url(channel, said)]))}).encode()


def webhook_body(channel: Channel, said: Said, now: datetime) -> bytes:
    told = {
        "id": said.id,
        "kind": said.kind,
        "lab": settings.LAB_NAME,
        "sent_at": now.isoformat(),
        "text": plain(said),
        "url": _url(channel, said) or None,
        **({said.kind: dict(said.facts)} if said.facts else {}),
    }
    return json.dumps(told).encode()


def plain(said: Said) -> str:
    return "\n".join([said.title.plain(), *(line.plain() for line in said.lines)])


def _url(channel: Channel, said: Said) -> str:
    """Empty where nobody knows how this site is reached."""
    site = settings.LAB_PUBLIC_URL or channel.site
    return site + said.path if site else ""


def _mail(channel: Channel, address: str, said: Said) -> None:
    if not settings.EMAIL_HOST:
        raise NotTaken("mail")
    why = _("You are told since a notification of %(lab)s was set to this address.")
    parts = [plain(said), _url(channel, said), "-- \n" + why % {"lab": settings.LAB_NAME}]
    domain = settings.DEFAULT_FROM_EMAIL.rpartition("@")[2].rstrip(">")
    message = EmailMessage(
        subject=f"[{settings.LAB_NAME}] {said.title.plain()}".replace("\n", " "),
        body="\n\n".join(filter(None, parts)),
        to=[address],
        headers={"Message-ID": f"<{said.id}@{domain}>", "Auto-Submitted": "auto-generated"},
    )
    try:
        message.send()
    except (smtplib.SMTPException, OSError):
        raise NotTaken("mail") from None
