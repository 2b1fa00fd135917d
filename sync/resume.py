"""What a next attempt may go on from: the script's own point, and the newest whole files."""

from dataclasses import asdict
from typing import Any

from agent import wire
from experiments.models import Attempt, Job
from experiments.models.event import change
from sync.models import SyncFile, SyncFileQuerySet


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
    checkpoint = _results(job, f"{job.run_name}.pt").filter(complete=True).first()
    if checkpoint is not None:
        resume = wire.Resume(
            files=[_file(job, checkpoint, fixed=True), *_metrics(job)],
            checkpoint=checkpoint.name,
            point=kept.get("point", {}),
        )
        kept = {**kept, "resume": asdict(resume)}
    job.note_resume_point(kept)


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
