"""Which cards a heartbeat shows to be broken: they are set aside until a manager looks.

What was judged once is not judged again: agents send the errors that they keep with each beat,
and a manager who uses a card again knows of them. New is an XID that follows those judged before,
each one of an agent that was started since, and a count of ECC errors that has risen.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from agent import wire
from devices.models import GPU, Fault
from devices.models.fault import FATAL_XIDS

logger = logging.getLogger(__name__)

GONE = timedelta(seconds=wire.GONE_SECONDS)

Found = tuple[Fault, dict[str, Any]]
Judged = dict[str, Any]


def judge_errors(
    newest: Mapping[int, wire.Heartbeat], judged: Mapping[str, Judged], now: datetime
) -> None:
    """Look at the errors of each card that these beats name.

    Args:
        judged: by UUID, as stored (`GPU.errors_judged`); a card that is new is not in it.
    """
    for pk, beat in newest.items():
        for card in beat.gpus:
            before = judged.get(card.uuid, {})
            told = _told(card, beat.instance_id, before)
            if told == before:
                continue  # as almost always
            gpu = GPU.objects.filter(uuid=card.uuid, device_id=pk).first()
            if gpu is None:
                continue  # another device's, which names it too
            for fault, facts in _new(before, told):
                _set_aside(gpu, fault, facts, now)
            GPU.objects.filter(pk=gpu.pk).update(errors_judged=told)


def judge_missing(uuids: Sequence[str], now: datetime) -> None:
    """These were not named for GONE while their device was heard from and its driver answered."""
    for gpu in GPU.objects.filter(uuid__in=uuids).select_related("device").order_by("pk"):
        _set_aside(gpu, Fault.OFF_BUS, {}, now)
    GPU.objects.filter(uuid__in=uuids).update(missing_since=None)


def sees_cards(beat: wire.Heartbeat) -> bool:
    """Whether a card that this beat does not name is gone, and not only unread."""
    return bool(beat.gpus) if beat.driver_answers is None else beat.driver_answers


def _told(card: wire.GPUReading, instance_id: str, before: Judged) -> Judged:
    """What stands in `errors_judged` once this reading was judged; an empty one tells nothing."""
    xids = before.get("xids", []) if before.get("instance") == instance_id else []
    ecc = before.get("ecc") if card.ecc_errors is None else card.ecc_errors
    return {"instance": instance_id, "xids": card.xid_errors or xids, "ecc": ecc}


def _new(before: Judged, told: Judged) -> Iterator[Found]:
    known = before.get("xids", []) if before.get("instance") == told["instance"] else []
    for xid in _beyond(known, told["xids"]):
        if xid in FATAL_XIDS:
            yield Fault.XID, {"xid": xid}
    if before.get("ecc") is not None and told["ecc"] > before["ecc"]:
        yield Fault.ECC, {"count": told["ecc"]}


def _beyond(known: list[int], xids: list[int]) -> list[int]:
    """Those after the known ones, of which the agent may have dropped the oldest."""
    starts = (start for start in range(len(known)) if xids[: len(known) - start] == known[start:])
    overlap = len(known) - next(starts, len(known))
    return xids[overlap:]


def _set_aside(gpu: GPU, fault: Fault, facts: dict[str, Any], now: datetime) -> None:
    if gpu.fail(fault, facts, now):
        logger.error("%s is set aside: %s %s", gpu, fault, facts or "")
