"""Whether the disk holds what the database says of it; for after a restore of only one of them.

A file that is shorter than it should be shows by itself. That one of the same length holds other
bytes, an older checkpoint say, only its hash tells, and to read all files takes long: so this is
asked for by a person (`manage.py checkfiles`).
"""

from collections.abc import Iterator

from sync import storage
from sync.append import change
from sync.models import SyncFile
from sync.storage import Place

#: So long it is waited for one that is being written, or hashed as a whole.
WAIT_SECONDS = 600.0


def check_all() -> Iterator[tuple[SyncFile, bool]]:
    """Each file, and whether it is as it should be. One that is not is marked: agents that have it
    still are told so when they next ask, and send it again."""
    rows = SyncFile.objects.present().filter(job__deleted_at=None).select_related("job__project")
    for pk in list(rows.values_list("pk", flat=True)):
        row = rows.filter(pk=pk).first()
        if row is not None:
            yield row, _check(row)


def _check(row: SyncFile) -> bool:
    """
    Raises:
        FileBusy: it was being written for WAIT_SECONDS.
    """
    place = Place.of(row.job, row.name, row.shelf)
    with storage.locked(place, seconds=WAIT_SECONDS):
        row.refresh_from_db()
        if row.trash_id:
            return True  # deleted meanwhile: its bytes are on their way to the trash
        on_disk = storage.size_of(place)
        if on_disk >= row.size and _is_the_same(place, row):
            return True
        change(row, size=min(row.size, on_disk), outdated=True)
        return False


def _is_the_same(place: Place, row: SyncFile) -> bool:
    """As far as a hash is known."""
    return not row.sha256 or storage.sha256_of(place, row.size) == row.sha256
