"""How far the server's copy of a run is behind the agent's (protocol §6.4)."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from devices.models import DeviceState
from experiments.models import Attempt, Job
from experiments.states import Outcome
from sync import storage
from sync.models import SyncFile, Upload
from sync.storage import Place

#: A file that is behind and has moved within this time is on its way.
PROGRESS = timedelta(seconds=15)


class SyncState(models.TextChoices):
    SYNCED = "synced", _("synced")
    SYNCING = "syncing", _("syncing")
    OUTDATED = "outdated", _("behind")


@dataclass(frozen=True)
class FileStatus:
    row: SyncFile
    state: SyncState
    behind_bytes: int


@dataclass(frozen=True)
class Status:
    """Of one run. `state` is None while it has neither files nor an attempt that tells of any."""

    state: SyncState | None
    behind_bytes: int
    last_sync_at: datetime | None
    server_origin: str | None
    files: list[FileStatus]
    #: The number of the attempt that may write the files; None: nobody may.
    attempt: int | None
    left_out: list[dict[str, Any]]  # as agent.wire.LeftOut, by the newest attempt


def of(job: Job, now: datetime) -> Status:
    """From durable rows: what the last poll said there is, against what is stored."""
    attempt = job.newest_attempt()
    advertised = attempt.files_advertised if attempt else {}
    rows = {row.name: row for row in job.files.results()}
    deleted = job.files.filter(shelf=0, displaced=0).exclude(trash=None)
    unwanted = set(deleted.values_list("name", flat=True))
    uploads = {upload.name: upload for upload in job.uploads.filter(shelf=0)}
    gone = _is_gone(job, attempt, now)
    files = [
        _file(row, uploads.get(name), advertised.get(name), now, gone)
        for name, row in rows.items()
    ]
    missing = sum(
        _behind(None, uploads.get(name), said)
        for name, said in (attempt.awaited_files if attempt else {}).items()
        if name not in rows and name not in unwanted
    )
    behind = missing + sum(file.behind_bytes for file in files)
    states = {file.state for file in files}
    if missing or _is_to_come(job, attempt):
        moved_at = [upload.moved_at for upload in uploads.values()]
        moved_at += [row.synced_at for row in rows.values()]
        last = max(filter(None, [attempt.files_advertised_at, attempt.ended_at, *moved_at]))
        coming = not gone and now - last <= PROGRESS
        states.add(SyncState.SYNCING if coming else SyncState.OUTDATED)
    return Status(
        state=_worst(states),
        behind_bytes=behind,
        last_sync_at=max((row.synced_at for row in rows.values()), default=None),
        server_origin=attempt.device.origin if attempt else None,
        files=files,
        attempt=attempt.number if attempt and attempt.outcome != Outcome.LOST else None,
        left_out=attempt.files_left_out if attempt else [],
    )


def _is_to_come(job: Job, attempt: Attempt | None) -> bool:
    """Whether the agent of a run that has ended has not said yet that all of its files are here:
    what is there now may be all that the last poll told of, and that was before the end."""
    if attempt is None or attempt.started_at is None:
        return False
    return job.has_ended and attempt.awaits_files


def _is_gone(job: Job, attempt: Attempt | None, now: datetime) -> bool:
    """Whether nobody knows what the running job has written since."""
    if attempt is None or not job.is_live:
        return False
    return attempt.device.state(now) == DeviceState.DISCONNECTED


def _file(
    row: SyncFile,
    upload: Upload | None,
    said: dict[str, Any] | None,
    now: datetime,
    gone: bool,
) -> FileStatus:
    behind = _behind(row, upload, said) if said is not None else 0
    unhashed = said is not None and row.job.has_ended and not row.complete
    moved_at = max(row.synced_at, upload.moved_at) if upload else row.synced_at
    if gone:
        state = SyncState.OUTDATED
    elif not (behind or row.outdated or unhashed):
        state = SyncState.SYNCED
    elif now - moved_at <= PROGRESS:
        state = SyncState.SYNCING
    else:
        state = SyncState.OUTDATED
    return FileStatus(row, state, behind)


def _behind(row: SyncFile | None, upload: Upload | None, said: dict[str, Any]) -> int:
    """Bytes of the version that the agent tells of that have not come yet."""
    if row is not None and row.generation > said["generation"]:
        return 0  # stored since that poll was sent
    of_that = (one for one in (row, upload) if one and one.generation == said["generation"])
    return max(0, said["size_bytes"] - max((one.size for one in of_that), default=0))


def _worst(states: set[SyncState]) -> SyncState | None:
    order = (SyncState.OUTDATED, SyncState.SYNCING, SyncState.SYNCED)
    return next((state for state in order if state in states), None)


def as_json(job: Job, status: Status) -> dict[str, Any]:
    """The documented fields, and beside them what later versions added."""
    return {
        "experiment_uid": job.uid,
        "sync_status": status.state,
        "last_sync_at": _iso(status.last_sync_at),
        "server_origin": status.server_origin,
        "behind_bytes": status.behind_bytes,
        "attempt": status.attempt,
        "left_out": status.left_out,
        "files": {file.row.name: _file_as_json(job, file.row) for file in status.files},
    }


def _file_as_json(job: Job, row: SyncFile) -> dict[str, Any]:
    """What the disk has lost (files of an older backup under a newer database) is not told as
    stored: by this an agent finds out that it is to send it again."""
    on_disk = storage.size_of(Place.of(job, row.name))
    return {
        "mtime": row.source_mtime,
        "size": min(row.size, on_disk),
        "synced_at": _iso(row.synced_at),
        "generation": row.generation,
        "attempt": row.attempt,
        "sha256": row.sha256 or None,
        "complete": row.complete and on_disk >= row.size,
    }


def _iso(at: datetime | None) -> str | None:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ") if at else None
