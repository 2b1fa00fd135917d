"""What a next attempt may go on from: the script's own point, and the newest whole files."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from agent import wire
from experiments.models import Attempt, Job
from experiments.models.event import change
from sync.models import SyncFile, SyncFileQuerySet

CHECKPOINTS = (".pt", ".pth", ".ckpt")
#: A folder of Hugging Face's Trainer: no file alone is the checkpoint, but all of them together.
_FOLDER = re.compile(r"(?P<folder>.*/checkpoint-\d+)/(?P<file>[^/]+)")
#: What its `resume_from_checkpoint` goes on from; of a model in several files each is needed.
_STATE = ("trainer_state.json", "optimizer.pt", "scheduler.pt")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors")
_SHARD = re.compile(r"(model|pytorch_model)-\d+-of-(?P<count>\d+)\.(safetensors|bin)")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Checkpoint:
    """One file, or all files of a folder; `name` is what LAB_RESUME_FROM names."""

    name: str
    rows: list[SyncFile]

    @property
    def newness(self) -> tuple[bool, int, bool, int, list[int]]:
        """Files of one second are told apart by the numbers in their names. What lies in a hidden
        or temporary folder its script may not have meant: it counts where there is no other."""
        is_meant = not wire.lies_aside(self.rows[0].name)
        is_ours = self.name == f"{self.rows[0].job.run_name}.pt"
        numbers = [int(digits) for digits in _NUMBER.findall(self.name)]
        written = max(row.source_mtime or 0 for row in self.rows)
        return is_meant, min(row.attempt for row in self.rows), is_ours, written, numbers


def is_checkpoint(file_name: str) -> bool:
    """Whether it is one, or may make one whole."""
    return _is_one(file_name) or _FOLDER.fullmatch(file_name) is not None


def _is_one(file_name: str) -> bool:
    """A hidden one was to be renamed: its script never called it a checkpoint."""
    return file_name.lower().endswith(CHECKPOINTS) and not wire.is_unfinished(file_name)


def note_point(attempt: Attempt, point: dict[str, Any]) -> bool:
    """Keep what the script says of its progress, unless it is older than what is kept.

    Args:
        point: any JSON object; `epoch` and `step`, where they are numbers, give its age.

    Returns:
        Whether it was kept.
    """
    with change():
        attempt.job.lock()
        kept = attempt.job.resume_point
        if _age(attempt.number, point) < _age(kept.get("attempt", 0), kept.get("point", {})):
            return False
        _note(attempt.job, {**kept, "attempt": attempt.number, "point": point})
    return True


def _age(attempt: int, point: dict[str, Any]) -> tuple[float, float, float]:
    return attempt, _number(point.get("epoch")), _number(point.get("step"))


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else float("-inf")


def note_files(job: Job) -> None:
    """Name the newest whole checkpoint, and the metrics as they then are, for a next attempt."""
    with change():
        job.lock()
        _note(job, job.resume_point)


def is_to_name(job: Job, file_name: str) -> bool:
    """Whether a next attempt is given a checkpoint, and not yet this file beside it."""
    resume = job.resume_point.get("resume")
    return bool(resume) and all(file["file_name"] != file_name for file in resume["files"])


def _note(job: Job, kept: dict[str, Any]) -> None:
    """Without a whole checkpoint a script begins anew, and is given nothing."""
    checkpoint = max(_checkpoints(job), key=lambda one: one.newness, default=None)
    if checkpoint is not None:
        fixed = [_file(job, row, fixed=True) for row in checkpoint.rows]
        resume = wire.Resume(
            files=[*fixed, *_metrics(job)],
            checkpoint=checkpoint.name,
            point=kept.get("point", {}),
        )
        kept = {**kept, "resume": asdict(resume)}
    elif _is_gone(job, kept):
        kept = {key: kept[key] for key in kept if key != "resume"}
    job.note_resume_point(kept)


def _is_gone(job: Job, kept: dict[str, Any]) -> bool:
    """Whether nothing is left of the run's own checkpoint that is named."""
    files = (kept.get("resume") or {}).get("files", [])
    names = [file["file_name"] for file in files if file["sha256"] is not None]
    own = all(file["experiment_uid"] == job.uid for file in files)
    return own and not SyncFile.objects.results().filter(job=job, name__in=names).exists()


def _checkpoints(job: Job) -> Iterator[Checkpoint]:
    """All that are whole. $LAB_CHECKPOINT is meant for this; of others, such as
    `run_001/ckpt_epoch3.pt`, that counts which the script wrote last."""
    whole = SyncFile.objects.results().filter(job=job, complete=True).select_related("job")
    folders: dict[str, dict[str, SyncFile]] = defaultdict(dict)
    for row in whole:
        if part := _FOLDER.fullmatch(row.name):
            folders[part["folder"]][part["file"]] = row
        elif _is_one(row.name):
            yield Checkpoint(row.name, [row])
    for folder, files in folders.items():
        if _is_whole(files.keys()):
            yield Checkpoint(folder, list(files.values()))


def _is_whole(files: Collection[str]) -> bool:
    shards = [shard for file in files if (shard := _SHARD.fullmatch(file))]
    has_all = bool(shards) and len(shards) == int(shards[0]["count"])
    has_weights = has_all or any(name in files for name in _WEIGHTS)
    return has_weights and all(name in files for name in _STATE)


def _results(job: Job, name: str) -> SyncFileQuerySet:
    return SyncFile.objects.results().filter(job=job, name=name)


def _metrics(job: Job) -> list[wire.ResumeFile]:
    return [_file(job, row, fixed=False) for row in _results(job, f"{job.run_name}.csv")]


def _file(job: Job, row: SyncFile, *, fixed: bool) -> wire.ResumeFile:
    return wire.ResumeFile(
        experiment_uid=job.uid,
        file_name=row.name,
        lay_as=row.name,
        size_bytes=row.size if fixed else None,
        sha256=row.sha256 if fixed else None,
    )
