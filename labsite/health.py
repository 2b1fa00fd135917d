"""Whether queued jobs are given out, and what runlab says of its programs.

That dispatch runs is seen from its stamps in the database, however it was started. Why it was
started again only runlab knows, which writes `<data>/run/status.json`. A site that is no child of
runlab (programs started by hand, several hosts) has the stamps alone, and there a pass each
minute is the usual: nobody ticks.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings

from experiments.models import Pulse

#: Under runlab dispatch is run every two seconds, and its watchdog starts it again after ten.
SILENCE = timedelta(seconds=15)
SILENCE_BY_HAND = Pulse.LONG_GAP
#: For so long it is told that dispatch was started again.
TOLD = timedelta(minutes=10)
DISPATCH = "dispatch"


@dataclass(frozen=True)
class ServerProgram:
    """One of runlab's: `cause` and `status` are those of its last end (labsite.run.supervise)."""

    name: str
    pid: int | None
    started_at: datetime | None
    restarts: int
    ended_at: datetime | None
    cause: str
    status: int | None


@dataclass(frozen=True)
class Silence:
    """One of dispatch that is over."""

    since: datetime
    until: datetime


@dataclass(frozen=True)
class DispatchHealth:
    """How giving out jobs stands. While it is silent nothing else is told.

    `never`: not once since the site is there. `restarted` is its program, if that was started
    again lately; `over` is a silence that ended lately, where there is no runlab to tell why.
    """

    silent_since: datetime | None = None
    never: bool = False
    by_hand: bool = False
    restarted: ServerProgram | None = None
    over: Silence | None = None

    @property
    def token(self) -> str:
        """Changes when there is something else to tell."""
        if self.silent_since:
            return "silent"
        if self.over:
            return f"over {self.over.until}"
        return f"restarted {self.restarted.started_at}" if self.restarted else ""


def dispatch(now: datetime) -> DispatchHealth:
    kept = programs()
    pulses = {pulse.name: pulse for pulse in Pulse.objects.all()}
    lane, pulse = pulses.get(Pulse.LANE), pulses.get(Pulse.DISPATCH)
    silent_since = _silent_since(pulse, lane, now, SILENCE if kept else SILENCE_BY_HAND)
    if silent_since:
        return DispatchHealth(silent_since, never=pulse is None, by_hand=not kept)
    if kept:
        return DispatchHealth(restarted=_restarted(kept, now))
    return DispatchHealth(by_hand=True, over=_silence_over(pulse, lane, now))


def _silent_since(
    pulse: Pulse | None, lane: Pulse | None, now: datetime, patience: timedelta
) -> datetime | None:
    """When dispatch was last heard of, if that is too long ago.

    A server that was only just started has its whole patience before it: the lane's stamps tell
    since when the site is there.
    """
    up_since = lane.unbroken_since if lane else None
    last = pulse.at if pulse else up_since
    if last is None or now - max(last, up_since or last) <= patience:
        return None
    return last


def _restarted(kept: list[ServerProgram], now: datetime) -> ServerProgram | None:
    for program in kept:
        if program.name == DISPATCH and program.restarts and program.started_at:
            return program if now - program.started_at <= TOLD else None
    return None


def _silence_over(pulse: Pulse | None, lane: Pulse | None, now: datetime) -> Silence | None:
    """A long silence that ended lately. If the site was away as well, that was no fault of
    dispatch, and nobody has to be told."""
    if pulse is None or pulse.silent_until is None or now - pulse.silent_until > TOLD:
        return None
    if lane is None or lane.unbroken_since > pulse.silent_since:
        return None
    return Silence(pulse.silent_since, pulse.silent_until)


def programs() -> list[ServerProgram]:
    """What runlab keeps running, as it last said; none if it does not keep this process."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        facts = json.loads((settings.LAB_DATA_DIR / "run" / "status.json").read_bytes())
        if facts["supervisor_pid"] == os.getppid():  # else one that is gone has left the file
            return [_program(name, told) for name, told in facts["programs"].items()]
    return []


def _program(name: str, told: dict[str, Any]) -> ServerProgram:
    return ServerProgram(
        name=name,
        pid=told["pid"],
        started_at=_moment(told.get("started_at")),
        restarts=told["restarts"],
        ended_at=_moment(told["last_end_at"]),
        cause=told.get("last_cause") or "",
        status=told.get("last_status"),
    )


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
