"""The messages between agent and server. Standard library only: both sides import this.

A message is a frozen dataclass whose fields are JSON's own types. Field names end in their
unit. Either side may add a field at any time and the other ignores what it does not know;
taking one away or changing its meaning raises PROTOCOL. docs/protocol.md says what each
message means; here stand its form and its limits.

    message = decode(Heartbeat, loads(body))     # Malformed names the field and what is wrong
    body = dumps(message)
"""

import re
import unicodedata
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any

# Both sides import this module alone, so the codec's names are passed on.
from agent.codec import Else, Items, Range, Text
from agent.codec import Malformed as Malformed
from agent.codec import decode as decode
from agent.codec import dumps as dumps
from agent.codec import loads as loads

PROTOCOL = 1

# Sizes. A server refuses more (413); an agent never sends more.
MAX_HEARTBEAT_BYTES = 64 * 1024
MAX_POLL_BYTES = 1024 * 1024
MAX_EVENT_BYTES = 64 * 1024
MAX_GPUS = 64  # of one host
MAX_CHECKPOINT_BYTES = 16 * 1024
MAX_CHUNK_BYTES = 4 * 1024 * 1024  # raw bytes of one delta
MAX_WHOLE_FILE_BYTES = 8 * 1024 * 1024  # above this a whole file travels in resumable chunks
MAX_UPLOAD_CHUNK_BYTES = 8 * 1024 * 1024  # raw bytes of one of those
MAX_GZIP_RATIO = 200  # raw bytes to compressed ones; a body beyond it is refused
MAX_BATCH_BYTES = 8 * 1024 * 1024  # of a batch's body
MAX_BATCH_PARTS = 64
MAX_CONFIG_BYTES = 1024 * 1024
MAX_OFFSET = 2**63 - 1

# Times, in seconds.
HEARTBEAT_SECONDS = 1.0
MAX_HEARTBEAT_SECONDS = 60.0
MAX_WAIT_SECONDS = 25.0  # longest a poll is held
ACCEPT_SECONDS = 60.0  # an attempt that nobody accepted for so long goes back to the queue
LEASE_SECONDS = 135.0  # policy `requeue`: the server gives the attempt up
FENCE_SECONDS = 105.0  # policy `requeue`: the supervisor stops the job, well before that
INCUMBENT_SECONDS = 3.0  # silence after which another agent may take a device over
STOP_GRACE_SECONDS = 30.0
RELEASE_SECONDS = 60.0  # memory of an ended attempt that is not back by then: the GPU is faulty
GONE_SECONDS = 10.0  # a card that no reading showed for so long has fallen off the bus

#: What the UUID of a card that does not exist begins with (`--simulate-gpus`).
SIMULATED = "SIM-"

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_NAME = re.compile(NAME_PATTERN)
#: How the server names an earlier generation that it laid aside.
_LAID_ASIDE = re.compile(r"\.g\d+$")
MAX_PATH_CHARACTERS = 512
MAX_REPORTS = 512  # attempts in a poll
MAX_PART_BYTES = 233  # a file system's 255, less what the server adds while a file comes in

#: A run's curves and logs as text: they come whatever their size, and may use what is in reserve.
CURVES_AND_LOGS = (".csv", ".log", ".jsonl", ".ndjson")
#: Text that is appended to.
TEXT = (*CURVES_AND_LOGS, ".txt", ".out", ".err")
#: How the last part of the name of TensorBoard's event files begins.
EVENT_FILE = "events.out.tfevents."
#: How names end of what is written to be renamed.
UNFINISHED = (".tmp", ".temp", ".part", ".partial", ".swp", "~")
#: What lies in such a folder is one checkpoint together (sync.resume).
_IN_CHECKPOINT = re.compile(r"(^|.*/)checkpoint-\d+/[^/]+")

UNIX_USER_PATTERN = r"[A-Za-z_][A-Za-z0-9_.@-]{0,63}"  # also names a folder on GPU servers


def is_name(text: str) -> bool:
    """Whether `text` may name a project, a run or a run's own file (protocol §6)."""
    return _NAME.fullmatch(text) is not None and ".." not in text


def is_file_of(run_name: str, path: str) -> bool:
    """Whether `path` may name a file of that run: `run_001.csv`, or an artifact beneath
    `run_001/`, which may be called whatever scripts call their files."""
    first, *parts = path.split("/")
    if not parts:
        return path.startswith(f"{run_name}.") and is_name(path) and not _LAID_ASIDE.search(path)
    fits = first == run_name and len(path) <= MAX_PATH_CHARACTERS
    return fits and all(map(is_artifact_part, parts))


def is_artifact_part(text: str) -> bool:
    """Whether `text` may be one part of an artifact's path: NFC, printable (so nothing that turns
    the direction of writing either), nothing that leads elsewhere, nor a shell's `*` into an
    option, and no name that the server gives to what is on its way in or laid aside."""
    return (
        text.isprintable()
        and unicodedata.is_normalized("NFC", text)
        and 0 < len(text.encode()) <= MAX_PART_BYTES
        and not text.startswith(("-", " "))
        and not text.endswith(" ")
        and text not in (".", "..")
        and not (text.startswith(".") and text.endswith(".part"))
        and not _LAID_ASIDE.search(text)
        and not set(text) & {"/", "\\"}
    )


def grows(path: str) -> bool:
    """Whether a file of that name is appended to: it is sent as it grows (protocol §6.1), and of
    one that was written anew the server lays the earlier version aside. Any other is replaced."""
    return is_growing_text(path) or is_event_file(path)


def is_growing_text(path: str) -> bool:
    """Whether it grows as text, in which secrets are masked.

    The vocabulary in a checkpoint's folder is part of the checkpoint: written once, and to be
    confirmed while the run goes on, so that a next attempt is given it.
    """
    if path.endswith(CURVES_AND_LOGS):
        return True
    return path.endswith(TEXT) and not _IN_CHECKPOINT.fullmatch(path)


def is_event_file(path: str) -> bool:
    return path.rpartition("/")[2].startswith(EVENT_FILE)


def is_unfinished(path: str) -> bool:
    """Whether its name says that whoever wrote it meant to rename it, or to hide it."""
    return _is_unfinished_part(path.rpartition("/")[2])


def lies_aside(path: str) -> bool:
    """Whether a folder that it lies in, below the run's own, is called so: what is in it is a
    checkpoint only where the run has no other."""
    return any(map(_is_unfinished_part, path.split("/")[1:-1]))


def _is_unfinished_part(name: str) -> bool:
    return name.startswith(".") or name.endswith(UNFINISHED)


Count = Annotated[int, Range(0, MAX_OFFSET)]
Bytes = Annotated[int, Range(0, MAX_OFFSET)]
Percent = Annotated[float, Range(0, 100)]
Id = Annotated[str, Text(64, r"[A-Za-z0-9_-]{1,64}")]
GPUUuid = Annotated[str, Text(96, r"[A-Za-z0-9_:.-]{1,96}")]
Name = Annotated[str, Text(128, NAME_PATTERN)]
FilePath = Annotated[str, Text(MAX_PATH_CHARACTERS)]  # is_file_of() says whether it is one
Short = Annotated[str, Text(255)]
Line = Annotated[str, Text(4000)]
UnixUser = Annotated[str, Text(64, UNIX_USER_PATTERN)]
Sha256 = Annotated[str, Text(64, r"[0-9a-f]{64}")]
Time = Annotated[str, Text(40)]  # ISO 8601 UTC; shown to people, never decided upon


class AttemptState(str, Enum):
    """What an agent says of an attempt in a poll."""

    ACCEPTED = "accepted"  # journalled, and not yet confirmed by the server: not started
    STARTING = "starting"
    RUNNING = "running"
    EXITED = "exited"  # no process; its end may not be acknowledged yet, nor all files sent

    @property
    def alive(self) -> bool:
        return self is not AttemptState.EXITED


class EventType(str, Enum):
    STARTED = "started"
    EXITED = "exited"
    START_FAILED = "start_failed"
    RELEASED = "released"
    ARRIVED = "arrived"  # by `lab-agent push` without an agent: its files are all there


class ExitCause(str, Enum):
    """Why a process ended, where its exit code does not tell."""

    TIMED_OUT = "timed_out"  # its time limit, kept by the supervisor
    STOPPED = "stopped"  # by the server's wish: `stop` or `ended`
    FENCED = "fenced"  # policy `requeue`: no poll was answered for FENCE_SECONDS
    HOST_REBOOTED = "host_rebooted"
    SUPERVISOR_LOST = "supervisor_lost"


class JobUser(str, Enum):
    """Which Unix user runs a device's jobs. Root chooses it there, where the agent is started."""

    AGENT = "agent"
    SUBMITTER = "submitter"  # whose Unix name a manager sets; nobody runs jobs without one


class OnDeviceLost(str, Enum):
    WAIT = "wait"
    REQUEUE = "requeue"


class Checkpoints(str, Enum):
    """Which checkpoints of a run come to the server."""

    ALL = "all"
    LAST = "last"
    NONE = "none"


class WhyLeftOut(str, Enum):
    """Why a file of a run is not sent."""

    NOT_WISHED = "not_wished"  # by `sync: {checkpoints: …}`: it is kept on the host
    TOO_LARGE = "too_large"  # by `sync: {max_file: …}`
    NAME = "name"  # no file of a run may be called so
    LINK = "link"  # out of the folder that it lies in
    TOO_MANY = "too_many"  # the folder `name` holds more files than are looked at, or taken
    UNMASKED = "unmasked"  # a secret in it cannot be masked: another user's file
    TORN = "torn"  # a checkpoint that was cut off while it was written
    CLOSED = "closed"  # the folder `name` may not be looked into: what is in it waits there
    SHARED = "shared"  # `name` is written to by another run too: its outputs are here as well
    OTHER = "other"  # as a server reads what only a newer agent knows


# --- agent → server ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Enroll:
    """POST /api/devices/enroll. The agent makes its secret and sends only its digest."""

    enroll_code: Short
    host_id: Name
    machine_id: Id
    agent_version: Short
    token_sha256: Sha256
    protocol: int = PROTOCOL


@dataclass(frozen=True)
class NewToken:
    """POST /api/devices/token: the old token lives until the new one is first used."""

    token_sha256: Sha256


@dataclass(frozen=True)
class Goodbye:
    """POST /api/devices/goodbye: this agent stops in order. Its jobs may go on."""

    instance_id: Id


@dataclass(frozen=True)
class GPUProcess:
    pid: Count
    user: Short
    memory_bytes: Bytes | None
    attempt_id: Id | None  # None: somebody works outside the queue


@dataclass(frozen=True)
class GPUReading:
    """One card as NVML sees it. None: NVML would not say."""

    uuid: GPUUuid
    index: Count
    name: Short
    memory_used_bytes: Bytes | None = None
    memory_total_bytes: Bytes | None = None
    utilization_percent: Percent | None = None  # share of the last period with a kernel running
    temperature_celsius: Annotated[float, Range(-100, 300)] | None = None
    power_watts: Annotated[float, Range(0, 100_000)] | None = None
    power_limit_watts: Annotated[float, Range(0, 100_000)] | None = None
    xid_errors: Annotated[list[int], Items(64)] = field(default_factory=list)
    ecc_errors: Count | None = None  # uncorrected (double-bit) ones since the driver was loaded
    processes: Annotated[list[GPUProcess], Items(256)] = field(default_factory=list)
    simulated: bool = False  # not a real card: `--simulate-gpus`
    used_elsewhere: bool = False  # another agent of this host has its lock (agent.gpulock)
    graphics_clock_mhz: Annotated[int, Range(0, 1_000_000)] | None = None
    memory_clock_mhz: Annotated[int, Range(0, 1_000_000)] | None = None
    #: Why its clocks are held down: power_cap, hw_slowdown, sync_boost, sw_thermal, hw_thermal,
    #: power_brake.
    throttle_reasons: Annotated[list[Short], Items(16)] = field(default_factory=list)
    ecc_errors_lifetime: Count | None = None  # uncorrected ones since the card was made
    remap_pending: bool | None = None  # rows of its memory are replaced at its next reset


@dataclass(frozen=True)
class HeldGPU:
    """A card whose memory an ended attempt has not given back."""

    uuid: GPUUuid
    held_seconds: Annotated[float, Range(0, 1e10)]  # since its end, as far as the agent saw it
    memory_bytes: Bytes | None = None  # in use on the card
    processes: Annotated[list[GPUProcess], Items(16)] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """The code at `--source`, when it is a git checkout."""

    commit: Short
    branch: Short
    dirty: bool
    source_hash: Short  # of the commit and the difference to it


@dataclass(frozen=True)
class Lack:
    """What a job required and this host had not when it was last looked for."""

    name: Annotated[str, Text(512)]  # a path if there is a slash in it, else a command
    user: Short = ""  # for whom: the Unix user that an order named; empty: the agent's
    python: Annotated[str, Text(1024)] = ""  # of a command: the order's, whose PATH was searched


@dataclass(frozen=True)
class Environment:
    """What a command was started in. None: it cannot be told from the outside."""

    python: Short | None = None  # its version
    torch: Short | None = None
    torch_cuda: Short | None = None  # which CUDA that torch was built for
    driver: Short | None = None
    cuda: Short | None = None  # the newest that the driver knows
    unix_user: Short | None = None
    prefix: Line | None = None  # the environment's folder
    working_directory: Line | None = None
    packages: Annotated[list[Short], Items(1000)] = field(default_factory=list)  # name==version


@dataclass(frozen=True)
class Heartbeat:
    """POST /api/devices/heartbeat. `seq` rises within an `instance_id`."""

    instance_id: Id
    boot_id: Id
    seq: Count
    agent_version: Short
    interval_seconds: Annotated[float, Range(0.05, MAX_HEARTBEAT_SECONDS)]
    previous_instance_id: Id | None = None
    cpu_percent: Percent | None = None
    cpu_count: Count | None = None
    memory_used_bytes: Bytes | None = None
    memory_total_bytes: Bytes | None = None
    disk_free_bytes: Bytes | None = None
    disk_total_bytes: Bytes | None = None
    driver_version: Short | None = None
    cuda_version: Short | None = None
    torch_version: Short | None = None
    python_version: Short | None = None
    unix_user: Short | None = None  # the agent's own
    run_as: JobUser = JobUser.AGENT
    source_directory: Line | None = None  # where commands run unless a job says otherwise
    source: Source | None = None
    gpus: Annotated[list[GPUReading], Items(MAX_GPUS)] = field(default_factory=list)
    #: False: there is a driver and it does not answer, so that `gpus` tells nothing of now.
    #: None: there is none, or the agent does not say.
    driver_answers: bool | None = None
    #: Cards of this host that `--gpus` keeps from this server: not offered, and not lost.
    gpus_left_out: Annotated[list[GPUUuid], Items(MAX_GPUS)] = field(default_factory=list)
    #: Of what jobs required: no such job is given to it before it is told of no more.
    lacks: Annotated[list[Lack], Items(256)] = field(default_factory=list)
    protocol: int = PROTOCOL


@dataclass(frozen=True)
class FileReport:
    generation: Count
    size_bytes: Bytes  # as the agent sees the file now
    acked_bytes: Bytes


@dataclass(frozen=True)
class LeftOut:
    name: Annotated[str, Text(MAX_PATH_CHARACTERS)]  # as it may be shown; not one to ask for
    reason: Annotated[WhyLeftOut, Else(WhyLeftOut.OTHER)]
    size_bytes: Bytes = 0


@dataclass(frozen=True)
class AttemptReport:
    id: Id
    state: AttemptState
    pid: Count | None = None
    started_at: Time | None = None
    exit_code: Annotated[int, Range(-255, 255)] | None = None
    files: dict[str, FileReport] = field(default_factory=dict)
    #: exited: those of its cards that are not free again; once one stands here, the others are.
    held_gpus: Annotated[list[HeldGPU], Items(64)] = field(default_factory=list)
    left_out: Annotated[list[LeftOut], Items(64)] = field(default_factory=list)
    #: Not all of its files have arrived, as far as the agent knows; `files` may not name them yet.
    #: None: an agent of an older version, which does not say.
    files_to_come: bool | None = None


@dataclass(frozen=True)
class Poll:
    """POST /api/agent/poll: what is alive here; the answer is all that should be.

    `known_revision` is that of the last answer the agent carried out; the poll is held only
    while the answer would be that same one, so a lost answer is given again at once.
    """

    instance_id: Id
    poll_seq: Count
    wait_seconds: Annotated[float, Range(0, MAX_WAIT_SECONDS)] = 0.0
    known_revision: Short | None = None
    attempts: Annotated[list[AttemptReport], Items(MAX_REPORTS)] = field(default_factory=list)
    protocol: int = PROTOCOL


@dataclass(frozen=True)
class AttemptEvent:
    """POST /api/agent/attempts/{id}/events. Sent until acknowledged, in journal order."""

    event_id: Annotated[str, Text(36, r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")]
    type: EventType
    pid: Count | None = None  # started
    started_at: Time | None = None  # started, exited
    ended_at: Time | None = None  # exited
    exit_code: Annotated[int, Range(-255, 255)] | None = None  # exited; negative: by that signal
    cause: ExitCause | None = None  # exited
    message: Line = ""  # start_failed: one sentence that says what to do
    gpu_uuids: Annotated[list[GPUUuid], Items(64)] = field(default_factory=list)  # released
    # start_failed: another agent of this host has these of its GPUs; no fault of the job
    used_elsewhere: Annotated[list[GPUUuid], Items(64)] = field(default_factory=list)
    # start_failed: what the job requires and this host has not; no fault of the job either
    lacks: Annotated[list[Lack], Items(64)] = field(default_factory=list)
    environment: Environment | None = None  # started; exited, if it was made by the job itself


# --- server → agent ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Enrolled:
    device_id: int
    host_id: Short
    server_id: Id
    server_name: Short


@dataclass(frozen=True)
class HeartbeatReply:
    server_id: Id
    server_time: Time
    next_heartbeat_seconds: float
    draining: bool
    ignored: bool = False  # an older beat than the last one seen: nothing was changed


@dataclass(frozen=True)
class ResumeFile:
    """A file that the server has, to be laid into the run's folder before the start.

    Fetched by GET /api/sync/file/{experiment_uid}/{file_name} (Range). `lay_as` is another name
    only when a job resumes from another run.
    """

    experiment_uid: Name
    file_name: FilePath
    lay_as: FilePath
    size_bytes: Bytes | None  # None, as the hash: as the server has it when it is fetched
    sha256: Sha256 | None


@dataclass(frozen=True)
class Resume:
    files: list[ResumeFile]
    checkpoint: FilePath | None  # the `lay_as` of the one that LAB_RESUME_FROM names
    point: dict[str, Any]  # what the script last said by POST /api/sync/checkpoint


@dataclass(frozen=True)
class Stop:
    reason: Short  # cancelled, requeued, preempted


@dataclass(frozen=True)
class SyncPolicy:
    """What of a run comes to the server."""

    checkpoints: Checkpoints = Checkpoints.ALL
    max_file_bytes: Bytes | None = None  # CURVES_AND_LOGS always come


@dataclass(frozen=True)
class Code:
    """What an attempt runs in, laid down anew for it (docs/adr/0030, 0031).

    `snapshot`: `sha256` names its manifest, GET /api/agent/attempts/{id}/code, and POST
    /api/agent/attempts/{id}/code/files gives the files in it (agent.code.manifest). `git`: the
    agent fetches `commit` from `url` with the credentials of the host.
    """

    kind: Short  # snapshot, git; an agent starts nothing of a kind that it does not know
    folder: Annotated[str, Text(1024)] = ""  # in it: where the command runs
    links: dict[str, str] = field(default_factory=dict)  # laid into it: path -> target
    sha256: Sha256 | None = None
    size_bytes: Bytes = 0
    file_count: Count = 0
    url: Line = ""
    commit: Short = ""


@dataclass(frozen=True)
class Requires:
    """What a host must have for a job, seen by the user who runs it."""

    paths: list[str] = field(default_factory=list)  # absolute, or from `~/` on
    commands: list[str] = field(default_factory=list)  # on the job's PATH


@dataclass(frozen=True)
class AttemptOrder:
    """An attempt that should run on the device that polled."""

    id: Id
    number: int
    experiment_uid: Name
    project: Name
    run_name: Name
    user: Short  # who submitted it: for people, and for run_001.yaml
    command: list[str]  # its {config} {run_dir} {run_name} are for the agent to replace
    environment: dict[str, str]  # device's, then project's, then job's, already laid together
    secrets: dict[str, str]  # as environment, and never written to a file; empty once it started
    gpus: list[str]  # UUIDs; empty: none
    gpu_ids: str  # "uuid" or "index": what CUDA_VISIBLE_DEVICES holds
    python: str | None  # a venv's folder, or a conda environment's name
    working_directory: str | None  # None: the agent's --source, or the folder that `source` says
    source: Code | None  # None: what lies in the working directory on the host
    run_as: UnixUser | None  # None: the agent's
    config_sha256: Sha256 | None  # GET /api/agent/attempts/{id}/config; None: a job without YAML
    time_limit_seconds: float | None
    stop_grace_seconds: float
    lease_seconds: float
    on_device_lost: OnDeviceLost
    resume: Resume | None
    stop: Stop | None
    confirmed: bool  # the server has seen it accepted: only then may its process start
    outputs: list[str] = field(default_factory=list)  # globs below the working directory
    ignore: list[str] = field(default_factory=list)  # of outputs and artifacts, gitignore-like
    sync: SyncPolicy = SyncPolicy()
    secret_names: list[str] = field(default_factory=list)  # what `secrets` holds before the start
    requires: Requires = Requires()


@dataclass(frozen=True)
class AttemptSecrets:
    """GET /api/agent/attempts/{id}/secrets: what it was given, to mask it in its text files."""

    secrets: dict[str, str]


@dataclass(frozen=True)
class PollReply:
    """All that should run on the device. Only an id in `ended`, or a `stop`, stops a process."""

    server_id: Id
    revision: Short
    ended: list[str]
    draining: bool
    poll_seconds: float  # how long to wait before the next poll when it is not held
    attempts: list[AttemptOrder]


@dataclass(frozen=True)
class EventReply:
    job_state: Short
    outcome: Short | None
    duplicate: bool = False
