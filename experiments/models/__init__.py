"""The state machine: what is to be run, each try of it, who holds which GPU, what happened."""

from experiments.models.attempt import Attempt, GPUClaim, ReceivedEvent
from experiments.models.event import JobEvent
from experiments.models.job import Job
from experiments.models.project import Project
from experiments.models.pulse import Pulse

__all__ = ["Attempt", "GPUClaim", "Job", "JobEvent", "Project", "Pulse", "ReceivedEvent"]
