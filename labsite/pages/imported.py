"""What the page of an imported run says of where it came from."""

from dataclasses import dataclass

from experiments.models import Job
from sync.models import SyncFile


@dataclass(frozen=True)
class Source:
    host: str
    folder: str
    other_name: str  # what it was called there, where that is not its name here
    missing: int  # files that have not come yet


def source_of(job: Job) -> Source | None:
    """None: it ran here. What was deleted here has come."""
    if job.imported_at is None:
        return None
    said = job.imported
    came = SyncFile.objects.filter(job=job, shelf=0, complete=True).count()
    other = said.name if said.name not in (job.run_name, job.name) else ""
    return Source(said.host, said.folder, other, max(0, said.file_count - came))
