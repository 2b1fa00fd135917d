"""Where a job may run: each device with the GPUs that can be given out, at one instant."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime

from agent import wire
from devices.models import GPU, Device, DeviceState
from experiments.models import GPUClaim, UnixAccount
from experiments.models.job import needed_commands
from experiments.waiting import AnyJob


@dataclass
class Place:
    """One device as dispatch sees it. `take()` keeps count within a pass."""

    device: Device
    accepts: bool  # healthy, polling, not stopped, with nothing left over from an ended attempt
    is_stopping: bool  # only the last of these keeps it from accepting
    gpus: list[GPU]  # all that are present and not faulty
    ours: list[GPU]  # those of them that nobody uses outside the queue, here or elsewhere
    free: list[GPU]  # those of these that nobody holds
    cpu_free: int
    jobs_free: float  # how many more jobs `max_jobs` admits
    claimed: int = 0
    outside: int = 0  # GPUs used outside the queue
    outside_users: list[str] = field(default_factory=list)
    elsewhere: int = 0
    held_back: bool = False
    #: Unix name of each user who has one; None: it takes anybody's jobs.
    admitted: dict[int, str] | None = None
    _labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._labels = {str(key): str(value) for key, value in self.device.labels.items()}

    def fits(self, job: AnyJob, now: datetime) -> bool:
        if not self.accepts or self.held_back or self.jobs_free < 1:
            return False
        if len(self.free) < job.gpus:
            return False
        if not self._has_labels(job) or self.is_avoided(job, now) or not self.admits(job):
            return False
        if self.lacking(job):
            return False
        return len(self.free_for(job)) >= job.gpus if job.gpus else self.cpu_free > 0

    def could_ever(self, job: AnyJob) -> bool:
        """Whether it would fit if the device were idle."""
        if not self._has_labels(job):
            return False
        return self.able(job) >= job.gpus if job.gpus else self.device.cpu_slots > 0

    def could_have(self, job: AnyJob) -> bool:
        """Whether it fits once jobs have ended here. Who works outside the queue may stay for
        weeks: for a GPU of theirs no other is to stand idle."""
        return sum(_suits(gpu, job) for gpu in self.ours) >= job.gpus

    def admits(self, job: AnyJob) -> bool:
        """Whether it has a Unix user to run the job as."""
        return self.admitted is None or job.user_id in self.admitted

    def lacking(self, job: AnyJob) -> list[str]:
        """What the job requires and this device is known not to have."""
        if not self.device.lacks:
            return []
        user = (self.admitted or {}).get(job.user_id, "")
        python = job.python or self.device.python
        lacks = {(one["name"], one["user"], one["python"]) for one in self.device.lacks}
        wanted = [(name, user, "") for name in job.requires.get("paths", [])]
        commands = needed_commands(job.requires, job.python, self.device)
        wanted += [(name, user, python) for name in commands]
        return [name for name, *rest in wanted if (name, *rest) in lacks]

    def able(self, job: AnyJob) -> int:
        """How many of its GPUs are of the kind that the job asks for."""
        return sum(_suits(gpu, job) for gpu in self.gpus)

    def free_for(self, job: AnyJob) -> list[GPU]:
        return [gpu for gpu in self.free if _suits(gpu, job)]

    def is_avoided(self, job: AnyJob, now: datetime) -> bool:
        return bool(job.avoids) and job.avoids.get(str(self.device.pk), "") > now.isoformat()

    def take(self, job: AnyJob) -> list[GPU]:
        """Give the job its GPUs: the smallest that suit, so that large cards stay free."""
        suiting = sorted(self.free_for(job), key=lambda gpu: (gpu.memory_total_bytes or 0, gpu.pk))
        given = suiting[: job.gpus]
        self.free = [gpu for gpu in self.free if gpu not in given]
        self.cpu_free -= 0 if job.gpus else 1
        self.jobs_free -= 1
        self.claimed += len(given)
        return given

    def hold_back(self) -> None:
        self.held_back = True

    def _has_labels(self, job: AnyJob) -> bool:
        return all(self._labels.get(key) == str(value) for key, value in job.labels.items())


def _suits(gpu: GPU, job: AnyJob) -> bool:
    if job.gpu_type and job.gpu_type.lower() not in gpu.name.lower():
        return False
    return not job.gpu_memory_bytes or (gpu.memory_total_bytes or 0) >= job.gpu_memory_bytes


def read_places(now: datetime) -> list[Place]:
    """All enrolled devices that there are, in a fixed order."""
    claimed = set(GPUClaim.objects.values_list("gpu_id", flat=True))
    gpus = defaultdict(list)
    for gpu in GPU.objects.usable().order_by("index"):
        gpus[gpu.device_id].append(gpu)
    devices = list(Device.objects.real().order_by("pk"))
    named = _named(devices)
    return [_place(device, gpus[device.pk], claimed, named, now) for device in devices]


def _named(devices: list[Device]) -> dict[int, str]:
    """Users' Unix names, where any of these devices asks for one."""
    if all(device.run_as == wire.JobUser.AGENT for device in devices):
        return {}
    return dict(UnixAccount.objects.values_list("user_id", "name"))


def _place(
    device: Device, gpus: list[GPU], claimed: set[int], named: dict[int, str], now: datetime
) -> Place:
    held = [gpu for gpu in gpus if gpu.pk in claimed]
    elsewhere = [gpu for gpu in gpus if gpu.used_elsewhere]
    others = [gpu for gpu in gpus if not gpu.used_elsewhere]
    outside = [gpu for gpu in others if gpu.used_outside(claimed=gpu.pk in claimed)]
    ours = [gpu for gpu in others if gpu not in outside]
    free = [gpu for gpu in ours if gpu.pk not in claimed]
    most = device.max_jobs if device.max_jobs is not None else float("inf")
    is_here = (
        device.state(now) == DeviceState.HEALTHY and device.is_polling(now) and not device.draining
    )
    return Place(
        device=device,
        accepts=is_here and not device.runs_ended_attempt,
        is_stopping=is_here and device.runs_ended_attempt,
        gpus=gpus,
        ours=ours,
        free=[] if device.driver_answers is False else free,  # what is said of them is old
        cpu_free=device.cpu_slots - device.open_cpu_attempts,
        jobs_free=most - device.open_attempts,
        claimed=len(held),
        outside=len(outside),
        outside_users=sorted({user for gpu in outside for user in gpu.foreign_users}),
        admitted=named if device.run_as == wire.JobUser.SUBMITTER else None,
        elsewhere=len(elsewhere),
    )
