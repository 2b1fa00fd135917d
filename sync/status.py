"""How far the server's copy of a run is behind the agent's (protocol §6.4)."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from devices.models import DeviceState
from experiments.models import Attempt, Job
from sync.models import SyncFile

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


def of(job: Job, now: datetime) -> Status:
    """From durable rows: what the last poll said there is, against what is stored."""
    attempt = job.newest_attempt()
    advertised = attempt.files_advertised if attempt else {}
    rows = {row.name: row for row in SyncFile.objects.results().filter(job=job)}
    gone = _is_gone(job, attempt, now)
    files = [_file(row, advertised.get(row.name), job, now, gone) for row in rows.values()]
    missing = sum(said["size_bytes"] for name, said in advertised.items() if name not in rows)
    behind = missing + sum(file.behind_bytes for file in files)
    states = {file.state for file in files}
    if missing:
        coming = not gone and now - attempt.files_advertised_at <= PROGRESS
        states.add(SyncState.SYNCING if coming else SyncState.OUTDATED)
    return Status(
        state=_worst(states),
        behind_bytes=behind,
        last_sync_at=max((row.synced_at for row in rows.values()), default=None),
        server_origin=attempt.device.origin if attempt else None,
        files=files,
    )


def _is_gone(job: Job, attempt: Attempt | None, now: datetime) -> bool:
    """Whether nobody knows what the running job has written since."""
    if attempt is None or not job.is_live:
        return False
    return attempt.device.state(now) == DeviceState.DISCONNECTED


def _file(
    row: SyncFile, said: dict[str, Any] | None, job: Job, now: datetime, gone: bool
) -> FileStatus:
    behind = _behind(row, said)
    waits = behind or row.outdated or (said is not None and job.has_ended and not row.complete)
    if gone:
        state = SyncState.OUTDATED
    elif not waits:
        state = SyncState.SYNCED
    elif now - row.synced_at <= PROGRESS:
        state = SyncState.SYNCING
    else:
        state = SyncState.OUTDATED
    return FileStatus(row, state, behind)


def _behind(row: SyncFile, said: dict[str, Any] | None) -> int:
    if said is None:
        return 0
    has = row.size if row.generation == said["generation"] else 0
    if row.generation > said["generation"]:
        return 0  # stored since that poll was sent
    return max(0, said["size_bytes"] - has)


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
        "files": {
            file.row.name: {
                "mtime": file.row.source_mtime,
                "size": file.row.size,
                "synced_at": _iso(file.row.synced_at),
                "generation": file.row.generation,
                "attempt": file.row.attempt,
                "sha256": file.row.sha256 or None,
                "complete": file.row.complete,
            }
            for file in status.files
        },
    }


def _iso(at: datetime | None) -> str | None:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ") if at else None
