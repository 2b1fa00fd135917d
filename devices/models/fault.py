"""Why a card is given to nobody: what was seen of it, and the sentence that people read."""

from typing import Any

from django.db import models
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

#: XIDs after which a card cannot be trusted: a double-bit ECC error, a page or row that was (or
#: could not be) taken out of use, NVLink, off the bus. Most others are a program's own fault.
FATAL_XIDS = frozenset({48, 63, 64, 74, 79})


class Fault(models.TextChoices):
    BY_HAND = "by_hand", gettext_lazy("set aside by a manager")
    HELD = "held", gettext_lazy("memory not given back")
    OFF_BUS = "off_bus", gettext_lazy("off the bus")
    XID = "xid", gettext_lazy("XID error")
    ECC = "ecc", gettext_lazy("memory error")


def sentence(fault: str, facts: dict[str, Any]) -> str:
    """In the reader's language. A manager's own words stay as they are."""
    return _SENTENCES[Fault(fault)](facts) if fault else ""


def _by_hand(facts: dict[str, Any]) -> str:
    return facts.get("text") or str(Fault.BY_HAND.label)


def _held(facts: dict[str, Any]) -> str:
    known = {
        "run": facts.get("run") or _("a private run"),
        "gib": round((facts.get("memory_bytes") or 0) / 2**30, 1),
        "pid": facts.get("pid"),
        "user": facts.get("user"),
    }
    if facts.get("pid") is None:
        return (
            _(
                "Memory of %(run)s was not given back: %(gib)s GiB are in use, and the driver "
                "names no process."
            )
            % known
        )
    return (
        _(
            "Memory of %(run)s was not given back: process %(pid)s (%(user)s) holds %(gib)s GiB; "
            "end it there, and the GPU is used again by itself."
        )
        % known
    )


def _off_bus(facts: dict[str, Any]) -> str:
    return _("It fell off the bus: the driver does not name it any more.")


def _xid(facts: dict[str, Any]) -> str:
    return _("The driver reported XID %(xid)s.") % {"xid": facts.get("xid")}


def _ecc(facts: dict[str, Any]) -> str:
    return _(
        "Its memory made errors that could not be corrected (%(count)s since the driver was "
        "loaded)."
    ) % {"count": facts.get("count")}


_SENTENCES = {
    Fault.BY_HAND: _by_hand,
    Fault.HELD: _held,
    Fault.OFF_BUS: _off_bus,
    Fault.XID: _xid,
    Fault.ECC: _ecc,
}
