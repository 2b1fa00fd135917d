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
SECRETS_LOCKED: dict[str, Any] = {"code": "secrets_locked"}


def sweep_full(running: int, most: int) -> dict[str, Any]:
    return {"code": "sweep_full", "running": running, "most": most}


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


def _stopping(facts: dict[str, Any]) -> str:
    return _(
        "On %(devices)s a process of a run that was given up still lives; it is being stopped, "
        "and new runs start there when it is gone."
    ) % {"devices": ", ".join(facts["devices"])}


def _no_unix_name(facts: dict[str, Any]) -> str:
    return _(
        "It fits only on %(devices)s, which runs each job as its submitter, and the submitter's "
        "account has no Unix name; a manager sets it."
    ) % {"devices": ", ".join(facts["devices"])}


def _busy(facts: dict[str, Any]) -> str:
    text = _("It waits for %(wants)s: %(free)s of the %(all)s GPUs that fit are free.") % {
        "wants": wants(facts),
        "free": facts["free"],
        "all": facts["all"],
    }
    if facts.get("outside"):
        users = ", ".join(facts["outside"])
        text += " " + _("Used outside the queue by %(users)s.") % {"users": users}
    return text


def _busy_cpu(facts: dict[str, Any]) -> str:
    return _("It waits for a place without a GPU; all of them are taken by other jobs.")


def _outside(facts: dict[str, Any]) -> str:
    known = {"wants": wants(facts), "devices": ", ".join(facts["devices"])}
    if not facts.get("outside"):
        return (
            _(
                "It waits for %(wants)s: a GPU that would fit is used outside the queue on "
                "%(devices)s."
            )
            % known
        )
    return _(
        "It waits for %(wants)s: a GPU that would fit is used outside the queue on %(devices)s, "
        "by %(users)s."
    ) % {**known, "users": ", ".join(facts["outside"])}


def _elsewhere(facts: dict[str, Any]) -> str:
    return _(
        "It waits for %(wants)s: a GPU that would fit is used by another lab server on "
        "%(devices)s."
    ) % {"wants": wants(facts), "devices": ", ".join(facts["devices"])}


def _held_back(facts: dict[str, Any]) -> str:
    return _("Free GPUs are held back for %(job)s, which has waited longer and needs more.") % {
        "job": facts["job"] or _("a private run")
    }


def _no_secret(facts: dict[str, Any]) -> str:
    return _(
        "It needs the secret %(names)s, which is kept neither for its submitter nor for their use "
        "in its project any more; it starts when that is set again."
    ) % {"names": ", ".join(facts["names"])}


def _secrets_locked(facts: dict[str, Any]) -> str:
    return _(
        "It needs secrets that the server cannot open: the key that sealed them is missing. An "
        "administrator puts the file secrets_key back into the data folder."
    )


def _lacks(facts: dict[str, Any]) -> str:
    return _(
        "%(lacks)s. GPU servers look again by themselves; it starts when one has what it needs "
        "and is free."
    ) % {"lacks": lacks_words(facts["lacks"])}


def lacks_words(lacks: list[dict[str, Any]]) -> str:
    """ "gpu-03 lacks /data/imagenet; gpu-04 lacks ffmpeg" """
    words = _("%(device)s lacks %(names)s")
    return "; ".join(
        words % {"device": one["device"], "names": ", ".join(one["names"])} for one in lacks
    )


def _sweep_full(facts: dict[str, Any]) -> str:
    return _(
        "Its sweep already runs %(running)d of at most %(most)d; it starts when one of them ends."
    ) % {"running": facts["running"], "most": facts["most"]}


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
    "stopping": _stopping,
    "no_unix_name": _no_unix_name,
    "busy": _busy,
    "busy_cpu": _busy_cpu,
    "outside": _outside,
    "elsewhere": _elsewhere,
    "held_back": _held_back,
    "avoids": _avoids,
    "sweep_full": _sweep_full,
    "no_secret": _no_secret,
    "secrets_locked": _secrets_locked,
    "lacks": _lacks,
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
