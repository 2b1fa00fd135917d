"""The whole life of a job and of an attempt, as tables (protocol §5)."""

from django.db import models
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from agent import wire


class JobState(models.TextChoices):
    QUEUED = "queued", _("waiting")
    ASSIGNED = "assigned", _("starting")  # leased to a device that has not said it started
    RUNNING = "running", _("running")
    SUCCEEDED = "succeeded", _("succeeded")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")


#: What each state may become. A state that is not a key is final.
TRANSITIONS: dict[str, set[str]] = {
    JobState.QUEUED: {JobState.ASSIGNED, JobState.CANCELLED},
    JobState.ASSIGNED: {JobState.RUNNING, JobState.QUEUED, JobState.FAILED, JobState.CANCELLED},
    JobState.RUNNING: {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.QUEUED,  # requeue wished, preempted, host rebooted, or given up with requeue
    },
}

LIVE = (JobState.ASSIGNED, JobState.RUNNING)
ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Priority(models.IntegerChoices):
    LOW = 0, pgettext_lazy("priority", "low")
    NORMAL = 1, pgettext_lazy("priority", "normal")
    HIGH = 2, pgettext_lazy("priority", "high")
    URGENT = 3, pgettext_lazy("priority", "urgent")


class OnDeviceLost(models.TextChoices):
    WAIT = wire.OnDeviceLost.WAIT.value, _("wait for it")
    REQUEUE = wire.OnDeviceLost.REQUEUE.value, _("run elsewhere")


class Outcome(models.TextChoices):
    """How an attempt ended."""

    SUCCEEDED = "succeeded", _("succeeded")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")
    TIMED_OUT = "timed_out", _("reached its time limit")
    PREEMPTED = "preempted", _("stopped to be run again")
    START_FAILED = "start_failed", _("did not start")
    HOST_REBOOTED = "host_rebooted", _("host rebooted")
    SUPERVISOR_LOST = "supervisor_lost", _("its supervisor was killed")
    LOST = "lost", _("given up")
    NOT_ACCEPTED = "not_accepted", _("not taken by the host")  # no process ever ran
    GPU_TAKEN = "gpu_taken", _("its GPU was in use by another lab server")  # nor here
    LACKING = "lacking", _("the GPU server lacked something")  # nor here


#: Ends that `max_attempts` bounds; all others are nobody's fault and cost no try.
COUNTED = (Outcome.START_FAILED, Outcome.SUPERVISOR_LOST)


class EventKind(models.TextChoices):
    """What a JobEvent tells. The first five change the job's state."""

    SUBMITTED = "submitted", _("Submitted")
    ASSIGNED = "assigned", _("Assigned")
    STARTED = "started", _("Started")
    ENDED = "ended", _("Ended")  # an attempt's end, and with it a change of the job
    CANCELLED = "cancelled", _("Cancelled")  # while it waited: no attempt was open
    ACCEPTED = "accepted", _("Accepted")
    CANCEL_REQUESTED = "cancel_requested", _("Cancel Requested")
    REQUEUE_REQUESTED = "requeue_requested", _("Requeue Requested")
    PREEMPT_REQUESTED = "preempt_requested", _("Preempt Requested")
    RELEASED = "released", _("Released")
    HELD = "held", _("Held")
    UNHELD = "unheld", _("Unheld")
    PRIORITY = "priority", _("Priority")
    EDITED = "edited", _("Edited")
    DELETED = "deleted", _("Deleted")
    RESTORED = "restored", _("Restored")
    MOVED = "moved", _("Moved")  # in the queue
    IMPORTED = "imported", _("Imported")  # its first: it was never submitted
    FOUND = "found", _("Found")  # what a device that came back had of an attempt ended without it
