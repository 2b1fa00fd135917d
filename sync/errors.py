"""What this app refuses, each with the truth to go on from (protocol §6, §7).

Refused
├── OffsetMismatch     the chunk does not begin where the file ends: `expected_offset`
├── Diverged           the bytes differ from those stored: begin a new generation
├── StaleGeneration    a newer generation or attempt has been seen: `attempt`, `generation`
├── ChecksumDiffers    the body is not what its header says: read it and send it again
├── Deleted            the job or the file was deleted: the file is settled
├── UploadExpired      nothing came for so long that what had come was thrown away
├── NameTaken          a file of the run is in the way: `file_name`, `attempt`, `generation`
├── FileBusy           another writer holds the file
├── DiskFull           nothing of it was kept
├── QuotaFull          nor here: the project may take no more room on the disk
├── PlanChanged        what would be freed is not what was shown: look again
├── NotInTrash         it was restored or removed already
├── PlaceTaken         another file lies where it was
└── WrongName          no file of this run may be called so
"""

from labsite.errors import BadRequest, Refused


class OffsetMismatch(Refused):
    code = "offset_mismatch"


class Diverged(Refused):
    code = "diverged"


class StaleGeneration(Refused):
    code = "stale_generation"


class ChecksumDiffers(Refused):
    status = 422
    code = "checksum_differs"
    retryable = True


class Deleted(Refused):
    status = 410
    code = "deleted"


class UploadExpired(Refused):
    status = 410
    code = "upload_expired"


class NameTaken(Refused):
    code = "name_taken"


class FileBusy(Refused):
    status = 423
    code = "file_busy"
    retryable = True


class DiskFull(Refused):
    status = 507
    code = "disk_full"
    retryable = True


class QuotaFull(Refused):
    status = 507
    code = "quota_full"
    retryable = True


class PlanChanged(Refused):
    code = "plan_changed"


class NotInTrash(Refused):
    code = "not_in_trash"


class PlaceTaken(Refused):
    code = "place_taken"


class WrongName(BadRequest):
    code = "wrong_name"
