"""Borrowing GPUs for work by hand: who may, for how long, and which."""

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from devices.models import GPU
from experiments.errors import LostRace, NothingFree
from experiments.models import Borrow, Job
from experiments.places import Place, read_places
from labsite.errors import BadRequest, NotFound
from people.roles import check_may_submit

LEAST = timedelta(minutes=1)
#: Of those who ask at once one gets what all of them saw free, and the others look again.
TRIES = 8


def borrow(by: Any, *, gpus: int, time: timedelta, host_id: str = "", now: datetime) -> Borrow:
    """GPUs of one device that nobody has, the smallest that there are.

    Raises:
        NotAllowed: `by` looks only.
        BadRequest: more GPUs, or longer, than the lab lends.
        NotFound: there is no such device.
        NothingFree: so many are not free there now.
        LostRace: somebody was faster.
    """
    check_may_submit(by)
    _check(gpus, time)
    Borrow.objects.end_due(now)
    for _turn in range(TRIES):
        with suppress(IntegrityError):  # somebody else had it first: another may be free
            return _begun(by, gpus, time, host_id, now)
    raise LostRace(_("Somebody else had the GPU first; ask again."))


@transaction.atomic
def _begun(by: Any, gpus: int, time: timedelta, host_id: str, now: datetime) -> Borrow:
    get_user_model().objects.select_for_update(no_key=True).get(pk=by.pk)
    _check_share(by, gpus)
    place, given = _chosen(gpus, host_id, now)
    return Borrow.objects.begin(by, place.device, given, now, now + time)


def _check(gpus: int, time: timedelta) -> None:
    most, longest = settings.LAB_BORROW_GPUS, timedelta(hours=settings.LAB_BORROW_HOURS)
    if not most:
        raise BadRequest(_("This lab lends no GPUs: queue a run instead."))
    if not 1 <= gpus <= most:
        words = ngettext("%(n)d GPU is lent to a person at a time: ask for it.",
                         "Up to %(n)d GPUs are lent to a person at a time: ask for 1 to %(n)d.",
                         most)  # fmt: skip
        raise BadRequest(words % {"n": most})
    if not LEAST <= time <= longest:
        words = _("GPUs are lent for a minute to %(hours)g hours.")
        raise BadRequest(words % {"hours": settings.LAB_BORROW_HOURS})


def _check_share(by: Any, gpus: int) -> None:
    has = sum(len(one.gpu_uuids) for one in Borrow.objects.open().filter(user=by))
    if has + gpus > settings.LAB_BORROW_GPUS:
        words = _(
            "You have borrowed %(has)d already, and at most %(n)d are lent to a person: return "
            "some first."
        )
        raise NothingFree(words % {"has": has, "n": settings.LAB_BORROW_GPUS})


def _chosen(gpus: int, host_id: str, now: datetime) -> tuple[Place, list[GPU]]:
    """The fullest device that has so many free, so that whole ones stay free for large jobs."""
    places = read_places(now)
    if host_id:
        places = [one for one in places if one.device.host_id == host_id]
        if not places:
            raise NotFound(_("There is no GPU server “%(name)s”.") % {"name": host_id[:80]})
    able = [one for one in places if one.accepts and len(one.free) >= gpus]
    if not able:
        raise NothingFree(_nothing_free(gpus, host_id, places))
    place = min(able, key=lambda one: (len(one.free), one.device.pk))
    return place, place.take(Job(gpus=gpus))


def _nothing_free(gpus: int, host_id: str, places: list[Place]) -> str:
    if host_id and not places[0].accepts:
        words = _("%(device)s cannot be reached, or takes nothing new now.")
        return words % {"device": host_id}
    free = max((len(one.free) for one in places if one.accepts), default=0)
    about = {"n": gpus, "free": free}
    words = ngettext(
        "No GPU is free now: queue a run, or ask again later.",
        "No GPU server has %(n)d GPUs free now, at most %(free)d: ask for fewer, or later.",
        gpus,
    )
    return words % about
