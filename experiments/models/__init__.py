"""The state machine: what is to be run, each try of it, who holds which GPU, what happened."""

from experiments.models.account import UnixAccount, unix_user
from experiments.models.attempt import Attempt, Found, GPUClaim, ReceivedEvent
from experiments.models.borrow import Borrow
from experiments.models.cell import Cell, Column
from experiments.models.channel import Channel, ChannelKind, Tells
from experiments.models.demo import DemoUser
from experiments.models.event import JobEvent
from experiments.models.imported import Imported
from experiments.models.job import Job
from experiments.models.labsample import LabSample
from experiments.models.member import Member, MemberRole
from experiments.models.packages import PackageSet
from experiments.models.project import Goal, Project
from experiments.models.pulse import Pulse
from experiments.models.secret import GivenSecret, Secret
from experiments.models.snapshot import Blob, Snapshot
from experiments.models.submitkey import Asked, SubmitKey
from experiments.models.sweep import Sweep, counts_of
from experiments.models.view import Pin, SavedView

__all__ = [
    "Asked",
    "Attempt",
    "Blob",
    "Borrow",
    "Cell",
    "Channel",
    "ChannelKind",
    "Column",
    "DemoUser",
    "Found",
    "GPUClaim",
    "GivenSecret",
    "Goal",
    "Imported",
    "Job",
    "JobEvent",
    "LabSample",
    "Member",
    "MemberRole",
    "PackageSet",
    "Pin",
    "Project",
    "Pulse",
    "ReceivedEvent",
    "SavedView",
    "Secret",
    "Snapshot",
    "SubmitKey",
    "Sweep",
    "Tells",
    "UnixAccount",
    "counts_of",
    "unix_user",
]
