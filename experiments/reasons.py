"""Why a job waits: a code with facts, written by the code that decides, and its sentence.

Dispatch stores the code (`Job.waiting`); the sentence is made when somebody reads it, in the
reader's language.
"""

from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

#: Between the submit and the first pass of dispatch.
NOT_SEEN_YET: dict[str, Any] = {"code": "not_seen_yet"}
HELD: dict[str, Any] = {"code": "held"}
NO_DEVICES: dict[str, Any] = {"code": "no_devices"}


def sentence(waiting: dict[str, Any]) -> str:
    """The reason as one sentence, ending with what happens next or what to do."""
    code = waiting.get("code", "not_seen_yet")
    return _SENTENCES.get(code, _not_seen_yet)(waiting)


def _not_seen_yet(facts: dict[str, Any]) -> str:
    return _("It was just queued; it is looked at within a second or two.")


def _held(facts: dict[str, Any]) -> str:
    return _("It is kept queued by hand; let it go when it should run.")


def _no_devices(facts: dict[str, Any]) -> str:
    return _("No GPU server is connected to this lab yet; a manager can add one under Devices.")


def _nothing_fits(facts: dict[str, Any]) -> str:
    return _(
        "No GPU server of this lab has %(wants)s; ask for less, or wait until one is added."
    ) % {"wants": wants(facts)}


def _unreachable(facts: dict[str, Any]) -> str:
    return _(
        "It fits only on %(devices)s, which cannot be reached or takes no new jobs now; "
        "it starts when that changes."
    ) % {"devices": ", ".join(facts["devices"])}


def _busy(facts: dict[str, Any]) -> str:
    return _("It waits for %(wants)s: %(free)s of the %(all)s GPUs that fit are free.") % {
        "wants": wants(facts),
        "free": facts["free"],
        "all": facts["all"],
    }


def _busy_cpu(facts: dict[str, Any]) -> str:
    return _("It waits for a place without a GPU; all of them are taken by other jobs.")


def _outside(facts: dict[str, Any]) -> str:
    return _(
        "It waits for %(wants)s: a GPU that would fit is used outside the queue on %(devices)s."
    ) % {"wants": wants(facts), "devices": ", ".join(facts["devices"])}


def _held_back(facts: dict[str, Any]) -> str:
    return _("Free GPUs are held back for %(job)s, which has waited longer and needs more.") % {
        "job": facts["job"]
    }


def _avoids(facts: dict[str, Any]) -> str:
    return _(
        "It did not start on %(devices)s (see its tries); that is tried again in some minutes, "
        "and other GPU servers that fit are busy."
    ) % {"devices": ", ".join(facts["devices"])}


_SENTENCES = {
    "held": _held,
    "no_devices": _no_devices,
    "nothing_fits": _nothing_fits,
    "unreachable": _unreachable,
    "busy": _busy,
    "busy_cpu": _busy_cpu,
    "outside": _outside,
    "held_back": _held_back,
    "avoids": _avoids,
}


def wants(facts: dict[str, Any]) -> str:
    """What a job asks for, in words: "2 GPUs of type A100 with 24 GiB, label room=b12"."""
    gpus = facts["gpus"]
    text = ngettext("%(n)s GPU", "%(n)s GPUs", gpus) % {"n": gpus} if gpus else _("a CPU place")
    if facts.get("gpu_type"):
        text += _(" of type %(type)s") % {"type": facts["gpu_type"]}
    if facts.get("gpu_memory_bytes"):
        text += _(" with %(gib)g GiB") % {"gib": round(facts["gpu_memory_bytes"] / 2**30, 1)}
    labels = facts.get("labels") or {}
    if labels:
        pairs = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
        text += _(", label %(labels)s") % {"labels": pairs}
    return text
