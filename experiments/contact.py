"""What is known of an attempt whose device is not heard of, and what will come of it by itself.

Nothing here decides anything: leases.reap() and the supervisors on the devices do, by the same
figures. Pages and API tell them, so that nobody has to guess what a silence means.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.utils.html import format_html
from django.utils.translation import gettext as _

from agent import wire
from devices.models import Device, DeviceState
from experiments.models import Attempt, Pulse
from experiments.states import JobState, OnDeviceLost

#: A moment as it is to be read: text, or an element of a page.
Clock = Callable[[datetime], str]


@dataclass(frozen=True)
class Contact:
    """With an open attempt's device, when it is not as it should be."""

    attempt: Attempt
    state: DeviceState  # stale or disconnected
    since: datetime
    now: datetime

    @property
    def is_lost(self) -> bool:
        return self.state == DeviceState.DISCONNECTED

    @property
    def runs_elsewhere(self) -> bool:
        """Whether it ends there by itself and is queued again: wished, or nothing was started."""
        requeue = self.attempt.on_device_lost == OnDeviceLost.REQUEUE
        return requeue or self.attempt.accepted_at is None

    @property
    def then(self) -> JobState:
        """What the job becomes if the device stays away."""
        return JobState.QUEUED if self.runs_elsewhere else JobState.FAILED

    @property
    def then_at(self) -> datetime:
        """When, at the earliest: a server that was blind itself waits longer."""
        if self.attempt.accepted_at is None:
            since = max(self.attempt.created_at, Pulse.sees_since(self.now))
            return since + timedelta(seconds=wire.ACCEPT_SECONDS)
        if self.runs_elsewhere:
            return self.attempt.lease_ends_at
        return self._heard_at + timedelta(seconds=settings.LAB_GIVE_UP_AFTER_SECONDS)

    @property
    def stops_at(self) -> datetime:
        """Policy `requeue`: when its supervisor has ended it there, whatever the cause."""
        return self._heard_at + timedelta(seconds=wire.FENCE_SECONDS)

    @property
    def limit_at(self) -> datetime | None:
        """When its own time limit ends it there; None: it has none, or has not begun."""
        limit, began = self.attempt.job.time_limit_seconds, self.attempt.started_at
        return began + timedelta(seconds=limit) if began and limit else None

    @property
    def _heard_at(self) -> datetime:
        return self.attempt.renewed_at or self.attempt.created_at


def contact_with(attempt: Attempt | None, now: datetime) -> Contact | None:
    """None where there is nothing to tell: no open attempt, or its device is healthy."""
    if attempt is None or not attempt.is_open:
        return None
    state = attempt.device.state(now)
    if state == DeviceState.HEALTHY:
        return None
    return Contact(attempt, state, _since(attempt.device), now)


def _since(device: Device) -> datetime:
    """The agent's last word, or the end of what it may say."""
    ends = [device.revoked_at, device.goodbye_at if device.has_said_goodbye else None]
    known = [at for at in [*ends, device.last_heartbeat_at, device.created_at] if at]
    return known[0]


# --- in words -----------------------------------------------------------------------------------


def sentences(contact: Contact, clock: Clock, *, brake: bool = False) -> list[str]:
    """What people read, the most important first.

    Args:
        brake: many vanished at once, so that nothing is run elsewhere by itself.
    """
    if not contact.is_lost:
        return [_late(contact, clock)]
    if contact.attempt.accepted_at is None:
        said = [_not_taken(contact, clock)]
    elif contact.runs_elsewhere:
        said = [
            _headline(contact, clock),
            _stops(contact, clock),
            _elsewhere(contact, clock, brake),
        ]
    else:
        said = [
            _headline(contact, clock),
            _comes_back(contact.attempt.device),
            _limit(contact, clock),
            _given_up(contact, clock),
        ]
    return [sentence for sentence in said if sentence]


def _late(contact: Contact, clock: Clock) -> str:
    return format_html(
        _("Its host is late to report (last heard {when}); the run goes on."),
        when=clock(contact.since),
    )


def _not_taken(contact: Contact, clock: Clock) -> str:
    return format_html(
        _(
            "It was given to a host that is unreachable since {when}. Nothing was started there; "
            "it goes back into the queue at {then} by itself."
        ),
        when=clock(contact.since),
        then=clock(contact.then_at),
    )


def _headline(contact: Contact, clock: Clock) -> str:
    device, started = contact.attempt.device, contact.attempt.started_at
    if contact.runs_elsewhere:
        words = _("Host unreachable since {when}.")
    elif device.revoked_at:
        words = _(
            "Access of its host revoked at {when}; probably still training; nothing is lost."
        )
    elif device.has_said_goodbye:
        words = _("Agent of its host stopped at {when}; probably still training; nothing is lost.")
    elif started is None:
        words = _("Starting; host unreachable since {when}; it probably runs; nothing is lost.")
    else:
        words = _(
            "Running; host unreachable since {when}; probably still training; nothing is lost."
        )
    return format_html(words, when=clock(contact.since))


def _comes_back(device: Device) -> str:
    if device.revoked_at:
        return _("What it wrote is kept there, and arrives once that host is enrolled again.")
    if device.has_said_goodbye:
        return _("What it wrote arrives when the agent is started again, and the run goes on.")
    return _("What it wrote arrives when the host is back, and the run goes on by itself.")


def _limit(contact: Contact, clock: Clock) -> str:
    if contact.limit_at is None:
        return ""
    if contact.limit_at <= contact.now:
        words = _("Its time limit was reached at {when}: by then it was stopped there.")
    else:
        words = _("Its time limit holds there as well: it ends at {when} at the latest.")
    return format_html(words, when=clock(contact.limit_at))


def _given_up(contact: Contact, clock: Clock) -> str:
    return format_html(
        _("If the host stays away, it is given up on {when} by itself, as failed."),
        when=clock(contact.then_at),
    )


def _stops(contact: Contact, clock: Clock) -> str:
    if contact.stops_at <= contact.now:
        words = _("It has stopped itself there at {when}, as was wished for this case.")
    else:
        words = _("Unless it is heard of, it stops itself there at {when}, as was wished.")
    return format_html(words, when=clock(contact.stops_at))


def _elsewhere(contact: Contact, clock: Clock, brake: bool) -> str:
    if brake:
        return _(
            "Many GPU servers vanished with it: until that is clear, it is run elsewhere only if "
            "somebody says so."
        )
    if contact.then_at <= contact.now:
        return _("It is run elsewhere once this server is sure that the silence is not its own.")
    words = _("It is run elsewhere from {when} on, from its last checkpoint; that costs no try.")
    return format_html(words, when=clock(contact.then_at))
