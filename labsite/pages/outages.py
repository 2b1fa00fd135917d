"""What a run's page says while its GPU server cannot be reached, or is late."""

from dataclasses import dataclass
from datetime import datetime

from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from experiments.contact import contact_with, sentences
from experiments.leases import mass_loss
from experiments.models import Attempt
from labsite.pages.runfiles import Files
from labsite.templatetags.lab import clock, size


@dataclass(frozen=True)
class Outlook:
    """`headline` stands out. `may_be_given_up`: nobody knows how it does, and it does not come
    to an end here by itself within a minute."""

    headline: str
    more: list[str]
    is_lost: bool
    may_be_given_up: bool


def outlook(attempt: Attempt | None, files: Files, now: datetime) -> Outlook | None:
    """None: nothing runs, or its GPU server is as it should be."""
    contact = contact_with(attempt, now)
    if contact is None:
        return None
    brake = contact.is_lost and contact.runs_elsewhere and mass_loss(now) is not None
    headline, *more = sentences(contact, clock, brake=brake)
    ran = contact.is_lost and contact.attempt.accepted_at is not None
    if ran:
        more.append(_arrived(files))
    return Outlook(headline, more, contact.is_lost, may_be_given_up=ran)


def _arrived(files: Files) -> str:
    """How much of it is safe on the server already."""
    if not files.files:
        return _("Nothing of it has arrived yet.")
    words = ngettext(
        "Arrived so far: {n} file, {size}, at {when}.",
        "Arrived so far: {n} files, {size}, the newest at {when}.",
        len(files.files),
    )
    return format_html(
        words,
        n=len(files.files),
        size=size(sum(file.size for file in files.files)),
        when=clock(max(file.synced_at for file in files.files)),
    )
