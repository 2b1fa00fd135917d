"""What a person should know of a GPU server: the card, the API and the admin say the same."""

from collections.abc import Sequence

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from devices.models import Device

#: More processes are not named by their number.
NAMED_AT_MOST = 8


def remarks(device: Device, lacks: Sequence[dict[str, str]]) -> list[str]:
    """Sentences, each ending with what happens next or what to do. `lacks`: what the reader may
    know of `device.lacks` (experiments.lacking)."""
    said = [unknown_count(device), unknown_advice(device), pids(device), still_stopping(device)]
    said.append(lacking(lacks))
    return [sentence for sentence in said if sentence]


def unknown_count(device: Device) -> str:
    """How much runs there that is of no job of this server; empty: nothing of the kind."""
    n = len(device.unknown_attempts)
    if not n:
        return ""
    return ngettext(
        "%(n)s process of a job that this server does not know runs here.",
        "%(n)s processes of jobs that this server does not know run here.",
        n,
    ) % {"n": n}


def unknown_advice(device: Device) -> str:
    if not device.unknown_attempts:
        return ""
    return _(
        "It goes on and nothing is stopped; what it writes is kept on that host. As a rule the "
        "server was restored from an older backup: put the newer one back, or end it there by "
        "hand."
    )


def pids(device: Device) -> str:
    """Which, as far as their agent told."""
    told = [str(one["pid"]) for one in device.unknown_attempts if one["pid"]]
    return ", ".join(f"pid {pid}" for pid in told[:NAMED_AT_MOST])


def still_stopping(device: Device) -> str:
    if not device.runs_ended_attempt:
        return ""
    return _(
        "A process of a run that was given up still lives here and is being stopped. No new jobs "
        "until it is gone."
    )


def lacking(lacks: Sequence[dict[str, str]]) -> str:
    """What jobs required and it has not; empty: nothing that is known of."""
    names = dict.fromkeys(one["name"] for one in lacks)
    if not names:
        return ""
    told = ", ".join([*names][:NAMED_AT_MOST])
    return _(
        "It lacks %(names)s, which runs require; those go to other GPU servers until it is there."
    ) % {"names": told}
