"""A state as people see it: a colour, a shape and a word, decided in one place."""

from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from devices.models import Device, DeviceState
from experiments.models import Attempt, Job
from experiments.states import JobState, Outcome


@dataclass(frozen=True)
class Badge:
    """`state` sets the colour (data-state), `icon` names the shape."""

    state: str
    icon: str
    word: str
    pulse: bool = False

    def counted(self, number: int) -> "Badge":
        """For a head: "5 running"."""
        words = _("%(n)d %(state)s") % {"n": number, "state": self.word}
        return Badge(self.state, self.icon, words)


_OF_JOB = {
    JobState.QUEUED: ("waiting", "s-waiting"),
    JobState.ASSIGNED: ("starting", "s-starting"),
    JobState.RUNNING: ("running", "s-running"),
    JobState.SUCCEEDED: ("succeeded", "s-succeeded"),
    JobState.FAILED: ("failed", "s-failed"),
    JobState.CANCELLED: ("cancelled", "s-cancelled"),
}


def job_badge(job: Job, attempt: Attempt | None, now: datetime) -> Badge:
    """How a job stands. `attempt` is its open one, with its device; None: it has none.

    Of an imported run nobody knows how it ended: it is counted as one that succeeded, and shown as
    what it is.
    """
    if job.state == JobState.QUEUED and job.held:
        return Badge("held", "s-held", _("kept queued"))
    if attempt is not None and attempt.is_open and is_unreachable(attempt.device, now):
        return Badge("unreachable", "s-disconnected", _("host unreachable"))
    if job.is_live and job.stop_reason:
        return Badge("running", "s-running", _("stopping"), pulse=True)
    if job.imported_at:
        return Badge("imported", "s-imported", _("imported"))
    state, icon = _OF_JOB[JobState(job.state)]
    return Badge(state, icon, str(job.get_state_display()), pulse=job.is_live)


def state_badge(state: str) -> Badge:
    """Of a state alone, for counts; `held` is one that is kept queued."""
    if state == "held":
        return Badge("held", "s-held", _("kept queued"))
    known = JobState(state)
    return Badge(*_OF_JOB[known], str(known.label))


def is_unreachable(device: Device, now: datetime) -> bool:
    return device.state(now) == DeviceState.DISCONNECTED


_OF_DEVICE = {
    DeviceState.HEALTHY: "s-healthy",
    DeviceState.STALE: "s-stale",
    DeviceState.DISCONNECTED: "s-disconnected",
}


def device_badge(device: Device, now: datetime) -> Badge:
    if device.revoked_at:
        return Badge("disconnected", "s-faulty", _("access revoked"))
    state = device.state(now)
    if device.last_heartbeat_at is None:
        return Badge("disconnected", "s-disconnected", _("not heard of yet"))
    if state == DeviceState.DISCONNECTED and device.has_said_goodbye:
        return Badge("stopped", "s-held", _("agent stopped"))
    return Badge(state, _OF_DEVICE[state], str(state.label))


_OF_OUTCOME = {
    Outcome.SUCCEEDED: ("succeeded", "s-succeeded"),
    Outcome.FAILED: ("failed", "s-failed"),
    Outcome.CANCELLED: ("cancelled", "s-cancelled"),
    Outcome.TIMED_OUT: ("failed", "s-waiting"),
    Outcome.PREEMPTED: ("waiting", "s-held"),
    Outcome.GPU_TAKEN: ("waiting", "s-outside"),
    Outcome.LACKING: ("waiting", "s-outside"),
}


def attempt_badge(attempt: Attempt, job: Job, now: datetime) -> Badge:
    if attempt.is_open:
        return job_badge(job, attempt, now)
    state, icon = _OF_OUTCOME.get(Outcome(attempt.outcome), ("warning", "s-warning"))
    word = str(attempt.get_outcome_display())
    if attempt.unconfirmed and not attempt.found:
        word = _("%(how)s, not yet confirmed") % {"how": word}
    return Badge(state, icon, word)


def theme_words() -> list[tuple[str, str]]:
    return [
        ("system", pgettext("theme", "System")),
        ("light", pgettext("theme", "Light")),
        ("dark", pgettext("theme", "Dark")),
    ]
