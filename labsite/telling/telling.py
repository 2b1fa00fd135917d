"""One channel brought up to date, and which ones need it.

May be called at any time, by any number of processes: what is left to tell follows from the rows
alone (left.py). The cursor moves when the other side has answered, so whoever dies in between has
the message sent once more, with the same id.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from django.db import DatabaseError, InterfaceError
from django.db.models import Min
from django.utils import translation

from experiments.models import Channel, ChannelKind, JobEvent
from experiments.states import ENDED
from labsite.clock import database_now
from labsite.telling.ill import ills, of_ills
from labsite.telling.left import SETTLES, Step, ends, left, steps
from labsite.telling.post import NotTaken
from labsite.telling.said import Said, of_several, of_test

logger = logging.getLogger(__name__)

#: From here on runs that ended together are one message, but for programs.
SEVERAL = 5
#: How often it is looked what is wrong in the lab.
LAB_EVERY = timedelta(seconds=60)

Send = Callable[[Channel, Said, datetime], None]


# --- which ones ---------------------------------------------------------------------------------


@dataclass
class Look:
    """What a process remembers from one look to the next, to ask less: nothing that matters."""

    seen: int = 0  # no channel has anything left up to that event
    lab_at: datetime | None = None
    found: list[int] = field(default_factory=list)
    again_seconds: float = 0.0  # after which there may be more, if nobody says so before


def look(before: Look, now: datetime, longest_seconds: float) -> Look:
    """The keys of the channels that have something to tell, in `found`."""
    due = list(Channel.objects.due(now))
    if not due and not Channel.objects.exists():
        return Look(before.seen, before.lab_at, again_seconds=longest_seconds)
    seen = before.seen or min((channel.told_upto for channel in due), default=0)
    newest, unsettled = _newest(seen, now)
    since = _since(seen, newest)
    is_lab_due = before.lab_at is None or now - before.lab_at >= LAB_EVERY
    found, quiet = [], []
    for channel in due:
        has_more = _has_more(channel, since, now, is_lab_due=is_lab_due)
        (found if has_more else quiet).append(channel.pk)
    if newest > seen:
        Channel.objects.filter(pk__in=quiet).pass_over(newest)
    again = _again_seconds(now, SETTLES.total_seconds() if unsettled else longest_seconds)
    return Look(newest, now if is_lab_due else before.lab_at, found, again)


def _newest(seen: int, now: datetime) -> tuple[int, bool]:
    """The newest end of a run before which all have settled, and whether there is one that has
    not. By the order of ids: the clocks of several web hosts may differ."""
    after = JobEvent.objects.filter(pk__gt=seen, to_state__in=ENDED).order_by("pk")
    unsettled = after.filter(at__gt=now - SETTLES).values_list("pk", flat=True).first()
    settled = after.filter(pk__lt=unsettled) if unsettled else after
    newest = settled.reverse().values_list("pk", flat=True).first()
    return newest or seen, unsettled is not None


@dataclass(frozen=True)
class _Since:
    """Whose runs ended after `seen`, up to `newest`: one query instead of one for each channel."""

    seen: int
    newest: int
    users: frozenset[int | None]
    projects: frozenset[int | None]

    def concerns(self, channel: Channel) -> bool:
        """False: there is surely nothing for it."""
        if not self.seen <= channel.told_upto < self.newest:
            return channel.told_upto < self.seen  # it fails, or was being told
        if channel.project_id is not None:
            return channel.project_id in self.projects
        return channel.user_id in self.users


def _since(seen: int, newest: int) -> _Since:
    ended = JobEvent.objects.filter(pk__gt=seen, pk__lte=newest, to_state__in=ENDED).order_by()
    whose = list(ended.values_list("job__user", "job__project").distinct())
    users, projects = zip(*whose, strict=True) if whose else ((), ())
    return _Since(seen, newest, frozenset(users), frozenset(projects))


def _has_more(channel: Channel, since: _Since, now: datetime, *, is_lab_due: bool) -> bool:
    if channel.test_asked_at:
        return True
    if channel.is_of_lab:
        told = channel.lab_told
        return is_lab_due and set(ills(channel.wants, told, now)) != set(told)
    if not since.concerns(channel):
        return False
    return left(channel, channel.told_upto).filter(pk__lte=since.newest).exists()


def _again_seconds(now: datetime, longest_seconds: float) -> float:
    """When a channel that failed is tried again, if that is sooner."""
    rest = Channel.objects.filter(retry_at__gt=now).aggregate(first=Min("retry_at"))["first"]
    return min(longest_seconds, (rest - now).total_seconds()) if rest else longest_seconds


# --- one of them --------------------------------------------------------------------------------


def tell(pk: int, sender: str, send: Send) -> None:
    """Tell that channel all that is left, unless somebody else does or it fails.

    Args:
        sender: who one is, among all web processes.
    """
    channel = Channel.objects.filter(pk=pk).first()
    if channel is None or not channel.lease(sender, database_now()):
        return
    try:
        with translation.override(channel.spoken()):
            _tell(channel, send)
    except (DatabaseError, InterfaceError):
        raise
    except Exception:  # or it would be tried again at once, and again
        logger.exception("a message for channel %d could not be made", pk)
        channel.note_failed({"code": "broken"}, database_now(), None)
    finally:
        channel.leave()


def _tell(channel: Channel, send: Send) -> None:
    if channel.test_asked_at and not _try_out(channel, send):
        return
    if channel.is_of_lab:
        _tell_of_lab(channel, send)
    else:
        _tell_of_runs(channel, send)


def _try_out(channel: Channel, send: Send) -> bool:
    """Whether it arrived: then all that waits may be sent as well."""
    now = database_now()
    try:
        send(channel, of_test(channel), now)
    except NotTaken as failed:
        channel.note_test_failed(failed.trouble)
        return False
    return channel.note_told(database_now(), test_asked_at=None)


def _tell_of_lab(channel: Channel, send: Send) -> None:
    now = database_now()
    found = ills(channel.wants, channel.lab_told, now) if channel.may_be_told() else {}
    news = [one for key, one in found.items() if key not in channel.lab_told]
    told = {"lab_told": sorted(found)}
    if news:
        _sent(channel, of_ills(channel, news, now), send, told)
    elif told["lab_told"] != channel.lab_told:
        channel.note_better(told["lab_told"])


def _tell_of_runs(channel: Channel, send: Send) -> None:
    upto = channel.told_upto
    while True:
        now = database_now()
        events = ends(channel, upto, now)
        if not events:
            return
        may_be_told = channel.may_be_told()
        walked = steps(channel, events, now) if may_be_told else (Step(e.pk) for e in events)
        upto = events[-1].pk
        if not _walk(channel, _in_one(channel, walked), send):
            return
        if not channel.note_passed(upto, 0, database_now()):
            return


def _in_one(channel: Channel, walked: Iterable[Step]) -> Iterable[Step]:
    """Many that came together as one message, where a person reads it."""
    if channel.kind == ChannelKind.WEBHOOK:
        return walked
    found = list(walked)
    said = [step.said for step in found if step.said]
    if len(said) < SEVERAL:
        return found
    silent = [Step(step.event_id, late=step.late) for step in found[:-1]]
    return [*silent, Step(found[-1].event_id, of_several(channel, said))]


def _walk(channel: Channel, walked: Iterable[Step], send: Send) -> bool:
    """Go on step by step. False: it failed, or the channel is not ours any more."""
    for is_late, some in groupby(walked, lambda step: step.late):
        if is_late:
            late = list(some)
            if not channel.note_passed(late[-1].event_id, len(late), database_now()):
                return False
        elif not all(_is_told(channel, step, send) for step in some):
            return False
    return True


def _is_told(channel: Channel, step: Step, send: Send) -> bool:
    return not step.said or _sent(channel, step.said, send, {"told_upto": step.event_id})


def _sent(channel: Channel, said: Said, send: Send, moved: dict[str, Any]) -> bool:
    try:
        send(channel, said, database_now())
    except NotTaken as failed:
        pause = failed.pause_seconds
        asked = None if pause is None else timedelta(seconds=pause)
        channel.note_failed(failed.trouble, database_now(), asked)
        return False
    return channel.note_told(database_now(), **moved)
